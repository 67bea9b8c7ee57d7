"""A text-video retrieval score trained on the corpus itself: does a clip find its caption among the held-out ones?

It is no CLIPSIM: a small dual encoder, trained on real clips and captions of the training combinations only, for where
no CLIP is at hand. ``python -m training.mini.retrieval --corpus DIR --out FILE`` trains it and prints its R@1 and
R@5 on real clips of combinations that neither it nor the video models have seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..engine.commands import run_command
from ..engine.identity import Identity
from ..engine.loop import LoopOptions, run
from . import corpus, world
from .recognizer import JudgeTask, Recognizer, to_input, training_clips

WIDTH, SHARPNESS = 64, 20.0


def words() -> list[str]:
    """Every word of the captions, in a fixed order."""
    return sorted({word for c in world.combinations() for word in c.caption.split()})


def word_rows(captions: list[str]) -> Tensor:
    """Captions as counts of words, ``[N, V]``; order is of no use to captions of this form."""
    index = {word: i for i, word in enumerate(words())}
    rows = torch.zeros(len(captions), len(index))
    for row, caption in zip(rows, captions, strict=True):
        for word in caption.split():
            row[index[word]] += 1
    return rows


def distinct_captions(combinations: list[world.Combination]) -> list[str]:
    """Captions without repetition (left and right share one)."""
    return list(dict.fromkeys(c.caption for c in combinations))


class Retriever(nn.Module):
    """Clips and captions to unit vectors of one space."""

    def __init__(self) -> None:
        super().__init__()
        backbone = Recognizer()
        self.frames, self.time = backbone.frames, backbone.time
        self.video = nn.Linear(256, WIDTH)
        self.text = nn.Sequential(nn.Linear(len(words()), 128), nn.SiLU(), nn.Linear(128, WIDTH))

    def embed_clips(self, clips: Tensor) -> Tensor:
        """Clips ``[B, F, 3, 32, 32]`` in [0, 1] to ``[B, 64]``."""
        features = self.frames(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        both = torch.cat([features.mean(1), self.time(features.transpose(1, 2)).amax(-1)], 1)
        return functional.normalize(self.video(both), dim=1)

    def embed_captions(self, captions: list[str]) -> Tensor:
        """Captions to ``[N, 64]``."""
        return functional.normalize(self.text(word_rows(captions)), dim=1)


class RetrieverTask(JudgeTask):
    """Each clip must find its caption among all captions of the training combinations."""

    model: Retriever

    def __init__(self, clips: Tensor, shown: list[world.Combination], steps: int, batch: int = 32) -> None:
        self.captions = distinct_captions(shown)
        index = {caption: i for i, caption in enumerate(self.captions)}
        super().__init__(Retriever(), clips, torch.tensor([index[c.caption] for c in shown]), steps, batch)

    def loss(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over the captions."""
        scores = SHARPNESS * self.model.embed_clips(clips) @ self.model.embed_captions(self.captions).T
        return functional.cross_entropy(scores, labels)


@torch.no_grad()
def caption_ranks(model: Retriever, clips: Tensor, combinations: list[world.Combination]) -> Tensor:
    """Place of each clip's own caption among the distinct held-out captions, 0 is first.

    Args:
        model: from `load_retriever`.
        clips: uint8 ``[N, F, H, W, 3]``.
        combinations: held-out ones, what each clip should show.

    Returns:
        long ``[N]``.
    """
    captions = distinct_captions(world.held_out())
    right = torch.tensor([captions.index(c.caption) for c in combinations])
    texts = model.embed_captions(captions)
    scores = torch.cat([model.embed_clips(to_input(part)) @ texts.T for part in clips.split(32)])
    return (scores > scores.gather(1, right[:, None])).sum(1)


def load_retriever(path: Path) -> Retriever:
    """The trained dual encoder."""
    model = Retriever()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["task"]["model"])
    return model.train(False).requires_grad_(False)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    task = RetrieverTask(*training_clips(options.corpus), options.steps)
    identity = Identity(data=corpus.corpus_identity(options.corpus))
    run(task, LoopOptions(checkpoint=options.out, identity=identity, steps=options.steps))
    held_out, combinations = corpus.load_corpus(options.corpus, world.held_out())
    ranks = caption_ranks(load_retriever(options.out), torch.from_numpy(held_out), combinations)
    count = len(distinct_captions(combinations))
    print(
        f"real held-out clips, {count} captions: R@1 {(ranks < 1).float().mean():.3f}, "
        f"R@5 {(ranks < 5).float().mean():.3f}"
    )


if __name__ == "__main__":
    run_command(main)
