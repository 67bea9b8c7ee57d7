"""The maths of diffusion and consistency; no networks."""
