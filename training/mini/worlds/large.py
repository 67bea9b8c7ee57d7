"""The world at 128 x 128 pixels: large objects, some in several colours, seven motions with direction, six places."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..render import Pose, Scene
from .base import Combination, Thing, World
from .floors import floor_images

FRAMES: Final = 16
_CC0, _CC_BY = "BlendSwap-CC-0", "BlendSwap-CC-BY"
_DYES: Final = {"red": (0.85, 0.08, 0.07), "yellow": (0.98, 0.80, 0.08), "blue": (0.10, 0.22, 0.88)}


def _dyed(noun: str, **numbers: object) -> dict[str, Thing]:
    """One object in each of the colours."""
    return {
        f"{color} {noun}": Thing(caption=f"a {color} {noun}", tint=tint, **numbers)  # type: ignore[arg-type]
        for color, tint in _DYES.items()
    }


OBJECTS: Final[dict[str, Thing]] = {
    "horse": Thing(caption="a horse", library=_CC0, number=97, scale=1.35),
    "teddy bear": Thing(caption="a teddy bear", library=_CC0, number=51, scale=1.05),
    "chicken": Thing(caption="a chicken", library=_CC0, number=94, scale=1.1),
    "basketball": Thing(caption="a basketball", library=_CC0, number=78, scale=0.85, rolls=True),
    "barrel": Thing(caption="a barrel", library=_CC0, number=72, scale=0.95),
    "cactus": Thing(caption="a cactus", library=_CC0, number=107, scale=1.1),
    "grand piano": Thing(caption="a grand piano", library=_CC0, number=30, scale=1.25),
    "umbrella": Thing(caption="an umbrella", library=_CC0, number=60, scale=1.15),
    "cupcake": Thing(caption="a cupcake", library=_CC0, number=142),
    "biplane": Thing(caption="a biplane", library=_CC0, number=10, scale=1.4),
    "rocking horse": Thing(caption="a rocking horse", library=_CC0, number=8, scale=1.2, front=np.pi / 2),
    "snowman": Thing(caption="a snowman", library=_CC_BY, number=72, scale=1.05),
    "soccer ball": Thing(caption="a soccer ball", library=_CC_BY, number=71, scale=0.85, rolls=True),
    "dog": Thing(caption="a dog", library=_CC_BY, number=89, scale=1.15),
    "rabbit": Thing(caption="a rabbit", library="Scopia", number=205, scale=1.05),
    "truck": Thing(caption="a truck", library="Scopia", number=212, scale=1.4),
    "fire hydrant": Thing(caption="a fire hydrant", library="KatorLegaz", number=79, scale=1.1),
    **_dyed("armchair", library=_CC0, number=139, scale=1.1),
    **_dyed("gift", library=_CC_BY, number=26, scale=0.95),
    **_dyed("car", library="KatorLegaz", number=69, scale=1.4),
}
MOTIONS: Final[dict[str, str]] = {
    "left": "moves to the left",
    "right": "moves to the right",
    "towards": "comes towards the camera",
    "away": "moves away from the camera",
    "spin": "spins around",
    "jump": "jumps up and down",
    "orbit": "is circled by the camera",
}
PLACES: Final[dict[str, str]] = {
    "grass": "on grass",
    "sand": "on sand",
    "snow": "on snow",
    "checkered": "on a checkered floor",
    "wood": "on wooden boards",
    "carpet": "on a red carpet",
}
_SKIES: Final = {
    "grass": ((0.75, 0.87, 0.97), (0.33, 0.58, 0.92)),
    "sand": ((0.99, 0.78, 0.52), (0.93, 0.50, 0.32)),
    "snow": ((0.80, 0.84, 0.88), (0.56, 0.62, 0.70)),
    "checkered": ((0.27, 0.24, 0.46), (0.10, 0.09, 0.27)),
    "wood": ((0.93, 0.88, 0.76), (0.86, 0.79, 0.62)),
    "carpet": ((0.42, 0.66, 0.62), (0.22, 0.47, 0.47)),
}


def is_held_out(i: int, j: int, k: int) -> bool:
    """One combination in eight; left and right, mirror images of each other, share one kind."""
    return (i + 3 * max(j - 1, 0) + k) % 8 == 0


def poses(combination: Combination, rng: np.random.Generator) -> list[Pose]:
    """The object's way through the clip; ``rng`` draws speed, phase and facing."""
    thing, motion = OBJECTS[combination.thing], combination.motion
    s, still = np.linspace(0.0, 1.0, FRAMES), np.zeros(FRAMES)
    x, y, z, roll = still + rng.uniform(-0.06, 0.06), still, still, still
    yaw = still + thing.front + rng.uniform(-0.7, 0.7)
    if motion in ("left", "right"):
        sign = 1.0 if motion == "right" else -1.0
        x = sign * rng.uniform(0.36, 0.46) * (2 * s - 1) + rng.uniform(-0.05, 0.05)
        yaw = still + thing.front + sign * np.pi / 2 + rng.uniform(-0.25, 0.25)
        roll = -x / (0.5 * thing.scale) if thing.rolls else still
    elif motion in ("towards", "away"):
        far, near = rng.uniform(-2.0, -1.6), rng.uniform(0.2, 0.35)
        z = far + (near - far) * (s if motion == "towards" else 1 - s)
        yaw = still + thing.front + (0 if motion == "towards" else np.pi) + rng.uniform(-0.35, 0.35)
    elif motion == "jump":
        phase = s * rng.uniform(1.4, 2.1) + rng.uniform(0, 1)
        y = rng.uniform(0.24, 0.31) * 4 * (phase % 1) * (1 - phase % 1)
    elif motion == "spin":
        yaw = thing.front + rng.uniform(0, 2 * np.pi) + rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 1.4) * 2 * np.pi * s
    else:
        yaw = still + thing.front + rng.uniform(0, 2 * np.pi)
    way = np.stack([x, y, z], axis=1)
    return [
        Pose(position=(float(p[0]), float(p[1]), float(p[2])), yaw=float(a), roll=float(b), scale=thing.scale)
        for p, a, b in zip(way, yaw, roll, strict=True)
    ]


def scenes(combination: Combination, floors: dict[str, np.ndarray], rng: np.random.Generator) -> list[Scene]:
    """Camera, sun, floor and sky of a clip, slightly varied; only in an orbit does the camera move."""
    low, high = _SKIES[combination.place]
    angle, height, distance = rng.uniform(-0.1, 0.1), rng.uniform(0.8, 1.05), rng.uniform(2.55, 2.75)
    angles = np.full(FRAMES, angle)
    if combination.motion == "orbit":
        angles = rng.uniform(0, 2 * np.pi) + rng.choice([-1.0, 1.0]) * rng.uniform(1.7, 2.4) * np.linspace(0, 1, FRAMES)
    sun = (float(rng.uniform(-0.9, 0.9)), 1.6, float(rng.uniform(0.5, 1.1)))
    return [
        Scene(
            eye=(float(distance * np.sin(a)), float(height), float(distance * np.cos(a))),
            look_at=(0.0, 0.52, 0.0),
            sun=sun,
            floor=floors[combination.place],
            sky_low=low,
            sky_high=high,
            ambient=0.62 if combination.place == "checkered" else 0.54,
        )
        for a in angles
    ]


LARGE: Final = World(
    name="videolcm-mini-128",
    objects=OBJECTS,
    motions=MOTIONS,
    places=PLACES,
    size=128,
    frames=FRAMES,
    fps=8,
    held_out_rule=is_held_out,
    poses=poses,
    scenes=scenes,
    floors=floor_images,
    compressed=False,
)
