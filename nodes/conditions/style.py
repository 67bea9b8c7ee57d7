"""Image style: CLIP vision embeddings as tokens beside the text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from .pixels import check_supported

STYLE_KEY: Final = "videolcm_style"


@dataclass(frozen=True, eq=False, kw_only=True)
class Style:
    """The style of an image, as it travels in CONDITIONING.

    Attributes:
        embeds: CLIP vision's projected embedding ``[1, D]``, not normalised. Zeros in the negative branch: the authors
            pass zeros through the layers that make tokens.
        strength: Factor on the tokens.
    """

    embeds: Tensor
    strength: float = 1.0

    @classmethod
    def of(cls, output: Any, strength: float) -> Style:
        """From the output of core's CLIP Vision Encode; several images are averaged.

        Raises:
            ValueError: If it has no projected embedding, or values are not finite.
        """
        embeds = getattr(output, "image_embeds", None)
        if embeds is None or embeds.ndim != 2 or not len(embeds):
            raise ValueError(
                f"clip_vision_output has no image embedding (image_embeds is {_described(embeds)}); allowed: "
                f"[images, width]. Use CLIP Vision Encode with OpenCLIP ViT-H; DINO and SigLIP models make none."
            )
        if not embeds.isfinite().all():
            raise ValueError(
                "clip_vision_output has values that are not numbers; allowed: finite values. Check the image that "
                "was encoded."
            )
        return cls(embeds=embeds.float().mean(dim=0, keepdim=True), strength=strength)

    def uncond(self) -> Style:
        """What the negative branch gets."""
        return replace(self, embeds=torch.zeros_like(self.embeds))


def _described(embeds: Any) -> str:
    return str(list(embeds.shape)) if isinstance(embeds, Tensor) else type(embeds).__name__


def style_tokens(network: Any, styles: Iterable[Style], device: Any, dtype: Any) -> Tensor:
    """Tokens of each style in turn, ``[1, 4 * styles, D]``.

    Args:
        network: The `HostUNet`, loaded.
        styles: At least one.
        device: Where the network computes.
        dtype: The network's compute precision.

    Raises:
        ValueError: If the network takes no image, or an embedding has another width than its text.
    """
    check_supported("image", network.config.conditions)
    width = network.config.context_dim
    tokens = []
    for style in styles:
        if style.embeds.shape[-1] != width:
            raise ValueError(
                f"The style image was encoded {style.embeds.shape[-1]} wide; this VideoLCM model takes {width}. "
                f"{_advice(width)}"
            )
        made = network.pre_image_condition(style.embeds.to(device, dtype)).float() * style.strength
        tokens.append(made.reshape(1, -1, width))
    return torch.cat(tokens, dim=1)


def _advice(width: int) -> str:
    if width == 1024:
        return "Load OpenCLIP ViT-H (CLIP-ViT-H-14-laion2B-s32B-b79K) with Load CLIP Vision."
    return "Use the CLIP vision model that this model was trained with."
