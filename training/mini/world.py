"""The world of ``videolcm-mini``: which objects, motions and places there are, how they look, what is held out."""

from __future__ import annotations

from typing import Final

import numpy as np

from .render import Pose, Scene
from .worlds.base import DEFAULT, Combination, Thing, World, tiling_noise

FRAMES = 16
SIZE = 64
FPS = 8


OBJECTS: dict[str, Thing] = {
    "snowman": Thing(caption="a snowman", library="BlendSwap-CC-BY", number=72),
    "horse": Thing(caption="a horse", library="BlendSwap-CC-0", number=97, scale=1.15),
    "teddy bear": Thing(caption="a teddy bear", library="BlendSwap-CC-0", number=51),
    "basketball": Thing(caption="a basketball", library="BlendSwap-CC-0", number=78, scale=0.75, rolls=True),
    "cactus": Thing(caption="a cactus", library="BlendSwap-CC-0", number=107),
    "grand piano": Thing(caption="a grand piano", library="BlendSwap-CC-0", number=30, scale=1.1),
    "bus": Thing(caption="a bus", library="Scopia", number=247, scale=1.5),
    "chicken": Thing(caption="a chicken", library="BlendSwap-CC-0", number=94),
    "fire hydrant": Thing(caption="a fire hydrant", library="KatorLegaz", number=79),
    "umbrella": Thing(caption="an umbrella", library="BlendSwap-CC-0", number=60),
}
# Left and right share a caption: a network this small, without frame positions, does not learn to tell them apart in
# the time it is given (swapping the two words leaves its loss the same). Which side it is, the seed decides.
MOTIONS: dict[str, str] = {
    "left": "moves to the side",
    "right": "moves to the side",
    "jump": "jumps up and down",
    "spin": "spins around",
}
PLACES: dict[str, str] = {
    "grass": "on grass",
    "sand": "on sand",
    "snow": "on snow",
    "checkered": "on a checkered floor",
}


def combinations() -> list[Combination]:
    """All combinations, in a fixed order."""
    return MINI.combinations()


def held_out() -> list[Combination]:
    """The combinations never trained on: one in five, so that each pair of (object, motion), ... is still seen."""
    return MINI.held_out()


def training_combinations() -> list[Combination]:
    """All combinations but the held-out ones."""
    return MINI.training_combinations()


def _is_held_out(i: int, j: int, k: int) -> bool:
    """One in five. A mirrored clip is the other horizontal motion, so the two motions share one kind."""
    kind = max(j - 1, 0)
    return (i + 2 * kind + k) % 5 == 0 and kind < 3


def poses(combination: Combination, rng: np.random.Generator) -> list[Pose]:
    """The object's way through the clip.

    Args:
        combination: what moves, and how.
        rng: draws speed, phase and facing.

    Returns:
        One pose per frame.
    """
    thing = OBJECTS[combination.thing]
    s = np.linspace(0.0, 1.0, FRAMES)
    yaw = np.full(FRAMES, thing.front + rng.uniform(-0.7, 0.7))
    x, y, roll = np.full(FRAMES, rng.uniform(-0.08, 0.08)), np.zeros(FRAMES), np.zeros(FRAMES)
    if combination.motion in ("left", "right"):
        sign = 1.0 if combination.motion == "right" else -1.0
        reach = rng.uniform(0.42, 0.55)
        x = sign * (-reach + 2 * reach * s) + rng.uniform(-0.05, 0.05)
        yaw = np.full(FRAMES, thing.front + sign * np.pi / 2 + rng.uniform(-0.25, 0.25))
        if thing.rolls:
            roll = -x / (0.5 * thing.scale)
    elif combination.motion == "jump":
        phase = s * rng.uniform(1.4, 2.1) + rng.uniform(0, 1)
        y = rng.uniform(0.32, 0.42) * 4 * (phase % 1) * (1 - phase % 1)
    else:
        turn = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 1.4) * 2 * np.pi
        yaw = thing.front + rng.uniform(0, 2 * np.pi) + turn * s
    return [
        Pose(position=(float(x[i]), float(y[i]), 0.0), yaw=float(yaw[i]), roll=float(roll[i]), scale=thing.scale)
        for i in range(FRAMES)
    ]


_SKIES = {
    "grass": ((0.75, 0.87, 0.97), (0.33, 0.58, 0.92)),
    "sand": ((0.99, 0.78, 0.52), (0.93, 0.50, 0.32)),
    "snow": ((0.80, 0.84, 0.88), (0.56, 0.62, 0.70)),
    "checkered": ((0.20, 0.19, 0.36), (0.07, 0.07, 0.20)),
}


def scene(combination: Combination, floors: dict[str, np.ndarray], rng: np.random.Generator) -> Scene:
    """Camera, sun, floor and sky of a clip, slightly varied."""
    low, high = _SKIES[combination.place]
    height, distance = rng.uniform(0.75, 1.0), rng.uniform(2.55, 2.75)
    return Scene(
        eye=(float(rng.uniform(-0.25, 0.25)), float(height), float(distance)),
        look_at=(0.0, 0.52, 0.0),
        sun=(float(rng.uniform(-0.9, 0.9)), 1.6, float(rng.uniform(0.5, 1.1))),
        floor=floors[combination.place],
        sky_low=low,
        sky_high=high,
        ambient=0.62 if combination.place == "checkered" else 0.52,
    )


def floor_images(size: int = 256) -> dict[str, np.ndarray]:
    """Synthesised floor textures, ``uint8 [size, size, 3]`` each."""
    rng = np.random.default_rng(5)
    fine = [tiling_noise(rng, size, s) for s in (2, 6, 20)]
    speckle = 0.5 * fine[0] + 0.3 * fine[1] + 0.2 * fine[2]
    base = {"grass": (0.24, 0.55, 0.16), "sand": (0.88, 0.72, 0.42), "snow": (0.95, 0.96, 0.98)}
    depth = {"grass": 0.35, "sand": 0.15, "snow": 0.06}
    images = {n: np.array(c) * (1 + depth[n] * speckle[..., None]) for n, c in base.items()}
    cell = np.arange(size) // (size // 2)
    board = (cell[:, None] + cell[None]) % 2
    images["checkered"] = np.where(board[..., None] == 1, np.array([0.92, 0.90, 0.86]), np.array([0.16, 0.15, 0.2]))
    return {n: (np.clip(i, 0, 1) * 255).astype(np.uint8) for n, i in images.items()}


MINI: Final = World(
    name=DEFAULT,
    objects=OBJECTS,
    motions=MOTIONS,
    places=PLACES,
    size=SIZE,
    frames=FRAMES,
    fps=FPS,
    held_out_rule=_is_held_out,
    poses=poses,
    scenes=lambda combination, floors, rng: [scene(combination, floors, rng)] * FRAMES,
    floors=floor_images,
)
