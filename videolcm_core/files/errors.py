"""The error of unusable checkpoint files."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint cannot be used.

    Attributes:
        file: Name of the file.
        got: What was found in it.
        allowed: What would have worked.
        next_step: What the user can do.
    """

    def __init__(self, file: object, got: str, allowed: str, next_step: str) -> None:
        self.file, self.got, self.allowed, self.next_step = str(file), got, allowed, next_step
        super().__init__(f"{file}: got {got}; allowed: {allowed}. {next_step}")


def name_some(keys: list[str], most: int = 4) -> str:
    """The first few keys and how many there are: "a, b, c and 9 more (12 in all)"."""
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more ({len(keys)} in all)"
