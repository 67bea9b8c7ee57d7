"""While a run samples: its prediction of the clean video, decoded by the file's own small decoder, as one sheet.

The host's own previews show the first frame as blocks of colour. This one hangs on the MODEL, so every sampler of the
host shows it, and takes no more than `SHARE` of the run: it draws as many frames as fit into that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.networks.autoencoder import TinyAutoencoder
from .. import host

KEY: Final = "videolcm_preview"
SHARE: Final = 0.08
"""Of a run's time, sampling and decoding together, for decoding previews; with sending them it stays below a tenth."""
MOST_FRAMES: Final = 16


def attach_preview(patcher: Any, autoencoder: Mapping[str, Tensor]) -> None:
    """Show what runs with this MODEL predict, if the autoencoder of its file is small enough to be run at every step.

    Args:
        patcher: The MODEL.
        autoencoder: The file's own; other layouts than the tiny autoencoder's are left alone.
    """
    with torch.device("meta"):
        model = TinyAutoencoder()
    if {key: value.shape for key, value in autoencoder.items()} != {k: v.shape for k, v in model.state_dict().items()}:
        return
    model.load_state_dict({key: value.float() for key, value in autoencoder.items()}, assign=True)
    model.skip_idle_blocks()
    model.train(False).requires_grad_(False).channels_last()
    patcher.add_wrapper_with_key(host.WrappersMP.OUTER_SAMPLE, KEY, Preview(model.taesd_decoder))


class Preview:
    """Wrapper of a sampling run that shows its predictions.

    Attributes:
        decoder: Latents as the network sees them, ``[N, 4, h, w]``, to images in [0, 1], ``[N, 3, 8h, 8w]``.
        seconds: That one latent cell took, as last measured; None before.
    """

    def __init__(self, decoder: torch.nn.Module) -> None:
        self.decoder = decoder
        self.seconds: float | None = None

    def __call__(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[..., Any] | None = None,
        *rest: Any,
        **options: Any,
    ) -> Tensor:
        """Run, with a callback that shows what the given one is told."""
        shown = self.watched(callback) if host.shows_previews() else callback
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, shown, *rest, **options)

    def watched(self, callback: Callable[..., Any] | None) -> Callable[..., Any]:
        """The callback of a run that begins now, which shows previews too."""
        begun, spent = perf_counter(), 0.0

        def call(step: int, x_0: Tensor, x: Tensor, steps: int) -> None:
            nonlocal spent
            if callback is not None:
                callback(step, x_0, x, steps)
            # The last prediction is the result, which is decoded anyway.
            if step + 1 < steps and not getattr(x_0, "is_nested", False):
                start = perf_counter()
                frames = x_0[0].movedim(1, 0) if x_0.ndim == 5 else x_0
                sampled = start - begun - spent
                host.show_preview(step + 1, steps, self.sheet(frames, sampled, sampled * steps / (step + 1), spent))
                spent += perf_counter() - start

        return call

    def sheet(self, frames: Tensor, sampled: float, sampling: float, spent: float) -> Tensor | None:
        """As many frames as the run's time allows, spread over the video: the first at once, others when time is saved.

        Args:
            frames: ``[F, 4, h, w]``.
            sampled: Seconds that the run sampled so far, without previews.
            sampling: Seconds that it will in all.
            spent: Seconds that its previews took so far.

        Returns:
            ``uint8 [height, width, 3]`` on the CPU; None where there is no time for one.
        """
        cells = frames.shape[-2] * frames.shape[-1]
        if self.seconds is None:
            self._decode(frames[:1])  # the first call is slower: it prepares the convolutions
            self._decode(frames[:1])
        each = max((self.seconds or 0.0) * cells, 1e-12)
        count = fitting(len(frames), SHARE * (sampling + each * len(frames)) / each)
        if not count or (spent and spent + count * each > SHARE * sampled):
            return None
        chosen = torch.linspace(0, len(frames) - 1, count).round().long() if count > 1 else torch.tensor([0])
        return grid(self._decode(frames[chosen.to(frames.device)]))

    def _decode(self, frames: Tensor) -> Tensor:
        start = perf_counter()
        with torch.inference_mode():
            self.decoder.to(frames.device)
            images = self.decoder(frames.float().contiguous(memory_format=torch.channels_last)).cpu()
        self.seconds = (perf_counter() - start) / (frames.shape[0] * frames.shape[-2] * frames.shape[-1])
        return images


def fitting(frames: int, most: float) -> int:
    """How many frames a sheet shows: all, or what fills its rows; not more than ``most`` and `MOST_FRAMES`."""
    return next((count for count in (min(frames, MOST_FRAMES), 12, 9, 6, 4, 2, 1) if count <= min(most, frames)), 0)


def grid(images: Tensor) -> Tensor:
    """Images in rows, as near to a square as their number allows.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1]; beyond is cut.

    Returns:
        ``uint8 [rows * H, columns * W, 3]``; places that are left are black.
    """
    count, channels, height, width = images.shape
    columns = int(count**0.5 + 0.999)
    rows = -(-count // columns)
    sheet = images.new_zeros(rows * columns, channels, height, width)
    sheet[:count] = images.clamp(0, 1)
    sheet = sheet.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    return (sheet.reshape(rows * height, columns * width, channels) * 255).round().to(torch.uint8)
