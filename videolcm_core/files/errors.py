"""The errors of unusable checkpoint files."""

from __future__ import annotations

from typing import Final

_MOST: Final = {"file": 200, "got": 600, "allowed": 400, "next_step": 250}
"""Characters of each part of a message; together with the words between them at most 1500."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used.

    Each part is shortened, so that no text out of a hostile file fills the log.

    Attributes:
        file: Name of the file.
        got: What was found in it.
        allowed: What would have worked.
        next_step: What the user can do.
        checked: Whether the file's checksum was looked at.
    """

    checked = False

    def __init__(self, file: object, got: str, allowed: str, next_step: str) -> None:
        parts = {"file": str(file), "got": got, "allowed": allowed, "next_step": next_step}
        parts = {name: shorten(text, _MOST[name]) for name, text in parts.items()}
        self.file, self.got, self.allowed, self.next_step = parts.values()
        super().__init__(f"{self.file}: got {self.got}; allowed: {self.allowed}. {self.next_step}")


class SettingsError(CheckpointError):
    """An entry of a checkpoint's metadata cannot be used.

    Attributes:
        entry: Its name without ``videolcm.``.
    """

    def __init__(self, file: object, entry: str, got: str, allowed: str, next_step: str) -> None:
        self.entry = entry
        super().__init__(file, got, allowed, next_step)


def shorten(text: str, most: int = 60) -> str:
    """The text, with its middle left out where it is longer than ``most`` characters (at least 10)."""
    if len(text) <= most:
        return text
    kept = most - len(" ... ")
    return f"{text[: kept - kept // 3]} ... {text[len(text) - kept // 3 :]}"


def name_some(keys: list[str], most: int = 4) -> str:
    """The first few keys and how many there are: "a, b, c and 9 more (12 in all)"."""
    shown = ", ".join(shorten(key, 120) for key in keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more ({len(keys)} in all)"
