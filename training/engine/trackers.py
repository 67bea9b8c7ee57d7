"""Where a run writes its curves: TensorBoard files, or Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from torch import Tensor

TRACKERS: Final = ("tensorboard", "wandb", "none")


class Tracker(Protocol):
    """Takes named numbers and pictures."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""

    def picture(self, step: int, name: str, pixels: Tensor) -> None:
        """Write a picture, uint8 ``[H, W, 3]``."""

    def close(self) -> None:
        """Write out what is waiting."""


class TensorBoard:
    """Event files for ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps that a kill took back are drawn again: the curves forget them.
        self.writer = SummaryWriter(str(folder), purge_step=start if start else None)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: Tensor) -> None:
        """Write a picture, uint8 ``[H, W, 3]``."""
        self.writer.add_image(name, pixels.numpy(), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Write out what is waiting."""
        self.writer.close()


class WeightsAndBiases:
    """A run on a W&B server; the same folder continues the same run."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project="videolcm", dir=str(folder), id=folder.resolve().parent.name, resume="allow", config=dict(config)
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers of a step."""
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: Tensor) -> None:
        """Write a picture, uint8 ``[H, W, 3]``."""
        self.run.log({name: self.wandb.Image(pixels.numpy())}, step=step)

    def close(self) -> None:
        """Write out what is waiting."""
        self.run.finish()


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
    return TensorBoard(folder, start) if name == "tensorboard" else WeightsAndBiases(folder, config)
