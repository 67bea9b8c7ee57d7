"""Depth, edge and line networks against values of the authors' own, recorded on one pair of pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from precision import distance, without_rounding
from reference import Reference, Result, load_recipe
from torch import Tensor

from videolcm_core.annotators.authors_sketch import authors_sketch
from videolcm_core.annotators.depth import to_condition
from videolcm_core.networks.annotators.midas import Midas, midas_config
from videolcm_core.networks.annotators.pidinet import PiDiNet, convert_differences, pidinet_config
from videolcm_core.networks.annotators.sketch_simplification import SketchSimplification

# Of the published file; the recorded network is that one, with recipe weights.
_SKETCH_CHANNELS = (
    1,
    48,
    128,
    128,
    128,
    256,
    256,
    256,
    512,
    1024,
    1024,
    1024,
    1024,
    512,
    256,
    256,
    256,
    128,
    128,
    128,
    48,
    48,
    24,
    1,
)


@torch.no_grad()
def check_annotators(reference: Reference) -> Iterator[Result]:
    """Every network of the file, with the steps around it."""
    pixels, recorded = reference.get("midas.in01"), reference.get("pidinet.edge")
    depth, edges, cleaner = midas_of(reference), pidinet_of(reference), cleaner_of(reference)

    def depths() -> dict[str, Tensor]:
        raw = depth(pixels)
        return {"midas.raw": raw, "midas.depth": to_condition(raw)}

    yield from reference.judge(depths)
    yield from reference.judge(lambda: {"pidinet.edge": edges(pixels)})
    frames = pixels.movedim(1, -1)

    def sketch() -> dict[str, Tensor]:
        return {"sketch.clean": authors_sketch(frames, edges, cleaner)}

    ours = sketch()
    exact = without_rounding(sketch, plain=ours)
    yield from reference.judge_one("sketch.clean of the image", "sketch.clean", ours["sketch.clean"], exact)
    # The recorded edge is a float32 result of the first half, so this is the same computation too.
    of_edge = (1 - cleaner(1 - recorded)).reshape(exact.values["sketch.clean"].shape)
    yield Result(
        "sketch.clean of the recorded edge",
        distance(of_edge, exact.values["sketch.clean"]),
        exact.bound("sketch.clean"),
    )


def _weights(reference: Reference, prefix: str) -> dict[str, Tensor]:
    names = [name for name in reference.tensors if name.startswith(prefix)]
    return {name[len(prefix) :]: reference.get(name) for name in names}


def midas_of(reference: Reference) -> Midas:
    """The recorded depth network."""
    weights = _weights(reference, "midas.sd.")
    network = Midas(midas_config(weights, int(reference.metadata["midas"]["num_heads"])))
    network.load_state_dict(weights)
    return network.train(False)


def pidinet_of(reference: Reference) -> PiDiNet:
    """The recorded edge network, from its original weights."""
    weights = _weights(reference, "pidinet.sd.")
    network = PiDiNet(pidinet_config(weights))
    network.load_state_dict(convert_differences(weights))
    return network.train(False)


def cleaner_of(reference: Reference) -> SketchSimplification:
    """The recorded line network, at full size."""
    settings, array = reference.metadata["sketch_simplification"], load_recipe(reference.path.parent)
    network = SketchSimplification(_SKETCH_CHANNELS, device="meta")
    parameters = sum(value.numel() for value in network.parameters())
    if parameters != settings["params"]:
        raise ValueError(f"recorded with {settings['params']} parameters, built with {parameters}")
    network.load_state_dict(
        {
            key: torch.from_numpy(array(key, tuple(value.shape), settings["recipe_seed"], settings["recipe_gain"]))
            for key, value in network.state_dict().items()
        },
        assign=True,
    )
    return network.train(False)
