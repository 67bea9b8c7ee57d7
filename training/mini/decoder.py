"""Sharpen the decoder: ``python -m training.mini.decoder --corpus DIR --start FILE --lpips FILE --out FILE``.

Squared and absolute errors leave an autoencoder of eight-fold reduction blurred. Here its decoder alone goes on, with
a perceptual distance (LPIPS, arXiv 1801.03924) and a discriminator of patches (as in arXiv 2012.09841). The encoder
stays as it is, so every diffusion model trained on its latents remains valid. The same command resumes. With several
corpora it learns the frames of all: clean and degraded ones, say, as an autoencoder of any video knows both.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from videolcm_core.networks.autoencoder import TinyAutoencoder

from ..data.corpus import Corpus
from ..data.mapped import Joined
from ..engine.caches import file_digest, fingerprint
from ..engine.commands import run_command
from ..engine.followers import update_ema
from ..engine.identity import Identity, told
from ..engine.loop import LoopOptions, run
from ..engine.rates import set_learning_rate, warmup_stable_decay
from ..metrics.lpips import load_lpips
from ..metrics.weights import enlarged
from . import corpus
from . import family as mini
from .autoencoder import psnr, reconstruction_loss, to_pixels


class PatchDiscriminator(nn.Module):
    """Real or decoded, judged for each patch of about 22 x 22 pixels.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 3 * width)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of patches.

        Args:
            pixels: ``[B, 3, H, W]`` in [0, 1].

        Returns:
            ``[B, 1, H/8, W/8]``; large is real.
        """
        return self.layers(pixels * 2 - 1)


def hinge(real: Tensor, decoded: Tensor) -> Tensor:
    """Loss of the discriminator from its logits of real and of decoded frames."""
    return (functional.relu(1 - real) + functional.relu(1 + decoded)).mean()


class SharpenTask:
    """The decoder against the discriminator; both with Adam."""

    def __init__(
        self, frames: np.ndarray | Joined, start: TinyAutoencoder, lpips: nn.Module, options: argparse.Namespace
    ):
        self.frames, self.options, self.lpips = frames, options, lpips
        self.model = TinyAutoencoder().channels_last()
        self.model.load_state_dict(start.state_dict())
        self.model.skip_idle_blocks()
        self.model.grow_decoder()
        self.model.taesd_encoder.requires_grad_(False)
        self.average = TinyAutoencoder().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.taesd_decoder.parameters(), lr=0.0, betas=(0.5, 0.99), fused=True)
        self.critic = torch.optim.Adam(self.discriminator.parameters(), lr=0.0, betas=(0.5, 0.99), fused=True)

    def state(self) -> dict[str, Any]:
        """Networks and optimisers."""
        names = ("model", "average", "discriminator", "optimizer", "critic")
        return {n: getattr(self, n).state_dict() for n in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def decoded(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Frames through the autoencoder, with a little noise on the latents as a sampler would leave."""
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = self.model.encode(pixels).float()
            noise = torch.randn(latents.shape, generator=generator)
            return self.model.decode(latents + self.options.latent_noise * noise).float()

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step of the decoder and one of the discriminator on ``batch`` random frames, half of them mirrored."""
        o = self.options
        rate = warmup_stable_decay(index, o.steps, peak=o.learning_rate)
        set_learning_rate(self.optimizer, rate)
        set_learning_rate(self.critic, rate)
        chosen = torch.randint(len(self.frames), (o.batch,), generator=generator)
        pixels = to_pixels(self.frames[chosen.numpy()]).contiguous(memory_format=torch.channels_last)
        pixels = torch.where(torch.rand(len(pixels), 1, 1, 1, generator=generator) < 0.5, pixels.flip(-1), pixels)
        output = self.decoded(pixels, generator)
        with torch.autocast("cpu", torch.bfloat16):
            perceptual = self.lpips(enlarged(output), enlarged(pixels)).mean()
            fooled = -self.discriminator(output).mean()
        adversarial = o.adversarial * min(1.0, index / max(1, o.adversarial_from))
        loss = reconstruction_loss(output, pixels) + o.perceptual * perceptual + adversarial * fooled
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.taesd_decoder.parameters(), 1.0)
        self.optimizer.step()
        with torch.autocast("cpu", torch.bfloat16):
            critic_loss = hinge(self.discriminator(pixels), self.discriminator(output.detach()))
        self.critic.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic.step()
        update_ema(self.average, self.model, min(0.995, (index + 1) / (index + 10)))
        mse = functional.mse_loss(output.detach(), pixels)
        values = {"loss": loss, "lpips": perceptual, "critic": critic_loss, "psnr": -10 * torch.log10(mse)}
        return {name: float(value.detach()) for name, value in values.items()}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="one, or several of the same size")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint of train_autoencoder, or an all-in-one")
    parser.add_argument("--lpips", type=Path, required=True, help="lpips_alex_v0.1.pt (scripts/fetch_metrics.sh)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--latent-noise", type=float, default=0.04)
    parser.add_argument("--perceptual", type=float, default=0.5, help="weight of LPIPS")
    parser.add_argument("--adversarial", type=float, default=0.02, help="weight of the discriminator")
    parser.add_argument("--adversarial-from", type=int, default=300, help="steps over which that weight rises")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    opened = [Corpus.open(folder) for folder in options.corpus]
    clips = Joined([part for c in opened for part in c.mapped(c.training)[0].parts])
    start = mini.read_autoencoder(options.start)
    task = SharpenTask(clips.frames(), start, load_lpips(options.lpips), options)
    numbers = told(options, "batch", "learning_rate", "latent_noise", "perceptual", "adversarial", "adversarial_from")
    identity = Identity(
        fixed={"start": fingerprint(start), "lpips": file_digest(options.lpips)},
        data=corpus.corpus_identity(*options.corpus) | numbers,
    )
    run(task, LoopOptions(checkpoint=options.out, identity=identity, steps=options.steps))
    for folder, c in zip(options.corpus, opened, strict=True):
        some = c.mapped(c.held_out)[0][::8]
        print(f"held-out PSNR of {folder} {psnr(task.average, some.reshape(-1, *some.shape[2:])):.2f} dB")


if __name__ == "__main__":
    run_command(main)
