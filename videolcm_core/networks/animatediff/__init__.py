"""AnimateDiff: motion modules for Stable Diffusion 1.5, and AnimateLCM's image encoder."""
