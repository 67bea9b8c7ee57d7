"""Sampling while a run trains: the student's few steps beside the teacher's many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videolcm_core.diffusion.samplers import sample_ddim, sample_lcm
from videolcm_core.diffusion.schedule import lcm_timesteps

from ...networks import Conditions, Control, VgenNetwork


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What is asked for in every validation.

    Attributes:
        prompts: N texts, for the labels.
        text: ``[N, L, D]``.
        uncond: ``[1, L, D]``.
        noise: ``[N, 4, F, h, w]``, where every sampler begins.
        conditions: of the N scenes.
    """

    prompts: tuple[str, ...]
    text: Tensor
    uncond: Tensor
    noise: Tensor
    conditions: Conditions


def _called(network: nn.Module, text: Tensor, scenes: Scenes, device: torch.device) -> Callable[..., Tensor]:
    conditions = {k: (i.to(device), p.to(device)) for k, (i, p) in scenes.conditions.items()}
    cond = {"text": text.to(device), "control": Control(pixels=conditions, count=len(text))}
    predictor = VgenNetwork(network)
    return lambda x, t: predictor(x, t, cond)


def student_latents(
    recipe: Any, teacher: Any, network: nn.Module, scenes: Scenes, steps: int, device: torch.device
) -> Tensor:
    """Clean latents by multistep consistency sampling.

    Args:
        recipe: with ``original_steps``, ``timestep_scaling`` and ``seed``.
        teacher: whose schedule and prediction the student has.
        network: with the student's weights.
        scenes: what to make.
        steps: how many.
        device: where to compute.
    """
    schedule = teacher.schedule.to("cpu", torch.float32).to(device)
    generator = torch.Generator().manual_seed(recipe.seed + steps)
    return sample_lcm(
        _called(network, scenes.text, scenes, device),
        scenes.noise.to(device),
        lcm_timesteps(steps, recipe.original_steps, num_timesteps=schedule.num_timesteps),
        schedule,
        teacher.prediction,
        timestep_scaling=recipe.timestep_scaling,
        step_noise=lambda x, _: torch.randn(x.shape, generator=generator).to(x),
    )


def teacher_latents(w: float, teacher: Any, scenes: Scenes, steps: int, device: torch.device) -> Tensor:
    """Clean latents by DDIM at a guidance scale of ``1 + w``."""
    network = teacher.network
    mode = network.training
    network.train(False)
    try:
        return sample_ddim(
            _called(network, scenes.text, scenes, device),
            scenes.noise.to(device),
            steps,
            teacher.schedule.to("cpu", torch.float32).to(device),
            teacher.prediction,
            1.0 + w,
            _called(network, scenes.uncond.expand_as(scenes.text), scenes, device),
        )
    finally:
        network.train(mode)
