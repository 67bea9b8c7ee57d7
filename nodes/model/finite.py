"""A run whose numbers are no longer finite stops at the step where it happened, and says what it may be.

The check hangs on the MODEL, so every sampler of the host meets it: after each prediction (guidance, context windows
and patches included) and on the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import host

KEY = "videolcm_finite"


def attach_finite_check(patcher: Any) -> None:
    """Have every prediction and every result of this MODEL looked at."""
    patcher.add_wrapper_with_key(host.WrappersMP.PREDICT_NOISE, KEY, _check_prediction)
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, KEY, _check_result)


def _check_prediction(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
) -> Tensor:
    options = {} if model_options is None else model_options
    out = executor(x, timestep, options, seed)
    if not is_finite(out):
        sigmas = options.get("transformer_options", {}).get("sample_sigmas")
        where = f"Step {_step_of(timestep, sigmas)}" if sigmas is not None else "A step"
        found = list(_causes(executor.class_obj, x, timestep, sigmas))
        raise ValueError(f"{where} gave a prediction that is not finite: {_count(out)}. {_advice(found, options)}")
    return out


def _check_result(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
    result = executor(*args, **kwargs)
    if not is_finite(result):
        raise ValueError(
            f"The sampler's result is not finite: {_count(result)}, though every prediction was finite; allowed: "
            f"finite numbers. Choose the sampler lcm with VideoLCM Scheduler; look at the noise mask and the sigmas."
        )
    return result


def is_finite(value: Tensor) -> bool:
    """Whether there is no NaN and no infinity: one pass over a latent, a few hundredths of a millisecond."""
    return bool(value.isfinite().all())


def _step_of(timestep: Tensor, sigmas: Tensor) -> str:
    """The step that a noise level belongs to; samplers also look between two levels, and a little above the first."""
    sigma = float(timestep.flatten()[0])
    steps = max(len(sigmas) - 1, 1)
    step = int((sigmas[:-1].float() >= sigma * (1 - 1e-4)).sum())
    return f"{min(max(step, 1), steps)} of {steps} (sigma {sigma:.4g})"


def _count(value: Tensor) -> str:
    frames = value.movedim(2, 0) if value.ndim == 5 else value
    bad = int((~frames.isfinite()).flatten(1).any(dim=1).sum())
    return f"NaN or infinity in {bad} of {len(frames)} frames"


def _causes(guider: Any, x: Tensor, timestep: Tensor, sigmas: Tensor | None) -> Iterator[str]:
    """What can be seen to be wrong already before the network: looked for only when something is."""
    if not is_finite(x):
        first = sigmas is not None and float(timestep.flatten()[0]) >= float(sigmas[0]) * (1 - 1e-4)
        yield (
            "the latent or the noise given to the sampler" if first else "the latent that the sampler made of the step"
        )
    for kind, conds in (getattr(guider, "conds", None) or {}).items():
        text = [cond["model_conds"]["c_crossattn"].cond for cond in conds or () if _has_text(cond)]
        if not all(is_finite(value) for value in text):
            yield f"the encoded {kind} prompt"
    weights = guider.model_patcher.model.diffusion_model.named_parameters()
    broken = [name for name, value in weights if value.is_floating_point() and not is_finite(value.float())]
    if broken:
        yield f"{len(broken)} weights of the model, the first {broken[0]} (a LoRA, a merge or a broken file)"


def _has_text(cond: dict[str, Any]) -> bool:
    return isinstance(getattr(cond.get("model_conds", {}).get("c_crossattn"), "cond", None), torch.Tensor)


def _advice(found: list[str], options: dict[str, Any]) -> str:
    if found:
        return f"Not finite before the network: {', '.join(found)}; allowed: finite numbers. Mend that first."
    causes = ["weights or a LoRA that are too large for fp16 (choose weight_dtype bf16 or fp32)"]
    if options.get("context_handler") is not None:
        causes.insert(0, "context windows that leave frames out (choose a smaller overlap and another schedule)")
    inner = options.get("transformer_options", {})
    if any(inner.get(name) for name in ("patches", "patches_replace")):
        causes.append("a patch on the MODEL (take it off)")
    causes += ["a strength or guidance far outside its range", "a latent of another VAE"]
    return f"allowed: finite numbers. Usual causes: {'; '.join(causes)}."
