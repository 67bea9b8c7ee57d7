"""Train the small autoencoder on single frames: ``python -m training.mini.autoencoder --corpus DIR --out FILE``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from videolcm_core.networks.autoencoder import TinyAutoencoder

from ..data.corpus import Corpus
from ..data.mapped import Joined
from ..engine.commands import run_command
from ..engine.followers import update_ema
from ..engine.identity import Identity, told
from ..engine.loop import LoopOptions, run
from ..engine.rates import set_learning_rate, warmup_stable_decay
from . import corpus


def reconstruction_loss(output: Tensor, pixels: Tensor) -> Tensor:
    """L1 of the pixels and of their differences to the neighbours (edges), plus the squared error.

    Args:
        output: decoded frames ``[B, 3, H, W]``.
        pixels: true frames in [0, 1].
    """
    error = output - pixels
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + 0.5 * edges + 2.0 * error.square().mean()


def latent_penalty(latents: Tensor) -> Tensor:
    """Keep each latent channel near zero mean and unit variance over the batch."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return mean.square().mean() + (variance - 1).square().mean()


class AutoencoderTask:
    """Adam on random frames; noise on the latents makes the decoder tolerant of a sampler's errors."""

    def __init__(self, frames: np.ndarray | Joined, options: argparse.Namespace, crop: int = 0) -> None:
        self.frames, self.options, self.crop = frames, options, crop
        self.model = TinyAutoencoder().channels_last()
        self.model.start_light()
        self.average = TinyAutoencoder().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), fused=True)

    def state(self) -> dict[str, Any]:
        """Model, average and optimiser."""
        return {n: getattr(self, n).state_dict() for n in ("model", "average", "optimizer")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step on ``batch`` random frames, half of them mirrored."""
        self.model.grow(index >= self.options.light_fraction * self.options.steps)
        set_learning_rate(
            self.optimizer, warmup_stable_decay(index, self.options.steps, peak=self.options.learning_rate)
        )
        chosen = torch.randint(len(self.frames), (self.options.batch,), generator=generator)
        frames = self.frames[chosen.numpy()]
        if self.crop:
            frames = cropped(frames, self.crop, generator)
        pixels = to_pixels(frames).to(memory_format=torch.channels_last)
        pixels = torch.where(torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.5, pixels.flip(-1), pixels)
        with torch.autocast("cpu", torch.bfloat16):
            latents = self.model.encode(pixels).float()
            noise = torch.randn(latents.shape, generator=generator)
            output = self.model.decode(latents + self.options.latent_noise * noise).float()
        loss = reconstruction_loss(output, pixels)
        total = loss + 0.01 * latent_penalty(latents)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.average, self.model, min(0.995, (index + 1) / (index + 10)))
        mse = functional.mse_loss(output.detach(), pixels)
        return {"loss": float(total.detach()), "psnr": float(-10 * torch.log10(mse)), "samples": len(pixels)}


def cropped(frames: np.ndarray, side: int, generator: torch.Generator) -> np.ndarray:
    """A random square out of each frame ``[B, H, W, 3]``; the network is convolutional and learns whole frames by them.

    Raises:
        ValueError: the square is not a multiple of 8, or larger than the frames.
    """
    height, width = frames.shape[1:3]
    if side % 8 or not 0 < side <= min(height, width):
        raise ValueError(
            f"--crop is {side}; allowed: a multiple of 8 up to {min(height, width)}, or 0 for whole frames."
        )
    y = torch.randint(height - side + 1, (len(frames),), generator=generator).tolist()
    x = torch.randint(width - side + 1, (len(frames),), generator=generator).tolist()
    return np.stack([f[i : i + side, j : j + side] for f, i, j in zip(frames, y, x, strict=True)])


def to_pixels(frames: np.ndarray) -> Tensor:
    """``uint8 [B, H, W, 3]`` to ``float32 [B, 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def psnr(model: TinyAutoencoder, frames: np.ndarray, batch: int = 64) -> float:
    """Mean peak signal-to-noise ratio over frames, in dB.

    Args:
        model: the autoencoder.
        frames: ``uint8 [N, H, W, 3]``.
        batch: frames at a time.
    """
    values = []
    for i in range(0, len(frames), batch):
        pixels = to_pixels(frames[i : i + batch])
        with torch.autocast("cpu", torch.bfloat16):
            output = model.decode(model.encode(pixels)).float().clamp(0, 1)
        values.append(-10 * torch.log10((output - pixels).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--latent-noise", type=float, default=0.08)
    parser.add_argument(
        "--light-fraction", type=float, default=0.75, help="share of the steps without the costly blocks (default 0.75)"
    )
    parser.add_argument("--crop", type=int, default=0, help="side of random squares to train on; 0 is whole frames")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    opened = Corpus.open(options.corpus)
    clips, _ = opened.mapped(opened.training)
    task = AutoencoderTask(clips.frames(), options, options.crop)
    numbers = told(options, "batch", "learning_rate", "latent_noise", "light_fraction") | (
        told(options, "crop") if options.crop else {}
    )
    identity = Identity(data=corpus.corpus_identity(options.corpus) | numbers)
    run(task, LoopOptions(checkpoint=options.out, identity=identity, steps=options.steps))
    held_out, _ = opened.mapped(opened.held_out)
    task.average.skip_idle_blocks()
    some = held_out[::8]
    print(f"held-out PSNR {psnr(task.average, some.reshape(-1, *some.shape[2:])):.2f} dB")


if __name__ == "__main__":
    run_command(main)
