"""Depth, sketch and motion of a user's frames."""
