"""Layouts of videos: this project's ``[B, C, F, h, w]`` and the host's frames as a batch."""

from torch import Tensor


def frames_first(video: Tensor) -> Tensor:
    """``[B, C, F, h, w]`` -> the host's ``[B * F, C, h, w]``."""
    return video.movedim(2, 1).flatten(0, 1)
