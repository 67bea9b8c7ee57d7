"""One step of MCM's distillation: its assembly from recorded outputs, and a real network with a LoRA as student."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
from mcm import MOTION_NAMES, Values, huber_in_a_row
from precision import named, without_rounding
from reference import Reference, Result
from torch import Tensor, nn

from training.methods.parts.grid import TimestepGrid
from training.methods.parts.motion import MOTIONS
from training.methods.parts.motion_consistency import MotionConsistency
from training.methods.parts.solver import GuidedDDIM, Predict
from training.methods.parts.trajectory import simulated_origin
from training.students.lora import ADAPTER, LoraOptions, LoraStudent, lora_layers, lora_student
from training.students.lora_files import PEFT_PREFIX
from videolcm_core.diffusion.consistency import boundary_scalings
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.families.vgen.keymaps import diffusers_to_vgen, vgen_to_diffusers
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

# Their variable names -> ours.
_ALONG = {
    "noisy_model_input": "x_t",
    "student_eps": "student_output",
    "pred_x0_student": "pred_x_0",
    "model_pred": "prediction",
    "cond_eps": "cond_output",
    "uncond_eps": "uncond_output",
    "pred_x0_cfg": "teacher_pred_x_0",
    "pred_noise_cfg": "teacher_pred_eps",
    "x_prev": "x_prev",
    "target_eps": "target_output",
    "pred_x0_target": "target_pred_x_0",
    "target": "target",
}


def _consistency(reference: Reference, schedule: Schedule) -> MotionConsistency:
    return MotionConsistency(
        schedule=schedule,
        prediction="eps",
        solver=GuidedDDIM(schedule, "eps"),
        distance=lambda one, other: huber_in_a_row(one, other, float(reference.metadata["huber_c"])),
        timestep_scaling=float(reference.metadata["timestep_scaling"]),
    )


def _schedule(reference: Reference) -> Schedule:
    return Schedule.create(str(reference.metadata.get("beta", "scaled_linear")), zero_terminal_snr=False)


def _one_step(
    reference: Reference, x_0: Tensor, student: Predict, teacher: Predict, text: Tensor, uncond: Tensor, losses: str
) -> Values:
    """Everything along one step, by the authors' names.

    Args:
        reference: with noise, indices and guidance.
        x_0: where the trajectory begins.
        student: student and target.
        teacher: takes prompt and none in one batch.
        text: of the batch.
        uncond: of no prompt.
        losses: how a loss is called, with {} for the representation.
    """
    schedule = _schedule(reference)
    consistency = _consistency(reference, schedule)
    t, t_prev = TimestepGrid.ddim(int(reference.metadata["ddim_timesteps"])).at(reference.get("index"))
    pair = consistency.pair(x_0, reference.get("noise"), t, t_prev)
    along = {"x_t": pair.x_t} | consistency.predicted(student, pair, text)
    along |= consistency.goal(teacher, student, pair, text, uncond, reference.get("w").flatten())
    found = {theirs: along[ours] for theirs, ours in _ALONG.items()}
    for theirs, ours in MOTION_NAMES.items():
        if MOTIONS[ours].head is None:
            motion = MOTIONS[ours]
            found[losses.format(theirs)] = consistency.compare(along["prediction"], along["target"], motion, motion)
    return found


def check_assembly(reference: Reference) -> Iterator[Result]:
    """Pair, target and losses out of given outputs of the networks."""
    grid = TimestepGrid.ddim(int(reference.metadata["ddim_timesteps"]))
    t, t_prev = grid.at(reference.get("index"))
    yield reference.same("start_timesteps", "start_timesteps", t)
    yield reference.same("timesteps", "timesteps", t_prev)
    outputs = {name: reference.get(f"{name}_eps") for name in ("student", "cond", "uncond", "target")}
    text = torch.zeros(len(t), 1, 1)

    def scalings() -> Values:
        found: Values = {}
        for name, times in {"_start": t, "": t_prev}.items():
            scaling = float(reference.metadata["timestep_scaling"])
            found[f"c_skip{name}"], found[f"c_out{name}"] = boundary_scalings(times, timestep_scaling=scaling)
        return found

    yield from reference.judge(scalings, copies=8, tables=True)

    def step() -> Values:
        # The student is asked first, then the target.
        answers = iter((outputs["student"], outputs["target"]))
        return _one_step(
            reference,
            reference.get("latents") + 0.0,
            lambda x, t, text: next(answers),
            lambda x, t, text: torch.cat([outputs["cond"], outputs["uncond"]]),
            text,
            text[:1],
            "huber.{}",
        )

    # The noise schedule belongs to what is judged: its float32 table is divided by at high noise.
    yield from reference.judge(step, copies=8, tables=True)


def check_step(reference: Reference) -> Iterator[Result]:
    """A real student's step from data and from its own latents: all tensors, losses and gradients."""
    teacher, student = _networks(reference)
    count = len(list(lora_layers(student.network)))
    yield Result("adapters", float(abs(count - int(reference.metadata["n_lora_targets"]))), 0.0)
    for origin in ("real", "generated"):

        def step(origin: str = origin) -> Values:
            return _step_from(reference, origin, deepcopy(teacher), deepcopy(student))

        ours = named(step())
        exact = without_rounding(step, plain=ours)
        for name, value in ours.items():
            if name in reference.tensors:
                yield from reference.judge_one(name, name, value, exact)


