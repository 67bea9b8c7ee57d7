"""Where a run writes its curves: TensorBoard files, or Weights & Biases, both through accelerate's trackers.

Accelerate writes; what it leaves to its user is here: where a resumed run begins again, and which run on the server a
folder is. `Accelerator.log` itself is not used: it takes the trackers' settings before the run's folder and its first
step are known, and the loop runs without an accelerator too.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from torch import Tensor

TRACKERS: Final = ("tensorboard", "wandb", "none")
PROJECT: Final = "videolcm"
IDENTITY: Final = "run_identity.json"


class Tracker(Protocol):
    """Takes named numbers and images."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""

    def image(self, step: int, name: str, pixels: Tensor) -> None:
        """Write an image, uint8 ``[H, W, 3]``."""

    def close(self) -> None:
        """Write out what is waiting."""


class _Accelerates:
    """One of accelerate's trackers as a `Tracker`."""

    def __init__(self, tracker: GeneralTracker, **image_options: Any) -> None:
        self.tracker, self.image_options = tracker, image_options
        tracker.start()

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""
        self.tracker.log(dict(values), step=step)

    def image(self, step: int, name: str, pixels: Tensor) -> None:
        """Write an image, uint8 ``[H, W, 3]``."""
        self.tracker.log_images({name: pixels.numpy()[None]}, step=step, **self.image_options)

    def close(self) -> None:
        """Write out what is waiting."""
        self.tracker.finish()


def _tensorboard(folder: Path, start: int) -> _Accelerates:
    """Event files for ``tensorboard --logdir FOLDER``."""
    # Steps that a kill took back are drawn again: the curves forget them.
    writer = TensorBoardTracker(folder.name, folder.parent, purge_step=start if start else None)
    return _Accelerates(writer, dataformats="NHWC")


def _wandb(folder: Path, config: Mapping[str, Any]) -> _Accelerates:
    """A run on a W&B server; the same folder continues the same run. Steps that a kill took back keep their numbers."""
    tracker = _Accelerates(wandb_tracker(folder))
    tracker.tracker.store_init_configuration(dict(config))
    return tracker


def wandb_tracker(folder: Path) -> WandBTracker:
    """Accelerate's tracker with the run that a folder is; the package ``wandb`` is needed when it starts only."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dir": str(folder), "id": run_identity(folder), "name": run_name(folder), "resume": "allow"}
    return WandBTracker(PROJECT, **settings)


def run_identity(folder: Path) -> str:
    """The identity on a server of the run in a folder: drawn once and kept in it, so that a resumed run goes on.

    A folder that was moved keeps its run; a copy of a folder that is still there is a run of its own.

    Args:
        folder: of the tracker's files; it must exist.

    Returns:
        letters and digits only.

    Raises:
        ValueError: the file that keeps it is damaged.
    """
    file, here = folder / IDENTITY, str(folder.resolve())
    if file.is_file():
        known = _identity(file)
        original = Path(known["folder"]) / IDENTITY
        copied = original.is_file() and not original.samefile(file) and _identity(original)["id"] == known["id"]
        if not copied and known["folder"] == here:
            return known["id"]
        identity = uuid.uuid4().hex if copied else known["id"]
    else:
        identity = _earlier_identity(folder) or uuid.uuid4().hex
    temporary = file.with_name(f"{IDENTITY}.{os.getpid()}.part")
    temporary.write_text(json.dumps({"id": identity, "folder": here}) + "\n", encoding="utf-8")
    temporary.replace(file)
    return identity


def _identity(file: Path) -> dict[str, str]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {"id": str(known["id"]), "folder": str(known["folder"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}); expected `id` and `folder`. Delete it to begin a "
            "new curve on the server."
        ) from error


def _earlier_identity(folder: Path) -> str | None:
    """Up to version 0.3 the identity was the run folder's name: such a run goes on as it began."""
    name = folder.resolve().parent.name
    return name if any(p.name.endswith(f"-{name}") for p in folder.glob("wandb/*run-*")) else None


def run_name(folder: Path) -> str:
    """What a server shows: the run's folder and the one it lies in, in characters that every server takes.

    Args:
        folder: of the tracker's files, ``events`` in the run's folder.
    """
    parts = [p for p in folder.resolve().parent.parts[1:][-2:] if p]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.")[-100:] or "run"


def check_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or not installed, before anything was computed.

    Raises:
        ValueError: the name is unknown.
        ModuleNotFoundError: its package is missing.
    """
    if name not in TRACKERS:
        raise ValueError(f"the tracker is {name!r}; allowed: {', '.join(TRACKERS)}.")
    try:
        if name == "tensorboard":
            import torch.utils.tensorboard  # noqa: F401
        elif name == "wandb":
            import wandb  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"the tracker {name!r} needs the package {name}, which is not installed. Install it, or choose another "
            f"with --tracker ({', '.join(t for t in TRACKERS if t != name)})."
        ) from error


def open_tracker(name: str, folder: Path, start: int, config: Mapping[str, Any]) -> Tracker | None:
    """The tracker of a run, None for "none".

    Args:
        name: one of `TRACKERS`.
        folder: for its files.
        start: the step that the run begins or resumes at.
        config: the resolved recipe, kept with the curves where the tracker can.
    """
    check_tracker(name)
    if name == "none":
        return None
    return _tensorboard(folder, start) if name == "tensorboard" else _wandb(folder, config)
