"""What a rendered world is: objects, motions, places, the frames' size and number, and what is held out of training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ..render import Pose, Scene

DEFAULT: Final = "videolcm-mini"
"""The world that commands take where none is named."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object.

    Attributes:
        caption: noun with article.
        library: name of the furniture library.
        number: catalogue number in it.
        scale: longest side in units of the world.
        front: yaw in radians at which it faces +z, the camera.
        rolls: whether it rolls when it moves sideways.
        tint: colour in [0, 1] that its coloured parts are dyed; None leaves them.
    """

    caption: str
    library: str
    number: int
    scale: float = 1.0
    front: float = 0.0
    rolls: bool = False
    tint: tuple[float, float, float] | None = None


@dataclass(frozen=True, order=True)
class Combination:
    """One (object, motion, place) of a world, which is found by its name."""

    thing: str
    motion: str
    place: str
    world: str = DEFAULT

    @property
    def caption(self) -> str:
        """The English caption, the prompt that the model is trained with."""
        return world_named(self.world).caption(self)


@dataclass(frozen=True, kw_only=True)
class World:
    """A world: commands choose it with ``--world`` or read its name in ``corpus.json``.

    Attributes:
        name: as commands and corpora know it.
        objects: by name.
        motions: the caption's verb phrase by name.
        places: the caption's place by name.
        size: side of the frames in pixels.
        frames: of a clip.
        fps: frames per second.
        held_out_rule: whether the combination of the i-th object, j-th motion, k-th place is never trained on. It must
            hold out a motion's mirror image with it, and leave each pair of attributes in training.
        poses: an object's way through the clip, one pose per frame.
        scenes: camera, sun, floor and sky, one scene per frame.
        floors: makes the floor textures by place, ``uint8 [H, W, 3]`` each.
        mirror: the motion that a mirror image shows, where it is another.
        compressed: whether shards are compressed; shards that are not are read through a memory map.
    """

    name: str
    objects: Mapping[str, Thing]
    motions: Mapping[str, str]
    places: Mapping[str, str]
    size: int
    frames: int
    fps: int
    held_out_rule: Callable[[int, int, int], bool]
    poses: Callable[[Combination, np.random.Generator], list[Pose]]
    scenes: Callable[[Combination, dict[str, np.ndarray], np.random.Generator], list[Scene]]
    floors: Callable[[], dict[str, np.ndarray]]
    mirror: Mapping[str, str] = field(default_factory=lambda: {"left": "right", "right": "left"})
    compressed: bool = True

    def caption(self, combination: Combination) -> str:
        """The whole caption of a combination."""
        c = combination
        return f"{self.objects[c.thing].caption} {self.motions[c.motion]} {self.places[c.place]}"

    def combinations(self) -> list[Combination]:
        """All combinations, in a fixed order."""
        every = itertools.product(self.objects, self.motions, self.places)
        return [Combination(*c, world=self.name) for c in every]

    def held_out(self) -> list[Combination]:
        """The combinations never trained on."""
        parts = (enumerate(names) for names in (self.objects, self.motions, self.places))
        return [
            Combination(thing, motion, place, self.name)
            for (i, thing), (j, motion), (k, place) in itertools.product(*parts)
            if self.held_out_rule(i, j, k)
        ]

    def training_combinations(self) -> list[Combination]:
        """All combinations but the held-out ones."""
        out = set(self.held_out())
        return [c for c in self.combinations() if c not in out]

    def mirrored(self, combination: Combination) -> Combination:
        """The combination that a horizontally flipped clip shows."""
        return replace(combination, motion=self.mirror.get(combination.motion, combination.motion))


def worlds() -> dict[str, World]:
    """All worlds by name."""
    from .. import world  # each world builds on this module
    from . import large

    return {w.name: w for w in (world.MINI, large.LARGE)}


def world_named(name: str) -> World:
    """The world of a name.

    Raises:
        ValueError: there is none of that name.
    """
    known = worlds()
    if name not in known:
        raise ValueError(f"there is no world {name!r}; allowed: {', '.join(known)}. Name one of these with --world.")
    return known[name]


def tiling_noise(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth periodic noise with unit deviation, ``float64 [size, size]``; ``sigma`` is its blur in pixels."""
    frequency = np.fft.fftfreq(size)
    envelope = np.exp(-2 * (np.pi * sigma) ** 2 * (frequency[:, None] ** 2 + frequency[None] ** 2))
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * envelope).real
    return noise / noise.std()
