"""Appearance from images: single frames of the student's clips must please a discriminator (MCM, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from .adversary import AdversarialLoss, gradient_norms, gradient_penalty, mixed, per_sample
from .discriminator_input import draw_view, joined_views, prepare
from .frame_choice import any_frames, one_of_each_part
from .sample_draws import Purpose, SampleDraws

Networks = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Real:
    """What is real: as many images for each sample as the discriminator sees of its frames.

    Attributes:
        images: ``[B * frames, 3, H, W]`` in [0, 1].
        text: a vector an image ``[B * frames, D]``.
    """

    images: Tensor
    text: Tensor


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The discriminator's losses, and what they are made of.

    Attributes:
        values: ``[B]``.
        told: mean logits of real and made images and the penalty without its weight, by name ``[B]``.
    """

    values: Tensor
    told: dict[str, Tensor]


class FrameDecoder(nn.Module):
    """The frozen autoencoder's decoder; gradients pass through it to the latents.

    Args:
        autoencoder: with ``decode`` to [0, 1].
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, latents: Tensor) -> Tensor:
        """``[N, C, h, w]`` to float32 ``[N, 3, H, W]``, about [-1, 1]."""
        weights = next(self.autoencoder.parameters()).dtype
        latents = latents.to(weights).contiguous(memory_format=torch.channels_last)
        return self.autoencoder.decode(latents).float() * 2.0 - 1.0  # type: ignore[operator]


class FrameAutoencoder(nn.Module):
    """Images as the frozen autoencoder draws them, so that its softness is no sign of what is made.

    Args:
        autoencoder: with ``encode`` and ``decode``, images in [0, 1].
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` in [0, 1] to the same, float32; sides are cut to multiples of 8."""
        weights = next(self.autoencoder.parameters()).dtype
        height, width = (side // 8 * 8 for side in images.shape[2:])
        images = images[:, :, :height, :width].to(weights).contiguous(memory_format=torch.channels_last)
        latents = self.autoencoder.encode(images)  # type: ignore[operator]
        return self.autoencoder.decode(latents.to(weights)).float()  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class FrameAdversary:
    """Both sides' losses of a batch, one number a sample.

    Each sample's frames, views and numbers are drawn by its own generators, and statistics are shared by the frames of
    ``group`` neighbouring samples: nothing depends on the process that a sample falls on.

    Attributes:
        loss: of both sides.
        frames: of each clip that are looked at.
        group: samples whose frames share statistics.
        size: side of what the feature network sees.
        augments: whether frames are changed first (DiffAugment).
        real_by_part: whether real frames are drawn one out of each part of the clip, as the authors do.
        penalised: whether the discriminator's gradient is penalised.
        real_decoded: whether real images pass the autoencoder first.
    """

    loss: AdversarialLoss
    frames: int = 2
    group: int = 4
    size: int = 224
    augments: bool = True
    real_by_part: bool = False
    penalised: bool = False
    real_decoded: bool = False

    def generator_loss(self, networks: Networks, latents: Tensor, text: Tensor, draws: SampleDraws) -> Tensor:
        """What the student minimises, ``[B]``; gradients pass decoder and features.

        Args:
            networks: "decoder", "features" and "discriminator".
            latents: predicted clean ones ``[B, C, F, h, w]``.
            text: a vector a sample ``[B, D]``.
            draws: of the samples.
        """
        images = self._made(networks, latents, draws)
        logits = networks["discriminator"](networks["features"](images), *self._given(text))
        return per_sample(self.loss.generator(logits), len(latents))

    def real_of(self, clips: Tensor, text: Tensor, draws: SampleDraws) -> Real:
        """Frames of real clips.

        Args:
            clips: ``[B, 3, F, H, W]`` in [0, 1].
            text: a vector a sample ``[B, D]``.
            draws: of the samples.
        """
        choose = one_of_each_part if self.real_by_part else any_frames
        images = self._chosen(clips, choose, draws.random(Purpose.REAL_FRAMES))
        return Real(images=images, text=text.repeat_interleave(self.frames, 0))

    def discriminator_loss(
        self, networks: Networks, latents: Tensor, real: Real, text: Tensor, draws: SampleDraws
    ) -> Judgement:
        """What the discriminator minimises.

        Args:
            networks: as in `generator_loss`; where the gradient is penalised also "penalty", the penalties' weight, and
                where real images pass the autoencoder "autoencoder".
            latents: predicted clean ones ``[B, C, F, h, w]``.
            real: what is real.
            text: a vector a sample ``[B, D]``.
            draws: of the samples.
        """
        with torch.no_grad():
            made = self._made(networks, latents, draws)
            shown = networks["autoencoder"](real.images) if self.real_decoded else real.images
            seen_real = self._seen(shown * 2.0 - 1.0, draws.generators(Purpose.REAL_VIEW))
            images = [made, seen_real]
            if self.penalised:
                images.append(mixed(seen_real, made, draws.uniform(self.frames, Purpose.MIX).flatten()))
            seen: list[dict[str, Tensor]] = [networks["features"](part) for part in images]
        if self.penalised:
            seen[-1] = {name: value.detach().requires_grad_() for name, value in seen[-1].items()}
        given, groups = self._given(text)
        vectors = torch.cat([given, real.text, *([given] if self.penalised else [])])  # as the authors: the clip's
        features = {name: torch.cat([part[name] for part in seen]) for name in seen[0]}
        parts, samples = len(seen), len(latents)
        logits = networks["discriminator"](features, vectors, groups * parts).chunk(parts)
        values = per_sample(self.loss.made(logits[0]), samples) + per_sample(self.loss.real(logits[1]), samples)
        told = {"logits/made": per_sample(logits[0], samples), "logits/real": per_sample(logits[1], samples)}
        if self.penalised:
            told["penalty"] = per_sample(gradient_penalty(gradient_norms(logits[2], seen[2])), samples)
            values = values + networks["penalty"](told["penalty"])
        return Judgement(values=values, told={name: value.detach() for name, value in told.items()})

    def _given(self, text: Tensor) -> tuple[Tensor, int]:
        """A text for each frame, and the number of groups.

        Raises:
            ValueError: the samples do not make whole groups.
        """
        if len(text) % self.group:
            raise ValueError(
                f"{len(text)} clips are computed at a time and the statistics of {self.group} belong together "
                f"(disc_group); allowed: a multiple of {self.group}. Change --batch or --accumulation, or give "
                "--disc-group 1."
            )
        return text.repeat_interleave(self.frames, 0), len(text) // self.group

    def _made(self, networks: Networks, latents: Tensor, draws: SampleDraws) -> Tensor:
        chosen = self._chosen(latents, any_frames, draws.random(Purpose.FRAMES))
        return self._seen(networks["decoder"](chosen), draws.generators(Purpose.VIEW))

    def _chosen(self, clips: Tensor, choose: Callable[[int, int, Random], list[int]], random: list[Random]) -> Tensor:
        """Frames of each clip ``[B, C, F, h, w]``: ``[B * frames, C, h, w]``."""
        picked = [
            clip[:, choose(clip.shape[1], self.frames, generator)].transpose(0, 1)
            for clip, generator in zip(clips, random, strict=True)
        ]
        return torch.cat(picked)

    def _seen(self, frames: Tensor, generators: list[torch.Generator]) -> Tensor:
        """What the feature network sees of frames ``[B * frames, 3, H, W]`` in [-1, 1]."""
        height, width = frames.shape[2:]
        drawn = (self.frames, height, width, self.size)
        views = [draw_view(*drawn, generator, augments=self.augments) for generator in generators]
        return prepare(frames, joined_views(views), self.size)
