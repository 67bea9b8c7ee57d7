"""The running checkpoint: written whole or not at all, checked when it is read, locked while a run lasts."""

from __future__ import annotations

import contextlib
import os
import pickle
import platform
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from videolcm_core.files.writing import whole_file

BY_NAME: Final = ("average", "student", "model")
"""Weights that a checkpoint without ``released`` releases: the first of these that it has."""


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill or a full disk leaves the old file whole.

    Args:
        state: tensors, numbers, strings and dicts of them.
        path: the file.

    Raises:
        OSError: it cannot be written; the file of before is untouched and the part written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            # Without it a power cut after the rename can leave an empty file.
            os.fsync(file.fileno())
    except BaseException as error:
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


def verified(path: Path) -> Path:
    """The same path, if every record of the file is as it was written.

    torch writes a zip archive with a checksum (CRC-32) of every record and does not look at it when it reads.

    Raises:
        ValueError: a record is not; the file was damaged on the disk or on its way.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # a damaged directory fails in many ways
        raise ValueError(_damaged(path, f"{type(error).__name__}: {error}")) from error
    if bad is not None:
        raise ValueError(_damaged(path, f"the checksum of {bad} does not match"))
    return path


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path} is no whole checkpoint ({what[:200]}); allowed: a file as this program wrote it. Take a copy from "
        "before, or give another --out to begin anew."
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a running checkpoint.

    Raises:
        ValueError: the file is none, or damaged.
    """
    try:
        saved = torch.load(verified(path), map_location="cpu", weights_only=True)
    except (OSError, ValueError):
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


def load_tensors(path: Path) -> dict[str, Any] | None:
    """What `save_atomically` wrote, or None where there is no such file or it is damaged."""
    try:
        return torch.load(verified(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None


def released_weights(saved: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The weights that a run releases, out of its checkpoint: those that its recipe names (``release``).

    Checkpoints from before 0.4 say it in their recipe or not at all: their average, or the network itself.

    Raises:
        ValueError: the checkpoint has no such weights.
    """
    task = saved["task"]
    named = saved.get("released") or saved.get("description", {}).get("release")
    name = named or next((n for n in BY_NAME if n in task), None)
    if name is None or not isinstance(task.get(name), dict):
        raise ValueError(
            f"{path} holds {', '.join(sorted(map(str, task)))} and releases {name or 'none of them'}; expected "
            f"{' or '.join(BY_NAME)} among them. Give a checkpoint of a finished or running training."
        )
    return task[name]


def released_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights that a run releases, out of its checkpoint's file; see `released_weights`."""
    return released_weights(load_checkpoint(path), path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run's checkpoint against a second run with the same name, until the block or the process ends.

    Args:
        path: the checkpoint; the lock is a file beside it, which the system frees when its process ends.

    Raises:
        ValueError: another process holds it; the message names that one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with lock.open("a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise ValueError(
                f"{path} is in use by {owner}, and two runs would write over each other. Wait for it, stop it, or give "
                "another --out."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            # Emptied, not deleted: a process that waits for a deleted file would hold another one.
            with contextlib.suppress(OSError, ValueError):
                file.truncate(0)


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
