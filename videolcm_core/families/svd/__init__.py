"""Stable Video Diffusion: names of its weights, and AnimateLCM-SVD as a checkpoint."""
