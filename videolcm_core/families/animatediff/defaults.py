"""What files of motion modules are known to be where they do not say it: the one table of their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from ...files.settings import Defaults, FileSettings

UNKNOWN: Final = "animatelcm or animatediff-v2"
"""Modules in diffusers' layout: both releases have the same tensors there."""

STABLE_DIFFUSION: Final = FileSettings(
    family="sd15",
    prediction="eps",
    zero_terminal_snr=False,
    sampling="teacher",
    width=512,
    height=512,
    dropout=0.0,
)
"""A UNet of Stable Diffusion 1.5's layout, which the modules run in."""
_ANIMATELCM: Final = FileSettings(
    family="animatelcm",
    prediction="eps",
    beta_schedule="linear",
    zero_terminal_snr=False,
    sampling="lcm",
    original_steps=100,
    timestep_scaling=10.0,
    cfg=1.5,
    steps=4,
    width=512,
    height=512,
)
_ANIMATEDIFF: Final = replace(_ANIMATELCM, family="animatediff", sampling="teacher", cfg=7.5, steps=25)
RELEASED: Final[dict[str, FileSettings]] = {
    "animatelcm": _ANIMATELCM,
    # The authors' demo of image to video: more betas, a grid of 200, no guidance.
    "animatelcm-i2v": replace(_ANIMATELCM, family="animatelcm-i2v", original_steps=200, beta_end=0.014, cfg=1.0),
    "animatediff-v1": replace(_ANIMATEDIFF, family="animatediff-v1"),
    "animatediff-v2": replace(_ANIMATEDIFF, family="animatediff-v2"),
    "animatediff-v3": replace(_ANIMATEDIFF, family="animatediff-v3"),
    UNKNOWN: replace(_ANIMATELCM, family="diffusers", sampling=None, cfg=None, steps=None),
}


def defaults_of(release: str, layout: str) -> Defaults:
    """What a file is taken to say where it says nothing.

    A file that names its family is of that release; one that says how it samples is not asked again.

    Args:
        release: One of `RELEASED`.
        layout: "authors" or "diffusers": which group norm the modules were trained or published with.
    """

    def defaults(given: Mapping[str, Any]) -> FileSettings:
        family = str(given.get("family", ""))
        named = [name for name in RELEASED if family.startswith(name)]
        found = RELEASED[max(named, key=len) if named else release]
        if found.sampling is None and given.get("sampling"):
            found = RELEASED["animatelcm" if given["sampling"] == "lcm" else "animatediff-v2"]
        return replace(found, group_norm="video" if layout == "diffusers" else "frame")

    return defaults
