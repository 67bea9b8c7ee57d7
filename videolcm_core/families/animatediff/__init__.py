"""AnimateDiff and AnimateLCM: files of motion modules for Stable Diffusion 1.5."""
