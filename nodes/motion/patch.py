"""Motion modules as a patch of a MODEL: weights of their own beside the UNet's, which stays untouched.

The host sees the patch's model (`MotionHandler.models`), so it loads, counts and offloads it with the MODEL, and a
clone carries it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from ...videolcm_core.files.settings import FileSettings
from ...videolcm_core.networks.animatediff.image_encoder import FEATURE_BLOCKS
from ...videolcm_core.networks.animatediff.motion import MotionNetwork
from .first_frame import FirstFrame, features_of
from .slots import Slot, add_slots, word_of

PATCHES: Final = "forward_timestep_embed_patch"
"""The host's list of handlers by class of layer."""
RAN: Final = "videolcm_motion_ran"
"""Of ``transformer_options`` in a run: what notes which modules ran."""


class Ran:
    """Notes names as attributes: torch.compile, which may have compiled the caller, need not look at those before."""

    def note(self, word: str) -> None:
        """Remember that the module of a slot ran; see `Slot`."""
        setattr(self, word, True)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that did not run."""
        return [name for name in names if word_of(name) not in vars(self)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """Motion modules and how they are applied.

    Attributes:
        file: Name of their file.
        patcher: The host's patcher of a `MotionNetwork`, in published key names.
        settings: What the file says and is known to be.
        group_norm: Statistics of each "frame" or of the whole "video"; see `MotionModule`.
        group_norm_chosen: Whether the user chose it by hand.
        sampling_chosen: Whether the user chose by hand how the MODEL is sampled, or that it stays.
        scale: Strength of the motion; 0 gives frames that know nothing of one another.
        first_frame: An image for AnimateLCM's encoder, or None.
    """

    file: str
    patcher: Any
    settings: FileSettings
    group_norm: str = "frame"
    group_norm_chosen: bool = False
    sampling_chosen: bool = False
    scale: float = 1.0
    first_frame: FirstFrame | None = None

    @property
    def network(self) -> MotionNetwork:
        """The modules."""
        return self.patcher.model


class MotionHandler(tuple):
    """What the host calls in place of a slot, as its pair of class and function, with the weights that it needs."""

    motion: Motion

    def __new__(cls, motion: Motion) -> MotionHandler:
        """Make the pair for ``motion``."""

        def run(layer: Slot, x: Tensor, emb: Tensor, context: Any, options: dict[str, Any], *_: Any) -> Tensor:
            return run_motion(motion, layer, x, options)

        pair = super().__new__(cls, (Slot, run))
        pair.motion = motion
        return pair

    def models(self) -> list[Any]:
        """Patchers that the host loads with the MODEL."""
        return [self.motion.patcher]


def run_motion(motion: Motion, slot: Slot, x: Tensor, options: dict[str, Any]) -> Tensor:
    """Add what a motion module and the first frame give at a slot.

    Args:
        motion: What is applied.
        slot: The place.
        x: ``[B * F, C, H, W]``, B prompts that the host batches together.
        options: The host's ``transformer_options``.
    """
    frames = frames_in(x, options)
    if motion.first_frame is not None and slot.part == "input" and slot.index in FEATURE_BLOCKS:
        feature = features_of(motion.first_frame, motion.network, x, frames, options)
        if feature is not None:
            level = FEATURE_BLOCKS.index(slot.index)
            x = x + feature[level].to(x).repeat(len(x) // frames, 1, 1, 1)
    module = motion.network.at(slot.part, slot.index)
    if module is None or motion.scale == 0:
        return x
    if RAN in options:
        options[RAN].note(slot.word)
    return module(x, frames, motion.group_norm == "video", motion.scale)


def frames_in(x: Tensor, options: dict[str, Any]) -> int:
    """Frames of each video in a batch."""
    return len(x) // max(1, len(options.get("cond_or_uncond") or (0,)))


def motion_of(model: Any) -> Motion | None:
    """The motion modules on a MODEL, None where there are none."""
    return motion_of_options(getattr(model, "model_options", {}))


def motion_of_options(model_options: dict[str, Any]) -> Motion | None:
    """The same of the host's ``model_options``, such as those of a run."""
    options = model_options.get("transformer_options", {})
    found = [patch for patch in options.get("patches", {}).get(PATCHES, ()) if isinstance(patch, MotionHandler)]
    return found[-1].motion if found else None


def set_motion(model: Any, motion: Motion) -> None:
    """Give a MODEL, which the caller has cloned, these motion modules in place of any it has."""
    options = model.model_options["transformer_options"]
    patches = options.setdefault("patches", {})
    others = [patch for patch in patches.get(PATCHES, ()) if not isinstance(patch, MotionHandler)]
    patches[PATCHES] = [*others, MotionHandler(motion)]
    add_slots(model)
