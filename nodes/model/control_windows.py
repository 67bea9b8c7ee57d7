"""ControlNets and T2I adapters inside context windows: each window gets the hints of its own frames.

The host hands the first frames of a ControlNet's hints to every window. The conditions of a call come by a wrapper; for
the time of the call, every control in them holds the hints of the window's frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .. import host
from .windows import window_frames

KEY = "videolcm_control_windows"


def attach_control_windows(patcher: Any) -> None:
    """Have the controls of every call with this MODEL follow its context window."""
    patcher.add_wrapper_with_key(host.WrappersMP.CALC_COND_BATCH, KEY, _wrap)


def _wrap(executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any]) -> Any:
    frames = window_frames(model_options.get("transformer_options", {}))
    if frames is None or model_options.get("context_handler") is None:
        return executor(model, conds, x, timestep, model_options)
    with hints_of(list(controls_in(conds)), frames):
        return executor(model, conds, x, timestep, model_options)


def controls_in(conds: Any) -> Iterator[Any]:
    """Every control of a call once, with those that stand before it."""
    seen: set[int] = set()
    for cond in (cond for kind in conds if kind is not None for cond in kind):
        control = cond.get("control")
        while control is not None and id(control) not in seen:
            seen.add(id(control))
            yield control
            control = control.previous_controlnet


@contextmanager
def hints_of(controls: list[Any], frames: list[int]) -> Iterator[None]:
    """Within it, controls hold the hints of these frames.

    Args:
        controls: The host's; hints ``[N, C, H, W]``: one for all frames, one for each, or fewer, which are repeated as
            the host does.
        frames: Numbers in the whole video.
    """
    kept = [(control, control.cond_hint_original) for control in controls if _has_hints(control)]
    try:
        for control, hints in kept:
            control.cond_hint_original = hints[[frame % len(hints) for frame in frames]]
            control.cond_hint = None  # the host makes it from the original, and keeps what it made
        yield
    finally:
        for control, hints in kept:
            control.cond_hint_original, control.cond_hint = hints, None


def _has_hints(control: Any) -> bool:
    hints = getattr(control, "cond_hint_original", None)
    return isinstance(hints, Tensor) and len(hints) > 1
