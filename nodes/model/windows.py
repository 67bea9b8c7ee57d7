"""The host's context windows: which frames of the video a call holds."""

from __future__ import annotations

from typing import Any


def window_frames(options: dict[str, Any]) -> list[int] | None:
    """Frames of the video in a context window, in order; None without windows.

    The host may put the frame before a window at its beginning, and takes it off the result.

    Args:
        options: The host's ``transformer_options``.
    """
    window = options.get("context_window")
    if window is None:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    before = [anchor] if anchor is not None and anchor >= 0 else []
    return [*before, *window.index_list]
