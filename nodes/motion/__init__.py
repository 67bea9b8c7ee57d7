"""Motion modules in core's Stable Diffusion 1.5 MODELs."""
