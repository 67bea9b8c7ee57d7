"""Core's context windows, with the settings that every host's node knows."""

from __future__ import annotations

import inspect
from typing import Any


def window_settings(length: int = 8, overlap: int = 4, **options: Any) -> dict[str, Any]:
    """Inputs of core's node, but for the MODEL."""
    return {
        "context_length": length,
        "context_overlap": overlap,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 0,
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
        "latent_retain_index_list": "",
        "causal_window_fix": False,
        **options,
    }


def context_windows(host: Any, model: Any, length: int = 8, overlap: int = 4, **options: Any) -> Any:
    """The MODEL with windows over its frames; inputs that an older host's node lacks are left out."""
    settings = window_settings(length, overlap, **options)
    known = inspect.signature(host.nodes.NODE_CLASS_MAPPINGS["ContextWindowsManual"].execute).parameters
    given = {name: value for name, value in settings.items() if name in known}
    return host.run("ContextWindowsManual", model=model, **given)[0]
