"""VGen's family: detection and key maps."""
