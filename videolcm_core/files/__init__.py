"""Reading, recognising, converting and writing checkpoint files."""

from ..files.errors import CheckpointError

__all__ = ["CheckpointError"]
