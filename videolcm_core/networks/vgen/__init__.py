"""The UNet of VGen's family: VideoLCM, TF-T2V, ModelScope, VideoComposer."""
