"""The finished student as one file that the graph's loaders read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from videolcm_core.diffusion.consistency import TIMESTEP_SCALING
from videolcm_core.families.foreign import UNET_PREFIX
from videolcm_core.files.entries import FORMAT
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.loading import check_weights
from videolcm_core.files.settings import to_metadata
from videolcm_core.files.writing import save_safetensors

from ..teachers import Teacher

SAMPLER: Final = "lcm"
_PARTS: Final = {"text": "cond_stage_model.", "autoencoder": "first_stage_model."}


@dataclass(frozen=True, kw_only=True)
class LcmSettings:
    """How a student was distilled, as far as its sampler has to know.

    Attributes:
        w: guidance that is distilled in; the scale is 1 + w. Of a range its middle.
        w_range: from and to, where it was drawn.
        original_steps: of the grid.
        timestep_scaling: of the boundary condition.
        steps: recommended.
        method: by its name, see `methods.method_names`; None is not written.
    """

    w: float = 9.0
    w_range: tuple[float, float] | None = None
    original_steps: int = 50
    timestep_scaling: float = TIMESTEP_SCALING
    steps: int = 4
    method: str | None = None

    @classmethod
    def of(cls, recipe: Any, method: str) -> LcmSettings:
        """Those of a run.

        Args:
            recipe: of any method: with ``w``, ``original_steps`` and ``timestep_scaling``; and ``w_low`` and ``w_high``
                where guidance is drawn.
            method: its name.
        """
        low, high = getattr(recipe, "w_low", None), getattr(recipe, "w_high", None)
        return cls(
            w=recipe.w,
            w_range=None if low is None or high is None else (float(low), float(high)),
            original_steps=recipe.original_steps,
            timestep_scaling=recipe.timestep_scaling,
            method=method,
        )


def student_metadata(teacher: Teacher, settings: LcmSettings, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The file's entries: the teacher's, but for what the distillation decided.

    Args:
        teacher: base of the student.
        settings: for the sampler.
        recipe: how it was trained; anything that JSON can say.
    """
    entries = replace(
        teacher.settings,
        format=FORMAT,
        base=teacher.file,
        sampling="lcm",
        original_steps=settings.original_steps,
        timestep_scaling=settings.timestep_scaling,
        w=settings.w,
        w_range=settings.w_range,
        method=settings.method,
        cfg=1.0,
        steps=settings.steps,
        sampler=SAMPLER,
        scheduler="simple",
        conditions=teacher.conditions,
        recipe=json.dumps(dict(recipe), default=str),
        extra={},
    )
    described = {
        "modelspec.title": f"{entries.family} consistency student",
        "modelspec.prediction_type": {"v": "v", "eps": "epsilon"}.get(teacher.prediction, teacher.prediction),
    }
    return to_metadata(entries) | described


def export_student(
    path: Path | str,
    student_state: Mapping[str, Tensor],
    teacher: Teacher,
    *,
    recipe: Mapping[str, Any],
    settings: LcmSettings | None = None,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the student, whole or not at all.

    With a teacher that brought text encoder and autoencoder the file is all-in-one (Load VideoLCM Checkpoint), else it
    holds the network under the authors' own keys (Load VideoLCM Model).

    Args:
        path: ends in ".safetensors".
        student_state: weights under the teacher's keys, such as `Student.effective_state`.
        teacher: base of the student.
        recipe: how it was trained, for the metadata.
        settings: for the sampler.
        dtype: of the weights.
        metadata: further entries, or other values.

    Returns:
        The path.

    Raises:
        ValueError: the weights are not those of the teacher's network, or not finite; the path's ending is another.
    """
    network = teacher.network.state_dict()
    check_weights(student_state, network, f"the student of {teacher.file}")
    parts = {name: getattr(teacher, name) for name in _PARTS}
    whole = all(isinstance(part, nn.Module) for part in parts.values())
    tensors = {(UNET_PREFIX if whole else "") + k: _stored(v, dtype) for k, v in student_state.items()}
    if whole:
        for name, prefix in _PARTS.items():
            tensors |= {prefix + k: _stored(v, dtype) for k, v in parts[name].state_dict().items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(
                "the student",
                f"NaN or infinite values in {key}, in {str(dtype).removeprefix('torch.')}",
                "finite weights",
                "Export an earlier checkpoint, or in bfloat16.",
            )
    entries = student_metadata(teacher, settings or LcmSettings(), recipe) | dict(metadata or {})
    return save_safetensors(tensors, path, entries)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    return value.to(dtype) if value.is_floating_point() and value.ndim else value
