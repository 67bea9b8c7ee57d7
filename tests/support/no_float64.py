"""Finds float64 on the compute device: Apple's MPS, DirectML and Intel Arc have none.

There is one device here, the processor. Tables are made on it in float64 on purpose, by the functions named below; any
other operation of this project that gives float64 would be on the device elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OURS = ("videolcm_core", "training", "nodes")
ROOT = Path(__file__).resolve().parents[2]
ON_THE_CPU = {
    ("schedule.py", "make_betas"),
    ("schedule.py", "rescale_zero_terminal_snr"),
    ("schedule.py", "create"),
    ("schedule.py", "to"),  # from the table on the CPU to float32
    ("schedule.py", "lcm_timesteps"),
    ("consistency.py", "boundary_scalings"),
    ("consistency.py", "_table"),  # rounds the scalings to float32 and moves them
    ("consistency.py", "_scalings"),
    ("randomness.py", "draw_samples"),
    ("grid.py", "stratified"),
    *(("frequency.py", name) for name in ("_squares", "butterworth", "_half")),  # the filter, kept in float32
    ("grid.py", "index"),
    ("model_sampling.py", "__init__"),  # sigmas and times of the grid, kept in float32
    ("base_model.py", "__init__"),  # the host's own tables
    ("sd15.py", "_empty_model"),  # the same
    ("edm_sampling.py", "__init__"),  # noise levels, kept in float32
    *(("edm.py", name) for name in ("create", "timesteps", "c_skip", "c_out", "c_in", "weights")),  # tables of a grid
}
"""File and function of what may make float64: each works on the CPU whatever the device."""


class NoFloat64(TorchDispatchMode):
    """Collects the places of this project where an operation gave a float64 tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = (result,) if isinstance(result, torch.Tensor) else tree_leaves(result)
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 and (place := self._place()):
                self.found.add(place)
        return result

    @staticmethod
    def _place() -> str | None:
        """The innermost function of this project on the stack; None where it may."""
        frame = sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS:
                name = frame.f_code.co_name.strip("<>")
                return None if (path.name, name) in ON_THE_CPU else f"{path.relative_to(ROOT)}:{frame.f_lineno} {name}"
            frame = frame.f_back
        return None
