"""One distillation step against the authors' training script: loss, tensors along the way, gradients, updates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from checks import guided_tolerance
from reference import Reference, Result, build_network
from torch import Tensor

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
_GUIDED = ("pred_x0", "pred_noise")


def check_distill_step(reference: Reference, tolerance: float) -> Iterator[Result]:
    """The training code's own step on recorded latents, noise and text."""
    seeds, folder = reference.metadata["recipe_seeds"], reference.path.parent
    student, teacher, target = (
        build_network(reference.metadata, int(seeds[role]), folder) for role in ("student", "teacher", "target")
    )
    schedule = Schedule.create(dtype=torch.float64)
    known = reference.tensors.get("ddim_timesteps")
    grid = TimestepGrid.ddim(50 if known is None else len(known))
    t, t_prev = grid.at(reference.get("index"))
    losses, along = ConsistencyLoss(schedule=schedule, solver=GuidedDDIM(schedule))(
        student,
        teacher,
        target,
        x_0=reference.get("latents"),
        noise=reference.get("noise"),
        text=reference.get("y"),
        uncond=reference.get("y_negative"),
        t=t,
        t_prev=t_prev,
        w=reference.get("w").flatten(),
    )
    loss = losses.mean()
    yield from _compare_forward(reference, schedule, grid, losses, along, tolerance)
    yield from _compare_update(reference, student, target, loss, tolerance)


def _compare_forward(
    reference: Reference,
    schedule: Schedule,
    timesteps: TimestepGrid,
    losses: Tensor,
    along: dict[str, Tensor],
    tolerance: float,
) -> Iterator[Result]:
    t, t_prev = along["t"], along["t_prev"]
    skip_start, out_start = boundary_scalings(t)
    skip, out = boundary_scalings(t_prev)
    grid, grid_prev = timesteps.t, timesteps.t_prev
    table = schedule.alphas_cumprod
    got = {theirs: along[ours].detach() for theirs, ours in _ALONG.items()} | {
        "c_skip_start": skip_start,
        "c_out_start": out_start,
        "c_skip": skip,
        "c_out": out,
        "alpha_schedule": table.sqrt(),
        "sigma_schedule": (1 - table).sqrt(),
        "ddim_timesteps": grid,
        "ddim_alpha_cumprods": table[grid],
        "ddim_alpha_cumprods_prev": table[grid_prev],
        "per_sample_loss": losses.detach(),
        "loss": losses.mean().detach(),
    }
    for name, value in got.items():
        if name in reference.tensors:
            w = reference.get("w").max().item()
            wider = [guided_tolerance(w, tolerance)] if name in _GUIDED else []
            yield reference.compare(name, name, value, tolerance, *wider)


def _compare_update(
    reference: Reference, student: UNet3D, target: UNet3D, loss: Tensor, tolerance: float
) -> Iterator[Result]:
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0.0)
    loss.backward()
    parameters = dict(student.named_parameters())
    grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    norms = reference.metadata.get("grad_norms", {})
    differences = [abs(grads[name].norm().item() - norm) for name, norm in norms.items() if name in grads]
    missing = sorted(set(norms) - set(grads))
    note = f"no gradient: {missing[:3]}" if missing else ""
    yield Result("grad norms, all", float("inf") if missing else max(differences, default=0.0), tolerance, note)
    if any(parameter.grad is not None for parameter in target.parameters()):
        yield Result("gradient in the target", float("inf"), tolerance, "gradients must reach the student only")
    optimizer.step()
    with torch.no_grad():
        for old, new in zip(target.parameters(), student.parameters(), strict=True):
            old.lerp_(new, 1.0 - 0.95)
    after = dict(target.named_parameters())
    sources = {"grad.": grads, "student_after.": parameters, "target_after.": after}
    for name in sorted(reference.tensors):
        for prefix, source in sources.items():
            if name.startswith(prefix):
                yield reference.compare(name, name, source[name[len(prefix) :]].detach(), tolerance)
