"""Node schemas that also load in hosts whose API lacks a newer option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

# Options that only decorate: an older host shows the node without them.
OPTIONAL_SCHEMA = ("search_aliases", "essentials_category")
OPTIONAL_INPUT = ("advanced",)

# What people type who look for a video model without knowing this one's name, and the nodes that begin such a graph.
FAST = ("fast video", "turbo", "lightning", "few steps", "distilled", "animate")
SEARCHED: dict[str, tuple[str, ...]] = {
    "VideoLCMCheckpointLoader": ("t2v", "i2v", "v2v", "text to video", "image to video", "video to video", *FAST),
    "VideoLCMModelLoader": ("t2v", "text to video", *FAST),
    "VideoLCMSampler": ("t2v", "i2v", "v2v", "text to video", "image to video", "video to video", *FAST),
    "VideoLCMApplyCondition": ("i2v", "v2v", "image to video", "video to video", "animate"),
    "VideoLCMInpaintCondition": ("v2v", "video to video"),
    "VideoLCMPrepareFrames": ("v2v", "video to video"),
    "VideoLCMMotionLoader": ("t2v", "i2v", "text to video", "image to video", "sd1.5", *FAST),
    "VideoLCMMotionApply": ("t2v", "i2v", "v2v", "text to video", "image to video", "video to video", "sd1.5", *FAST),
    "VideoLCMFirstFrame": ("i2v", "image to video", "start frame"),
}


def _known(function: Callable, options: dict[str, Any], optional: Sequence[str]) -> dict[str, Any]:
    accepted = inspect.signature(function).parameters
    return {key: value for key, value in options.items() if key in accepted or key not in optional}


def schema(**options: Any) -> io.Schema:
    """`io.Schema` without the decorations this host does not know, found by what people type too."""
    words = (*options.get("search_aliases", ()), *SEARCHED.get(options["node_id"], ()))
    options["search_aliases"] = list(dict.fromkeys(words))
    return io.Schema(**_known(io.Schema, options, OPTIONAL_SCHEMA))


def make(kind: Any, name: str, **options: Any) -> Any:
    """An input of ``kind`` (such as `io.Int`) without the decorations this host does not know."""
    return kind.Input(name, **_known(kind.Input.__init__, options, OPTIONAL_INPUT))


def combo(name: str, options: Sequence[str], default: str | None, **extra: Any) -> Any:
    """A list to choose from; a default that is not in the list is left out, as the host would refuse it."""
    if default in options:
        extra["default"] = default
    return make(io.Combo, name, options=list(options), **extra)
