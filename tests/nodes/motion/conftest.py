"""Motion modules in core's UNet: reading the golden data, and calling the UNet as core does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from videos import frames_first

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "animatediff"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, torch.Tensor]]:
    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture
def predict(load: Callable) -> Callable[..., torch.Tensor]:
    """``predict(model, x [B, C, F, h, w], t, context [B, L, D])``: the UNet as core's samplers call it."""

    def run(model: Any, x: torch.Tensor, t: int, context: torch.Tensor, **options: Any) -> torch.Tensor:
        load(model)
        frames = x.shape[2]
        out = model.model.diffusion_model(
            frames_first(x),
            torch.full((len(x) * frames,), float(t)),
            context.repeat_interleave(frames, 0),
            transformer_options={
                **model.model_options["transformer_options"],
                "cond_or_uncond": list(range(len(x))),
                **options,
            },
        )
        return out.unflatten(0, (len(x), -1)).movedim(2, 1)

    return run


@pytest.fixture
def load() -> Callable[[Any], None]:
    """Bring a MODEL onto the device, as every run does."""
    import comfy.model_management

    return lambda model: comfy.model_management.load_models_gpu([model])


@pytest.fixture
def motion_of(host) -> Callable[[Any], Any]:
    return host.pack("nodes.motion.patch").motion_of


@pytest.fixture
def ran(monkeypatch, motion_of) -> Callable[[Any], list[str]]:
    """``ran(model)`` -> a list that gets the published name of each motion module of that MODEL that runs from now."""

    def watch(model: Any) -> list[str]:
        network = motion_of(model).network
        names = {network.get_submodule(name): name for name in network.names()}
        seen: list[str] = []
        kind = type(next(iter(names)))
        forward = kind.forward

        def spy(self, *args, **kwargs):
            seen.append(names[self])
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", spy)
        return seen

    return watch


@pytest.fixture
def sample() -> Callable[..., torch.Tensor]:
    """Core's samplers with a given start and step noise ``[1, C, F, h, w]``; returns ``[F, C, h, w]`` as the UNet."""
    import comfy.k_diffusion.sampling
    import comfy.sample
    import comfy.samplers

    def run(model, noise, step_noise, positive, negative=None, cfg=1.0, steps=4, scheduler="simple"):
        recorded = iter(step_noise)
        options = {"noise_sampler": lambda *_: frames_first(next(recorded))}
        sampler = comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_lcm, options)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
        start = frames_first(noise)
        out = comfy.sample.sample_custom(
            model,
            start,
            cfg,
            sampler,
            sigmas,
            positive,
            positive if negative is None else negative,
            torch.zeros_like(start),
            disable_pbar=True,
            seed=0,
        )
        return model.model.process_latent_in(out)

    return run


@pytest.fixture
def video() -> Callable[..., dict[str, Any]]:
    """Inputs of a run: ``video(8)`` -> noise and text of 8 frames of 64 x 96 pixels."""

    def make(frames: int = 8, seed: int = 1) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        return {
            "noise": draw(1, 4, frames, 8, 12),
            "step_noise": [draw(1, 4, frames, 8, 12) for _ in range(3)],
            "positive": [[draw(1, 7, 48), {}]],
            "negative": [[draw(1, 7, 48), {}]],
        }

    return make
