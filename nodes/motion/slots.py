"""Where motion modules run in core's UNet: inert layers, put into its blocks while a MODEL with motion is loaded.

A slot has no weights and a name of its own, so the keys of the UNet stay as they are: LoRAs, merges and saved
checkpoints do not see it. The host asks the handlers of a MODEL for layers of unknown classes, in every version that
this pack supports; without a handler a slot returns what it was given.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor, nn

from ...videolcm_core.networks.animatediff.motion import MotionNetwork, place
from .. import host

SLOT: Final = "videolcm_motion"
"""Name of the slot among the layers of a block."""
KEY: Final = "videolcm_motion"
"""Of the injection."""


def word_of(name: str) -> str:
    """A module's published name as a word, which an attribute can have."""
    return name.replace(".", "_")


class Slot(nn.Module):
    """A place in a block that a handler may act on."""

    def __init__(self, part: str, index: int, owner: Any) -> None:
        """Remember the place, as in `motion.place`, and the patcher that put the slot there."""
        super().__init__()
        self.part, self.index, self.owner = part, index, weakref.ref(owner)
        self.word = word_of(place(part, index) or "")

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return what was given."""
        return x


def blocks_of(unet: Any) -> Iterator[tuple[str, int, nn.Module]]:
    """Part, index and block for every block of the UNet; none where another network stands in its place for now."""
    if not hasattr(unet, "input_blocks"):
        return
    yield from (("input", index, block) for index, block in enumerate(unet.input_blocks))
    yield "middle", 0, unet.middle_block
    yield from (("output", index, block) for index, block in enumerate(unet.output_blocks))


def inject(patcher: Any) -> None:
    """Put slots into the blocks, in place of any that are there."""
    for part, index, block in blocks_of(patcher.model.diffusion_model):
        if place(part, index) is not None:
            layers = [(name, layer) for name, layer in block.named_children() if name != SLOT]
            after = 1 + _last_before(layers)
            block._modules.clear()
            block._modules.update([*layers[:after], (SLOT, Slot(part, index, patcher)), *layers[after:]])


def eject(patcher: Any) -> None:
    """Take out the slots that this patcher put in.

    The host calls this for every patcher that goes away, also for clones that say that they are injected because the
    MODEL that they were made of is; the slots of that one stay. A patcher that the garbage collector finds has lost its
    slots, which do nothing by themselves: it may come at any time, also while somebody goes through the layers.
    """
    for _, _, block in blocks_of(patcher.model.diffusion_model):
        slot = block._modules.get(SLOT)
        if slot is not None and slot.owner() is patcher:
            del block._modules[SLOT]


def ensure_slots(patcher: Any) -> None:
    """Put the slots of a MODEL that is about to run where they belong, should they be missing."""
    unet = patcher.model.diffusion_model
    if any(SLOT not in block._modules for part, index, block in blocks_of(unet) if place(part, index) is not None):
        inject(patcher)


def add_slots(patcher: Any) -> None:
    """Have slots in the UNet whenever this MODEL is loaded."""
    patcher.set_injections(KEY, [host.PatcherInjection(inject, eject)])


def _last_before(layers: list[tuple[str, nn.Module]]) -> int:
    """Index of the layer that motion follows: the spatial transformer, else the first residual block."""
    attention = [i for i, (_, layer) in enumerate(layers) if isinstance(layer, host.SpatialTransformer)]
    return attention[0] if attention else 0


def check_unet(model: Any, network: MotionNetwork, file: str) -> None:
    """Refuse a MODEL that these motion modules cannot run in.

    Args:
        model: The MODEL.
        network: The motion modules.
        file: Name of their file, for messages.

    Raises:
        ValueError: Saying what the MODEL is and which fit.
    """
    found, widths, text = type(model.model).__name__, widths_of(model), text_width(model)
    if not widths:
        raise ValueError(_refusal(file, f"a {found} MODEL"))
    wanted = list(network.config.channels)
    if widths != wanted:
        raise ValueError(_refusal(file, f"a {found} MODEL with levels of {widths} channels, the file has {wanted}"))
    if widths[0] == FULL_WIDTH and text != FULL_TEXT:
        raise ValueError(_refusal(file, f"a {found} MODEL that takes text {text} wide (Stable Diffusion 2)"))


FULL_WIDTH: Final = 320
FULL_TEXT: Final = 768
"""Of Stable Diffusion 1.5."""
_SD15: Final = {
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_temporal_attention": False,
    "adm_in_channels": None,
}
"""What the host's configuration says of such a UNet, of any width."""


def _refusal(file: str, got: str) -> str:
    return (
        f"{file} does not fit this MODEL: got {got}; allowed: Stable Diffusion 1.5 and its fine-tunes (also inpainting "
        "and merges), of the width of the motion modules. Load an SD1.5 checkpoint with Load Checkpoint."
    )


def _config(model: Any) -> dict[str, Any]:
    """The host's configuration of a UNet: the network itself may be hidden by another MODEL's patch for now."""
    return getattr(getattr(model.model, "model_config", None), "unet_config", None) or {}


def widths_of(model: Any) -> list[int]:
    """Channels of the four levels of a MODEL of Stable Diffusion 1.5's layout; empty for others."""
    config = _config(model)
    if any(config.get(name) != value for name, value in _SD15.items()):
        return []
    return [config["model_channels"] * mult for mult in config["channel_mult"]]


def text_width(model: Any) -> int:
    """Width of the text that a MODEL takes."""
    return _config(model).get("context_dim") or 0
