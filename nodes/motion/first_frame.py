"""AnimateLCM's first frame: features of an image, added in the UNet's input blocks before the motion modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from ...videolcm_core.networks.animatediff.motion import MotionNetwork
from ..model.windows import window_frames

SIGMAS: Final = "videolcm_first_frame_sigmas"
"""Of ``transformer_options``: noise levels between which the image acts, where that is not the whole run: reading
the level of a call waits for the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstFrame:
    """An image for the encoder of the motion modules' file.

    Attributes:
        latents: Scaled latents ``[1, 4, h, w]``, or one for each frame ``[F, 4, h, w]``.
        strength: Factor on the features.
        motion_scale: Of the sinusoid of frame numbers; the authors' 0.8.
        start: Part of the run, 0 to 1, from which on it acts.
        end: Part of the run up to which it acts.
        computed: Features of this run by frames, size and window; they depend on neither prompt nor noise level.
    """

    latents: Tensor
    strength: float = 1.0
    motion_scale: float = 0.8
    start: float = 0.0
    end: float = 1.0
    computed: dict[Any, list[Tensor]] = field(default_factory=dict)


def features_of(
    image: FirstFrame, network: MotionNetwork, x: Tensor, frames: int, options: dict[str, Any]
) -> list[Tensor] | None:
    """One feature for each level of the UNet, ``[F, C_k, h / 2**k, w / 2**k]``; None where the image does not act.

    Args:
        image: The image.
        network: With an image encoder.
        x: Frames in the UNet, for device and precision.
        frames: F.
        options: The host's ``transformer_options``.
    """
    if image.strength == 0 or not _acts(options):
        return None
    chosen = _frames_of_window(image.latents, frames, options)
    key = (frames, chosen, x.dtype, x.device)
    if key not in image.computed:
        latents = image.latents if chosen is None else image.latents[list(chosen)]
        latents = latents.to(x)
        latents = latents.expand(frames, -1, -1, -1) if len(latents) == 1 else latents
        assert network.img_encoder is not None
        features = network.img_encoder(latents, frames, image.motion_scale)
        image.computed[key] = [image.strength * feature for feature in features]
    return image.computed[key]


def _acts(options: dict[str, Any]) -> bool:
    bounds, sigmas = options.get(SIGMAS), options.get("sigmas")
    if bounds is None or sigmas is None:
        return True
    sigma = float(sigmas.max())
    return bounds[1] <= sigma <= bounds[0]


def _frames_of_window(latents: Tensor, frames: int, options: dict[str, Any]) -> tuple[int, ...] | None:
    """Which of the images belong to the frames at hand: those of a context window, or the first ones."""
    if len(latents) == 1:
        return None
    indices = window_frames(options)
    indices = list(range(frames)) if indices is None else indices
    return tuple(index % len(latents) for index in indices[:frames])
