"""Files to MODEL, CLIP and VAE."""
