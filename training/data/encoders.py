"""What turns frames into latents and captions into text embeddings: the mini family's, or Stable Diffusion's.

`Encoders.load` takes an all-in-one file; `Encoders.stable_diffusion` the autoencoder and OpenCLIP ViT-H text encoder
that the authors' models were trained with, from files that the user has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.text_encoder import END

from ..engine.caches import fingerprint
from ..teachers import Teacher, load_encoders
from .tokens import tokenize

REMEMBERED = 4096  # captions whose embedding is kept


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """Autoencoder and text encoder, and what identifies them.

    Attributes:
        autoencoder: ``encode(pixels [B, 3, H, W] in [0, 1])`` gives the latents that the diffusion model sees.
        text_encoder: token ids ``[B, 77]`` to ``[B, L, D]``.
        device: where both are.
        identity: hash of each one's weights, and what else changes their numbers: ``latents`` "drawn" where they are
            drawn from a posterior, and the padding.
        pad: token id after the end of a text: 49407 for CLIP and the minis, 0 for OpenCLIP.
    """

    autoencoder: nn.Module
    text_encoder: nn.Module
    device: torch.device
    identity: dict[str, str]
    pad: int = END
    _texts: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, autoencoder: nn.Module, text: nn.Module, device: torch.device | str = "cpu", pad: int = END
    ) -> Encoders:
        """Two networks; the identity is that of the weights, not of the files."""
        identity = {"autoencoder": fingerprint(autoencoder), "text": fingerprint(text)}
        if hasattr(autoencoder, "sample"):
            identity["latents"] = "drawn"
        if pad != END:
            identity["pad"] = str(pad)
        return cls(
            autoencoder=autoencoder.to(device),
            text_encoder=text.to(device),
            device=torch.device(device),
            identity=identity,
            pad=pad,
        )

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Encoders:
        """Those of an all-in-one file."""
        autoencoder, text = load_encoders(path)
        return cls.of(autoencoder, text, device)

    @classmethod
    def of_teacher(cls, teacher: Teacher, device: torch.device | str = "cpu") -> Encoders:
        """Those that came in a teacher's file.

        Raises:
            ValueError: it has none.
        """
        if teacher.autoencoder is None or teacher.text is None:
            missing = "autoencoder" if teacher.autoencoder is None else "text encoder"
            raise ValueError(
                f"{teacher.file} has no {missing}; "
                "needed to encode clips. Give Stable Diffusion's files (--vae FILE --text-encoder FILE), or a cache."
            )
        return cls.of(teacher.autoencoder, teacher.text, device)

    @classmethod
    def stable_diffusion(cls, vae: Path, text: Path, device: torch.device | str = "cpu") -> Encoders:
        """Stable Diffusion's autoencoder and OpenCLIP's text encoder, from the user's files.

        Args:
            vae: diffusers folder (or pipeline with ``vae``), or file with ``first_stage_model.`` or bare keys, such as
                ``v2-1_512-ema-pruned.ckpt``.
            text: ``open_clip_pytorch_model.bin``, a file or folder of transformers' CLIPTextModel (or pipeline with
                ``text_encoder``), or an all-in-one checkpoint.
            device: where to encode.

        Raises:
            ValueError: a file is not what it should be.
        """
        from .stable_diffusion import load_autoencoder, load_text_encoder

        encoder, pad = load_text_encoder(text)
        return cls.of(load_autoencoder(vae), encoder, device, pad)

    @torch.no_grad()
    def latents(self, clip: Tensor, seed: int) -> Tensor:
        """One clip, ``uint8 [F, H, W, 3]`` to ``float16 [4, F, h, w]``; numbers as `latents.encode_clips` has them.

        A clip at a time, its frames being the batch: the numbers do not depend on where a killed run stopped.

        Args:
            clip: pixels.
            seed: of the draw from the posterior, where the autoencoder has one (``sample``).
        """
        pixels = clip.to(self.device).permute(0, 3, 1, 2).float().div(255).contiguous(memory_format=torch.channels_last)
        # Stable Diffusion's encoder loses a hundredth in bfloat16; ours was trained in it.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=isinstance(self.autoencoder, TinyAutoencoder)):
            if hasattr(self.autoencoder, "sample"):
                latents = self.autoencoder.sample(pixels, torch.Generator().manual_seed(seed)).float()  # type: ignore[operator]
            else:
                latents = self.autoencoder.encode(pixels).float()  # type: ignore[operator]
        return latents.transpose(0, 1).half().cpu().contiguous()

    @torch.no_grad()
    def text(self, caption: str) -> Tensor:
        """Embedding ``float16 [L, D]``; those of the last captions are remembered."""
        if caption not in self._texts:
            while len(self._texts) >= REMEMBERED:
                self._texts.pop(next(iter(self._texts)), None)
            embedded = self.text_encoder(self.tokens([caption]).to(self.device))[0]
            self._texts[caption] = embedded.half().cpu().contiguous()
        return self._texts[caption]

    def tokens(self, captions: list[str]) -> Tensor:
        """Ids as this text encoder takes them, long ``[B, 77]``."""
        return tokenize(captions, self.pad)


@lru_cache(REMEMBERED)
def token_row(caption: str) -> Tensor:
    """CLIP ids of one caption, long ``[77]``; remembered."""
    return tokenize([caption])[0]


def chosen_encoders(
    start: Path | None, vae: Path | None, text: Path | None, device: torch.device | str = "cpu"
) -> Encoders:
    """The encoders that a command line names: an all-in-one file, or autoencoder and text encoder.

    Raises:
        ValueError: neither, both, or one of the two files.
    """
    if start is not None and vae is None and text is None:
        return Encoders.load(start, device)
    if start is None and vae is not None and text is not None:
        return Encoders.stable_diffusion(vae, text, device)
    given = [n for n, v in (("--start", start), ("--vae", vae), ("--text-encoder", text)) if v is not None]
    raise ValueError(
        f"encoders: got {' and '.join(given) or 'none'}; allowed: --start FILE (an all-in-one model), or --vae FILE "
        "with --text-encoder FILE (Stable Diffusion's). Name one of the two."
    )
