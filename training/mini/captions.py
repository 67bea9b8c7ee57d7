"""Tokens of the world's captions, whole and shortened, so that a prompt may leave the motion or the place open."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.tokens import tokenize, vocabulary_of
from . import world
from .worlds.base import World, world_named

FULL, NO_PLACE, NO_MOTION, OBJECT_ONLY, EMPTY = range(5)
# How often each form is drawn; EMPTY is the text dropped for guidance. A single frame shows no motion.
CLIPS = (0.79, 0.04, 0.04, 0.03, 0.10)
FRAMES = (0.40, 0.05, 0.40, 0.05, 0.10)
_UNKNOWN_TOKEN = 0  # CLIP id 0, "!": not in the captions, so the text encoder reads it as an unknown word


def caption_forms(combination: world.Combination) -> list[str]:
    """The caption in all forms, indexed by the constants above."""
    of = world_named(combination.world)
    thing = of.objects[combination.thing].caption
    motion, place = of.motions[combination.motion], of.places[combination.place]
    return [combination.caption, f"{thing} {motion}", f"{thing} {place}", thing, ""]


class CaptionTokens:
    """Token ids of every combination's caption forms."""

    def __init__(self, of: World = world.MINI) -> None:
        texts = [t for c in of.combinations() for t in caption_forms(c)]
        self.vocabulary = vocabulary_of(texts)
        self.ids = tokenize(texts).view(len(of.combinations()), 5, -1)

    def draw(
        self, labels: Tensor, generator: torch.Generator, shares: tuple[float, ...] = CLIPS, unknown: float = 0.02
    ) -> Tensor:
        """Ids of a random form of each label's caption; a few words become unknown ones.

        Args:
            labels: long ``[B]``.
            generator: draws the forms and words.
            shares: probability of each form.
            unknown: probability that a word is unknown.

        Returns:
            long ``[B, 77]``.
        """
        form = torch.multinomial(torch.tensor(shares), len(labels), replacement=True, generator=generator)
        ids = self.ids[labels, form]
        hidden = (torch.rand(ids.shape, generator=generator) < unknown) & (ids < 49406)
        return ids.masked_fill(hidden, _UNKNOWN_TOKEN)

    def full(self, labels: Tensor) -> Tensor:
        """Ids of the whole captions, long ``[B, 77]``."""
        return self.ids[labels, FULL]

    def empty(self, count: int) -> Tensor:
        """Ids of the empty prompt, long ``[count, 77]``."""
        return self.ids[0, EMPTY].expand(count, -1)
