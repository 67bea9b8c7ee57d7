"""One distillation step against the authors' training script: loss, tensors along the way, gradients, updates."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from precision import ROOM, UNIT, UNIT_64, Exact, without_rounding
from reference import Reference, Result, build_network
from torch import Tensor, nn

from training.methods.parts.consistency import ConsistencyLoss
from training.methods.parts.grid import TimestepGrid
from training.methods.parts.solver import GuidedDDIM
from videolcm_core.diffusion.consistency import boundary_scalings
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.networks.vgen.unet3d import UNet3D

# Their variable names -> ours.
_ALONG = {
    "start_timesteps": "t",
    "timesteps": "t_prev",
    "noisy_model_input": "x_t",
    "noise_pred": "student_output",
    "pred_x_0_clone": "pred_x_0",
    "model_pred": "prediction",
    "cond_teacher_output": "cond_output",
    "uncond_teacher_output": "uncond_output",
    "cond_pred_x0": "cond_pred_x_0",
    "uncond_pred_x0": "uncond_pred_x_0",
    "pred_x0": "teacher_pred_x_0",
    "pred_noise": "teacher_pred_eps",
    "x_prev": "x_prev",
    "target_noise_pred": "target_output",
    "pred_x_0": "target_pred_x_0",
    "target": "target",
}
_LEARNING_RATE, _DECAY = 1e-5, 0.95


def check_distill_step(reference: Reference) -> Iterator[Result]:
    """The training code's own step on recorded latents, noise and text."""
    seeds, folder = reference.metadata["recipe_seeds"], reference.path.parent
    networks = {role: build_network(reference.metadata, int(seeds[role]), folder) for role in seeds}
    known = reference.tensors.get("ddim_timesteps")
    grid = TimestepGrid.ddim(50 if known is None else len(known))
    yield from _compare_tables(reference, grid)

    def step() -> dict[str, Tensor]:
        return _step(reference, grid, {role: deepcopy(network) for role, network in networks.items()})

    ours = step()
    exact = without_rounding(step, copies=2, plain=ours)
    for name, value in ours.items():
        if name in reference.tensors:
            yield from reference.judge_one(name, name, value, exact)
    yield from _compare_norms(reference, ours, exact)
    yield from reference.judge(lambda: _update(reference, networks["student"], networks["target"]))


def _compare_tables(reference: Reference, grid: TimestepGrid) -> Iterator[Result]:
    for name, value in {"ddim_timesteps": grid.t}.items():
        if name in reference.tensors:
            yield reference.same(name, name, value)

    def tables() -> dict[str, Tensor]:
        table = Schedule.create(dtype=torch.float64).alphas_cumprod
        return {
            "alpha_schedule": table.sqrt(),
            "sigma_schedule": (1 - table).sqrt(),
            "ddim_alpha_cumprods": table[grid.t],
            "ddim_alpha_cumprods_prev": table[grid.t_prev],
        }

    # Both sides in float64: what rounding does to these tables, in units of float64.
    yield from reference.judge(tables, tables=True, unit=UNIT_64)


def _step(reference: Reference, grid: TimestepGrid, networks: dict[str, UNet3D]) -> dict[str, Tensor]:
    """Loss, tensors along the way and gradients, by the authors' names."""
    latents = reference.get("latents") + 0.0
    for network in networks.values():
        # Gradients have the type of their parameters, float64 where the latents are computed in it.
        network.to(latents.dtype)
    schedule = Schedule.create(dtype=torch.float64)
    t, t_prev = grid.at(reference.get("index"))
    losses, along = ConsistencyLoss(schedule=schedule, solver=GuidedDDIM(schedule))(
        networks["student"],
        networks["teacher"],
        networks["target"],
        x_0=latents,
        noise=reference.get("noise"),
        text=reference.get("y"),
        uncond=reference.get("y_negative"),
        t=t,
        t_prev=t_prev,
        w=reference.get("w").flatten(),
    )
    loss = losses.mean()
    loss.backward()
    if any(parameter.grad is not None for parameter in networks["target"].parameters()):
        raise AssertionError("the target has a gradient; gradients must reach the student only")
    skip_start, out_start = boundary_scalings(along["t"])
    skip, out = boundary_scalings(along["t_prev"])
    found = {theirs: along[ours].detach() for theirs, ours in _ALONG.items()} | {
        "c_skip_start": skip_start,
        "c_out_start": out_start,
        "c_skip": skip,
        "c_out": out,
        "per_sample_loss": losses,
        "loss": loss,
    }
    parameters = networks["student"].named_parameters()
    return found | {f"grad.{name}": p.grad for name, p in parameters if p.grad is not None}


def _compare_norms(reference: Reference, ours: dict[str, Tensor], exact: Exact) -> Iterator[Result]:
    """Norms of all gradients. Two norms differ by no more than the norm of the difference."""
    for name, norm in reference.metadata.get("grad_norms", {}).items():
        key = f"grad.{name}"
        if key not in ours:
            yield Result(f"norm of {key}", float("inf"), 0.0, "no gradient")
            continue
        value = exact.values[key].norm().item()
        bound = ROOM * exact.norms[key] + UNIT * value
        yield Result(f"norm of {key}, recorded", abs(value - norm), bound)
        yield Result(f"norm of {key}", abs(ours[key].double().norm().item() - value), bound)


def _update(reference: Reference, student: UNet3D, target: UNet3D) -> dict[str, Tensor]:
    """The optimiser's and the average's step from the recorded gradients.

    AdamW's first step is ``lr * g / (|g| + 1e-8)``, nearly the sign of g: with gradients of our own, rounding decides
    where g is near 0.
    """
    found = {}
    old, new = dict(target.named_parameters()), dict(student.named_parameters())
    for key in (key for key in reference.tensors if key.startswith("grad.")):
        name = key[len("grad.") :]
        parameter = nn.Parameter(new[name].detach().clone())
        parameter.grad = reference.get(key).clone()
        torch.optim.AdamW([parameter], lr=_LEARNING_RATE, weight_decay=0.0).step()
        after = parameter.detach()
        found[f"student_after.{name}"] = after
        found[f"target_after.{name}"] = torch.lerp(old[name].detach(), after, 1.0 - _DECAY)
    return found
