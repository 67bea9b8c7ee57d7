"""Pixel conditions of a video: as they travel in CONDITIONING, and as the network takes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.media.condition_values import (
    DEPTH_SCALE,
    depth_from_image,
    masked_from_frames,
    motion_from_image,
    rgb_from_image,
    sketch_from_image,
)
from ...videolcm_core.media.resize import resize_frames, resize_mask, resize_motion
from ...videolcm_core.networks.vgen.conditions import CONDITION_CHANNELS
from .. import host
from .frames import hold_last

log = logging.getLogger(__name__)

CONDITIONS_KEY: Final = "videolcm_conditions"
KINDS: Final = {
    "depth": "depth",
    "sketch": "sketch",
    "single sketch": "single_sketch",
    "first frame": "local_image",
    "motion": "motion",
}
"""What users choose, and the network's names."""
NAMES: Final = {kind: name for name, kind in KINDS.items()} | {"masked": "inpainting", "image": "image style"}
STILLS: Final = ("single_sketch", "local_image")
"""One frame stands for all."""
LATENT_PIXELS: Final = 8

# The encoders attend over all frames and were trained on 16, so longer videos are encoded in overlapping parts.
LONGEST: Final = 32
WINDOW: Final = 16
STRIDE: Final = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Condition:
    """One condition, as the graph gave it: size and length are made to fit when the sampler knows the latent.

    Attributes:
        kind: The network's name, see `KINDS`; or "masked".
        frames: ``[F, H, W, 3]``; never changed.
        strength: Factor on what the encoder makes of it.
        fit: One of `resize.FITS`.
        depth_scale: Network value of white, for depth.
        invert: Black for white, for depth and sketches.
        mask: ``[F or 1, H, W]``, 1 where the model shall paint, for "masked".
    """

    kind: str
    frames: Tensor
    strength: float = 1.0
    fit: str = "crop"
    depth_scale: float = DEPTH_SCALE
    invert: bool = False
    mask: Tensor | None = None


def check_supported(kind: str, available: Iterable[str]) -> None:
    """Refuse a condition that a network has no encoder for.

    Raises:
        ValueError: Naming the condition, what the network has, and models that have it.
    """
    available = frozenset(available)
    if kind in available:
        return
    has = ", ".join(sorted(NAMES.get(name, name) for name in available))
    own = "" if kind == "image" else "videolcm-mini-vcomposer.safetensors, which comes with this pack, or "
    raise ValueError(
        f"This model has no encoder for the condition {NAMES.get(kind, kind)!r}; "
        + (f"it has: {has}. " if has else "it is a text-only model and has none. ")
        + f"Load a compositional model: {own}the authors' videolcm_vcomposer_non_ema_914000.pth; or remove the "
        f"condition."
    )


def encode_conditions(
    network: Any, conditions: Iterable[Condition], num_frames: int, size: tuple[int, int], device: Any, dtype: Any
) -> Tensor:
    """Encode conditions for a latent and sum them.

    Args:
        network: The `HostUNet`, loaded.
        conditions: In any order; the sum does not depend on it.
        num_frames: F of the latent.
        size: Height and width of the latent.
        device: Where the network computes.
        dtype: The network's compute precision.

    Returns:
        ``[F, 8, h, w]`` float32 on ``device``.

    Raises:
        ValueError: If the network has no encoder for a condition.
    """
    conditions = sorted(conditions, key=lambda c: list(CONDITION_CHANNELS).index(c.kind))
    for condition in conditions:
        check_supported(condition.kind, network.config.conditions)
    host.tell(*(note for c in conditions if (note := length_note(c, num_frames))))
    # Summed in the network's own order: floating-point addition in another would differ in the last digits.
    total: Tensor | None = None
    for condition in conditions:
        pixels = condition_values(condition, num_frames, size[1] * LATENT_PIXELS, size[0] * LATENT_PIXELS)
        encoded = _encode(network, condition.kind, pixels.to(device, dtype), size).float() * condition.strength
        # A still is the same for the encoder's attention over frames, however often it is repeated.
        encoded = encoded.expand(num_frames, -1, -1, -1)
        total = encoded if total is None else total + encoded
    assert total is not None
    return total


def condition_values(condition: Condition, num_frames: int, width: int, height: int) -> Tensor:
    """The network's values of a condition: ``[F, c, height, width]``, or ``[1, c, height, width]`` for a still."""
    kind, fit = condition.kind, condition.fit
    frames = condition.frames[:1] if kind in STILLS else _fit_length(condition, num_frames)
    if condition.invert:
        frames = 1.0 - frames
    if kind == "motion":
        return motion_from_image(resize_motion(frames, width, height, fit))
    frames = resize_frames(frames, width, height, fit)
    if kind == "depth":
        return depth_from_image(frames, condition.depth_scale)
    if kind == "masked":
        assert condition.mask is not None
        hole = resize_mask(hold_last(condition.mask, len(frames)), width, height, fit)
        return masked_from_frames(rgb_from_image(frames), hole[:, None])
    return rgb_from_image(frames) if kind == "local_image" else sketch_from_image(frames)


def length_note(condition: Condition, num_frames: int) -> str | None:
    """What is done about a condition of another length than the video, or None."""
    count, name = len(condition.frames), NAMES[condition.kind]
    if condition.kind in STILLS or count == num_frames:
        return None
    lengths = f"the {name} condition has {count} frame{'s' * (count > 1)} and the video {num_frames}"
    if count < num_frames:
        return f"{lengths}: the last one is held. Give it as many as the latent has (Prepare Condition Frames)."
    return f"{lengths}: the first {num_frames} are used. Choose others with `start` of Prepare Condition Frames."


def _fit_length(condition: Condition, num_frames: int) -> Tensor:
    frames, mask = condition.frames, condition.mask
    still = len(frames) == 1 and (mask is None or len(mask) == 1)
    return frames if still else hold_last(frames, num_frames)


def _encode(network: Any, kind: str, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    count = len(pixels)
    if count <= LONGEST:
        return network.encode_conditions(size, **{kind: pixels})[0].movedim(1, 0)
    # Each frame lies in two windows, whose weights go up and down linearly and add up to the same everywhere.
    rising = torch.arange(WINDOW, device=pixels.device) + 0.5
    ramp = rising.minimum(rising.flip(0))[:, None, None, None]
    total = weights = None
    for start in window_starts(count):
        part = _encode(network, kind, pixels[start : start + WINDOW], size).float()
        if total is None or weights is None:
            total, weights = part.new_zeros(count, *part.shape[1:]), part.new_zeros(count, 1, 1, 1)
        total[start : start + WINDOW] += part * ramp
        weights[start : start + WINDOW] += ramp
    assert total is not None and weights is not None
    return total / weights


def window_starts(count: int) -> list[int]:
    """First frames of the windows of 16, 8 apart, the last one ending with the video."""
    starts = list(range(0, count - WINDOW, STRIDE))
    return [*starts, count - WINDOW]