def _step_from(reference: Reference, origin: str, teacher: nn.Module, student: LoraStudent) -> Values:
    x_0 = reference.get("latents") + 0.0
    text, uncond = reference.get("prompt_embeds") + 0.0, reference.get("uncond_embeds") + 0.0
    # Gradients have the type of their parameters, float64 where the latents are computed in it.
    teacher.to(x_0.dtype)
    network = student.network.to(x_0.dtype)
    found: Values = {}
    if origin == "generated":
        noise = reference.get("noise_x0")
        x_0 = found["latents"] = simulated_origin(network, _schedule(reference), "eps", noise, text)
    both = torch.cat([text, uncond])
    found |= _one_step(reference, x_0, network, lambda x, t, _: teacher(x, t, both), text, uncond, "huber_{}")
    found["huber_raw"].backward()
    gradients = _gradients(network)
    found |= {f"grad.{name}": gradient for name, gradient in gradients.items()}
    found["grad_norm_total"] = torch.cat([g.flatten() for g in gradients.values()]).norm()
    return {f"{origin}.{name}": value.detach() for name, value in found.items()}


def _networks(reference: Reference) -> tuple[UNet3D, LoraStudent]:
    """Teacher and student with the recorded weights, under our names."""
    given, prefix = reference.metadata["unet_config"], "lora." + PEFT_PREFIX
    state = {n.removeprefix("teacher."): reference.get(n) for n in reference.tensors if n.startswith("teacher.")}
    adapters = {n.removeprefix(prefix): reference.get(n) for n in reference.tensors if n.startswith(prefix)}
    renamed = diffusers_to_vgen(state | adapters)
    network = UNet3D(
        _config(given, state["transformer_in.proj_in.weight"].shape[0]), _operations(int(given["norm_num_groups"]))
    )
    network.load_state_dict({k: v for k, v in renamed.items() if ".lora_" not in k})
    network.train(False).requires_grad_(False)
    options = LoraOptions(rank=int(reference.metadata["lora_rank"]), alpha=float(reference.metadata["lora_alpha"]))
    student: Any = lora_student(SimpleNamespace(network=network), options)  # type: ignore[arg-type]
    own = dict(student.network.named_parameters())
    with torch.no_grad():
        for key, value in renamed.items():
            if ".lora_" in key:
                own[_peft_name(key)].copy_(value.view(own[_peft_name(key)].shape))
    student.network.train(False)
    return network, student


def _gradients(network: nn.Module) -> Values:
    """Gradients of the adapters, by the recorded names."""
    found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    plain = {n.replace(f".{ADAPTER}.", "."): g for n, g in found.items()}
    every = [n.replace(".base_layer.", ".") for n, _ in network.named_parameters() if ".lora_" not in n]
    names = vgen_to_diffusers([*every, *plain])
    return {PEFT_PREFIX + names[own]: gradient for own, gradient in plain.items()}


def _peft_name(key: str) -> str:
    module, matrix, _ = key.rsplit(".", 2)
    return f"{module}.{matrix}.{ADAPTER}.weight"


class _AnyWidth(UNetConfig):
    """Widths of networks whose norms have other than 32 groups."""

    def __post_init__(self) -> None:
        """Every width is allowed."""


def _config(given: dict[str, Any], first: int) -> UNetConfig:
    widths = given["block_out_channels"]
    with_attention = [kind.startswith("CrossAttn") for kind in given["down_block_types"]]
    return _AnyWidth(
        in_channels=given["in_channels"],
        concat_channels=0,
        out_channels=given["out_channels"],
        model_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=given["layers_per_block"],
        attention_scales=tuple(2.0**-level for level, has in enumerate(with_attention) if has),
        context_dim=given["cross_attention_dim"],
        num_heads=first // given["attention_head_dim"],  # of the first transformer along time alone
        head_dim=given["attention_head_dim"],
        conditions=frozenset(),
        dropout=0.0,
    )


def _operations(groups: int) -> Any:
    """Layers of a network whose norms have so many groups, where ours has 32."""

    class Norm(nn.GroupNorm):
        def __init__(self, _: int, channels: int, **more: Any) -> None:
            super().__init__(groups, channels, **more)

    return SimpleNamespace(
        **{n: getattr(nn, n) for n in ("Linear", "Conv1d", "Conv2d", "Conv3d", "LayerNorm")}, GroupNorm=Norm
    )
