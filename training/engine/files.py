"""The running checkpoint: written whole or not at all, read with an error that says what to do."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill or a full disk leaves the old file whole.

    Args:
        state: tensors, numbers, strings and dicts of them.
        path: the file.

    Raises:
        OSError: it cannot be written; the file of before is untouched and the part written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            # Without it a power cut after the rename can leave an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = _disk_error(error)
        if reason is None:
            raise
        old = "it still holds the state saved before" if path.exists() else "nothing was saved before"
        raise OSError(
            reason.errno,
            f"{path} cannot be written ({reason.strerror}); {old}. Make room on that disk and repeat the same command",
        ) from error


def _disk_error(error: BaseException | None) -> OSError | None:
    """The system's error behind another one: torch's writer hides it in a RuntimeError."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a running checkpoint.

    Raises:
        ValueError: the file is none.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is no running checkpoint ({type(error).__name__}: {str(error)[:200]}). Give another --out, or "
            "delete the file to begin anew."
        ) from error
    if not isinstance(saved, dict) or not {"step", "task"} <= set(saved):
        raise ValueError(
            f"{path} is no running checkpoint: it has {sorted(saved)[:5] if isinstance(saved, dict) else type(saved)}; "
            "expected `step` and `task`. Give another --out."
        )
    return saved


def released_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights that a run releases, out of its checkpoint: its average, or the network itself without one."""
    task = load_checkpoint(path)["task"]
    for name in ("average", "student", "model"):
        if name in task:
            return task[name]
    raise ValueError(f"{path} holds {sorted(task)}; expected `average`, `student` or `model` among them.")
