"""Train the embedded depth estimator: ``python -m training.mini.depth --corpus DIR --out FILE``; rerun to resume.

One network estimates inverse depth and the object's silhouette from single frames. It learns from the corpus's true
layers, half of the frames as rendered and half after the autoencoder, so that it can also judge generated clips.
``--export`` writes the shipped file; a second run with another ``--seed`` makes an independent judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from videolcm_core.files.writing import save_safetensors
from videolcm_core.networks.annotators.mini_depth import MiniDepth

from ..data import latents
from ..engine.caches import fingerprint
from ..engine.commands import run_command
from ..engine.identity import Identity
from ..engine.loop import LoopOptions, run
from ..engine.rates import set_learning_rate, warmup_stable_decay
from ..metrics.control import rank_correlation, silhouette_iou
from . import corpus, world
from . import family as mini

_AUTOENCODED_EVERY = 4


def training_frames(
    folder: Path, autoencoder: Any, combinations: list[world.Combination]
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames as rendered, then some of them after the autoencoder, with true inverse depth and silhouettes.

    Returns:
        uint8 ``[N, 3, H, W]``, float16 ``[N, 1, H, W]``, uint8 ``[N, 1, H, W]``.
    """
    arrays, _ = corpus.load_layers(folder, combinations, ("clips", "depth", "silhouette"))
    seen = latents.decode_clips(autoencoder, latents.encode_clips(autoencoder, arrays["clips"][::_AUTOENCODED_EVERY]))
    rgb = torch.cat([torch.from_numpy(arrays["clips"]), seen]).flatten(0, 1).permute(0, 3, 1, 2)
    layers = []
    for name in ("depth", "silhouette"):
        value = torch.from_numpy(arrays[name])
        layers.append(torch.cat([value, value[::_AUTOENCODED_EVERY]]).flatten(0, 1)[:, None])
    return rgb, layers[0], layers[1]


def varied(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, tint, softness and noise of frames ``[B, 3, H, W]`` vary a little."""
    count = len(rgb)
    gain = (
        1
        + 0.15 * torch.randn(count, 1, 1, 1, generator=generator)
        + 0.05 * torch.randn(count, 3, 1, 1, generator=generator)
    )
    soft = functional.interpolate(functional.avg_pool2d(rgb, 2), rgb.shape[2:], mode="bilinear")
    share = torch.rand(count, 1, 1, 1, generator=generator) * 0.7
    noise = 0.02 * torch.randn(rgb.shape, generator=generator)
    return ((rgb * (1 - share) + soft * share) * gain + noise).clamp(0, 1)


class DepthTask:
    """L1 on inverse depth and on its edges, cross-entropy on the silhouette."""

    def __init__(self, frames: tuple[Tensor, Tensor, Tensor], steps: int, batch: int = 48) -> None:
        self.frames, self.steps, self.batch = frames, steps, batch
        self.model = MiniDepth().channels_last()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.01)

    def state(self) -> dict[str, Any]:
        """Model and optimiser."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step on ``batch`` frames, mirrored or not."""
        set_learning_rate(self.optimizer, warmup_stable_decay(index, self.steps, peak=2e-3, decay=0.5))
        # Every other frame of a batch comes from the autoencoded part at the end.
        total, half = len(self.frames[0]), self.batch // 2
        rendered = total * _AUTOENCODED_EVERY // (_AUTOENCODED_EVERY + 1)
        first = torch.randint(rendered, (half,), generator=generator)
        chosen = torch.cat([first, torch.randint(rendered, total, (half,), generator=generator)])
        rgb, depth, silhouette = (value[chosen].float() for value in self.frames)
        if torch.rand((), generator=generator) < 0.5:
            rgb, depth, silhouette = rgb.flip(-1), depth.flip(-1), silhouette.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            estimate, logits = self.model(varied(rgb / 255, generator).contiguous(memory_format=torch.channels_last))
        errors = estimate.float() - depth
        edges = (errors.diff(dim=-1).abs().mean() + errors.diff(dim=-2).abs().mean()) / 2
        outline = functional.binary_cross_entropy_with_logits(logits.float(), silhouette / 255)
        loss = errors.abs().mean() + edges + 0.2 * outline
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"loss": float(loss.detach()), "depth": float(errors.abs().mean().detach())}


def load_depth(path: Path) -> MiniDepth:
    """The network out of a checkpoint of this command."""
    model = MiniDepth()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["task"]["model"])
    return model.train(False).requires_grad_(False).channels_last()


@torch.no_grad()
def estimate(model: MiniDepth, clips: Tensor, batch: int = 8) -> tuple[Tensor, Tensor]:
    """Inverse depth and silhouette of clips.

    Args:
        model: the network.
        clips: uint8 ``[N, F, H, W, 3]``.
        batch: clips at a time.

    Returns:
        float ``[N, F, H, W]`` and bool ``[N, F, H, W]``.
    """
    depths, silhouettes = [], []
    for part in clips.split(batch):
        frames = part.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        depth, logits = model(frames.contiguous(memory_format=torch.channels_last))
        depths.append(depth[:, 0].unflatten(0, part.shape[:2]))
        silhouettes.append((logits[:, 0] > 0).unflatten(0, part.shape[:2]))
    return torch.cat(depths), torch.cat(silhouettes)


def accuracy(model: MiniDepth, folder: Path, every: int = 4) -> dict[str, float]:
    """Against the truth on rendered held-out scenes: mean error, rank correlation in a clip, silhouette IoU."""
    arrays, _ = corpus.load_layers(folder, corpus.world_of(folder).held_out(), ("clips", "depth", "silhouette"))
    depth, silhouette = estimate(model, torch.from_numpy(arrays["clips"][::every]))
    truth = torch.from_numpy(arrays["depth"][::every]).float()
    outline = torch.from_numpy(arrays["silhouette"][::every]) > 127
    return {
        "mean absolute error": float((depth - truth).abs().mean()),
        "rank correlation": float(rank_correlation(depth, truth).mean()),
        "silhouette IoU": float(silhouette_iou(silhouette, outline).mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=Path("models/videolcm-mini-teacher.safetensors"))
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, help="write the network as safetensors")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    autoencoder = mini.load_all_in_one(options.start).autoencoder
    seen = corpus.world_of(options.corpus).training_combinations()
    task = DepthTask(training_frames(options.corpus, autoencoder, seen), options.steps)
    identity = Identity(
        fixed={"autoencoder": fingerprint(autoencoder), "seed": str(options.seed)},
        data=corpus.corpus_identity(options.corpus),
    )
    loop = LoopOptions(checkpoint=options.out, identity=identity, steps=options.steps, seed=options.seed)
    run(task, loop)
    model = load_depth(options.out)
    found = accuracy(model, options.corpus)
    print("on rendered held-out scenes:", found)
    if options.export is not None:
        options.export.parent.mkdir(parents=True, exist_ok=True)
        described = {
            "videolcm.annotator": "mini_depth",
            "videolcm.depth_unit": "inverse depth, 3 / distance",
            "modelspec.title": "videolcm-mini depth",
            "modelspec.license": "CC BY 3.0 (trained on renderings of CC0 and CC BY 3.0 models, see models/README.md)",
        }
        save_safetensors({k: v.half() for k, v in model.state_dict().items()}, options.export, described)


if __name__ == "__main__":
    run_command(main)
