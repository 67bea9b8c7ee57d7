"""Families of AnimateDiff: motion modules for Stable Diffusion 1.5, its UNet, and their LoRAs."""
