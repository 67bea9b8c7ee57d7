"""Depth, sketch and motion of existing clips."""
