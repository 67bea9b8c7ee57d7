"""Samplers, schedulers and latents."""
