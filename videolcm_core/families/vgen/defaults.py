"""What files of the VGen family are known to be where they do not say it: the one table of their defaults.

The released files have no metadata. Which release a network is can be seen in its shape, all but one thing: VideoLCM's
students have the shapes of the TF-T2V teachers they were distilled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ...files.settings import Defaults, FileSettings
from ...networks.vgen.config import UNetConfig

# ModelScope and the first VideoComposer predict noise on Stable Diffusion's schedule, and were released as teachers.
MODELSCOPE: Final = FileSettings(
    family="modelscope", prediction="eps", zero_terminal_snr=False, sampling="teacher", width=256, height=256
)
FIRST_VIDEOCOMPOSER: Final = replace(MODELSCOPE, family="videocomposer")
# TF-T2V with image tokens and nothing else was released as a teacher only.
TF_T2V: Final = FileSettings(family="tf-t2v", sampling="teacher")
# Text alone, or every condition: TF-T2V's teachers and VideoLCM's students alike.
TEXT: Final = FileSettings(family="tf-t2v")
COMPOSITIONAL: Final = FileSettings(family="videocomposer")
# The embedded family says what it predicts; older files leave out the rest.
MINI_FAMILY: Final = "videolcm-mini"
_MINI: Final[dict[str, Any]] = {"width": 64, "height": 64, "dropout": 0.0, "latent_scale": 1.0}


def released_settings(config: UNetConfig) -> FileSettings:
    """Settings of the release that a network has the shape of; ``sampling`` is None where two releases share it."""
    if config.concat_channels == 0:
        return MODELSCOPE
    if "image" in config.conditions and config.num_image_tokens == 1:
        return FIRST_VIDEOCOMPOSER
    if not config.conditions:
        return TEXT
    return TF_T2V if config.conditions == {"image"} else COMPOSITIONAL


def defaults_of(config: UNetConfig, diffusers: bool = False) -> Defaults:
    """What a network's file is taken to say where it says nothing.

    What it does say decides the rest: noise is not predicted on a schedule whose last timestep is pure noise, v of this
    family is; a file that says it predicts noise and no more is a teacher, as all released ones are.

    Args:
        config: Shape of the network.
        diffusers: Whether the file is diffusers' own.
    """

    def defaults(given: Mapping[str, Any]) -> FileSettings:
        found = replace(released_settings(config), head_dim=config.head_dim)
        if diffusers:
            found = replace(found, family="diffusers")
        if str(given.get("family", "")).startswith(MINI_FAMILY):
            found = replace(found, **_MINI)
        prediction, zero_terminal_snr = given.get("prediction"), given.get("zero_terminal_snr")
        if prediction == "eps":
            found = replace(found, zero_terminal_snr=False, sampling=found.sampling or "teacher")
        elif prediction == "v":
            found = replace(found, zero_terminal_snr=True)
        elif prediction is None and zero_terminal_snr:
            found = replace(found, prediction="v")
        return found

    return defaults
