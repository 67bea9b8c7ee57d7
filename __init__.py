"""VideoLCM: few-step latent consistency video models as native ComfyUI models."""

WEB_DIRECTORY = "./nodes/web"


async def comfy_entrypoint():
    """Called by ComfyUI after loading the pack; nothing is imported before."""
    from .nodes import VideoLCMExtension

    return VideoLCMExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
