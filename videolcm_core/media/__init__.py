"""Videos, images and what their values mean."""
