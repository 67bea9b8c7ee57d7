"""Every failure while a file is being used becomes the one error that names the file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError

from ..failures import READING
from .checksums import SUMS_NAME, fits_checksum
from .errors import CheckpointError, shorten

AGAIN: Final = "Download or copy the file again and compare its size with the source."
_FAILURES: Final[tuple[type[Exception], ...]] = (*READING, pickle.PickleError, SafetensorError)
_DAMAGED: Final = (
    f"Get it again from where it came from. A file of this pack comes back with `git checkout -- models` in the pack's "
    f"folder, or with the pack; a file changed on purpose needs its line in {SUMS_NAME} changed or removed."
)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Name the file in whatever fails inside, and say whether its checksum tells that it is damaged.

    Interrupts and a full device pass: they are not the file's fault.

    Args:
        path: Of the file.

    Raises:
        CheckpointError: If what is inside fails.
    """
    path = Path(path)
    try:
        yield
    except CheckpointError as error:
        damaged = _damaged(error, path)
        if damaged is None:
            raise
        raise damaged from error
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        got = f"something that cannot be used: {cause(error)}"
        named = CheckpointError(path.name, got, "a whole file of a known layout", AGAIN)
        raise _damaged(named, path) or named from error


def cause(error: BaseException) -> str:
    """What an exception says, in one short line, without torch's advice to run what is inside a file."""
    text = " ".join(str(error).split())
    text = re.split(r"[^.:;]*\b(?:weights_only|add_safe_globals|arbitrary code)\b", text)[0].strip(" .,:;")
    return shorten(text, 200) if text else type(error).__name__


def _damaged(error: CheckpointError, path: Path) -> CheckpointError | None:
    """The error of a damaged file, where its checksum tells that it is one; each error is asked once."""
    if error.checked:
        return None
    error.checked = True
    if not path.is_file() or fits_checksum(path) is not False:
        return None
    got = f"a damaged file, whose bytes do not fit its checksum ({shorten(error.got, 400)})"
    damaged = CheckpointError(error.file, got, error.allowed, _DAMAGED)
    damaged.checked = True
    return damaged
