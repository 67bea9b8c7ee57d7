"""Reading, recognising, converting and writing checkpoint files."""

from .errors import CheckpointError

__all__ = ["CheckpointError"]
