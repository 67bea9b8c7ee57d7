"""Clips of a cell of the table: clip i starts from the noise of seed i, whoever samples it and in whatever order."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .models import Sampled
from .prompts import Prompt
from .samplers import SAMPLERS, Settings


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Attributes:
        model: the network's name; "student" is sampled with LCM and any other with DDIM unless ``sampler`` says more.
        steps: of the sampler.
        cfg: guidance scale, 1 is none.
        sampler: one of `SAMPLERS`.
    """

    model: str
    steps: int
    cfg: float = 1.0
    sampler: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampler", self.sampler or ("lcm" if self.model == "student" else "ddim"))
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; allowed: {', '.join(SAMPLERS)}. Choose one of these.")

    @property
    def base(self) -> str:
        """Name without the guidance: ``teacher@4``, ``teacher dpm++@4``."""
        plain = self.sampler in ("lcm", "ddim")
        return f"{self.model}@{self.steps}" if plain else f"{self.model} {self.sampler}@{self.steps}"

    @property
    def name(self) -> str:
        """Name in the table and of the cached file."""
        return self.base + (f" cfg {self.cfg:g}" if SAMPLERS[self.sampler].guided else "")

    @property
    def network_calls(self) -> int:
        """Calls of the network for one clip."""
        return self.steps * (1 if self.cfg == 1.0 else 2)


def parse_cells(text: str) -> list[Row]:
    """Cells of one word of the command line; a guidance of 0 is still to be chosen.

    Args:
        text: ``MODEL:SAMPLER:STEPS[,STEPS...][:CFG]``, for example ``teacher:ddim:4,50`` or ``teacher:dpm++:4:3``.

    Raises:
        ValueError: it is written otherwise.
    """
    found = re.fullmatch(r"([^:]+):([^:]+):(\d+(?:,\d+)*)(?::(\d+(?:\.\d+)?))?", text)
    if not found:
        raise ValueError(
            f"cells are written MODEL:SAMPLER:STEPS[,STEPS][:CFG], for example teacher:ddim:4,50; got {text!r}."
        )
    model, sampler, steps, cfg = found.groups()
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r} in {text!r}; allowed: {', '.join(SAMPLERS)}.")
    scale = float(cfg) if cfg else (0.0 if SAMPLERS[sampler].guided else 1.0)
    return [Row(model=model, sampler=sampler, steps=int(n), cfg=scale) for n in steps.split(",")]


def noise_of(indices: range, shape: tuple[int, ...]) -> tuple[Tensor, list[torch.Generator]]:
    """Initial noise ``[B, 4, F, h, w]`` of clips and the generators of their step noise; clip i is seeded with i."""
    generators = [torch.Generator().manual_seed(i) for i in indices]
    return torch.stack([torch.randn(shape, generator=g) for g in generators]), generators


@dataclass
class Stopwatch:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, stage: str, call: Callable[[], Tensor], device: torch.device) -> Tensor:
        """The result of a call, whose time is added to its stage."""
        start = time.perf_counter()
        value = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        return value


@torch.no_grad()
def sample_videos(
    model: Sampled,
    row: Row,
    prompts: Sequence[Prompt],
    indices: range,
    encode: Callable[[Tensor], Tensor | None] | None = None,
    watch: Stopwatch | None = None,
) -> Tensor:
    """One batch of a row's videos; clip i starts from the noise of seed i.

    Args:
        model: student or teacher, sampled at its own size and settings; noise is drawn on the CPU wherever it is.
        row: which, with which sampler, how many steps and which guidance.
        prompts: of these clips.
        indices: their numbers, which are their seeds.
        encode: from the noise (for its shape) to the encoded conditions ``[B, 8, F, h, w]``; None for text alone.
        watch: takes the seconds of text, network and decoding.

    Returns:
        uint8 ``[B, F, H, W, 3]`` on the CPU.
    """
    watch = watch or Stopwatch()
    device = next(model.unet.parameters()).device
    texts = [p.text for p in prompts]
    context = watch.timed("text", lambda: model.text(texts), device)
    uncond = model.text([""]).expand_as(context) if row.cfg != 1.0 else None
    noise, generators = noise_of(indices, model.latent_shape)
    noise = noise.to(device)
    concat = None if encode is None else encode(noise)

    def call(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return model.unet(x.float(), t, text, concat=concat).float()

    def network(x: Tensor, t: Tensor) -> Tensor:
        # Two calls, not one of twice the batch: on a CPU the smaller batch stays in the cache.
        cond = call(x, t, context)
        if uncond is None:
            return cond
        without = call(x, t, uncond)
        return without + row.cfg * (cond - without)

    def step_noise(x: Tensor, index: int) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x)

    settings = Settings(
        schedule=model.teacher.schedule.to("cpu", torch.float32).to(device),
        prediction=model.teacher.prediction,
        original_steps=model.original_steps,
        timestep_scaling=model.timestep_scaling,
    )
    run = SAMPLERS[row.sampler].run
    sampled = watch.timed("network", lambda: run(network, noise, row.steps, settings, step_noise), device)
    return watch.timed("decode", lambda: decode(model, sampled.float()), device)


@torch.no_grad()
def decode(model: Sampled, latents: Tensor) -> Tensor:
    """Clips of latents ``[N, 4, F, h, w]``: uint8 ``[N, F, 8h, 8w, 3]`` on the CPU."""
    frames = latents.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    with torch.autocast(latents.device.type, torch.bfloat16):
        pixels = model.autoencoder.decode(frames).float()
    pixels = pixels.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).cpu()
    return pixels.unflatten(0, (len(latents), latents.shape[2]))


@torch.no_grad()
def reconstruct(model: Sampled, clips: Tensor) -> Tensor:
    """Real clips, uint8 ``[N, F, H, W, 3]``, through the autoencoder."""
    device = next(model.autoencoder.parameters()).device
    pixels = clips.flatten(0, 1).permute(0, 3, 1, 2).to(device).float().div(255)
    with torch.autocast(device.type, torch.bfloat16):
        found = model.autoencoder.encode(pixels.contiguous(memory_format=torch.channels_last)).float()
    return decode(model, found.unflatten(0, clips.shape[:2]).transpose(1, 2).half().float())
