"""Depth, sketch, first frame, hole, motion and style."""
