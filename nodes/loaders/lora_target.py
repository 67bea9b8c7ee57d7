"""The networks of a MODEL that a LoRA can change: the UNet, and motion modules beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from ...videolcm_core.families.animatediff import lora as sd15
from ...videolcm_core.families.foreign import foreign_family
from ...videolcm_core.families.vgen import lora as vgen
from ...videolcm_core.files.errors import CheckpointError
from ...videolcm_core.files.lora import LoraFile
from ...videolcm_core.files.lora_fit import LoraFit
from ..model.base_model import VideoLCMModel
from ..motion.patch import Motion, motion_of, set_motion
from .lora_patches import make_patches

UNET: Final = "diffusion_model."


@dataclass(frozen=True)
class LoraTarget:
    """What of a MODEL a LoRA can change.

    Attributes:
        model: The MODEL.
        unet: Shapes of the UNet's weights.
        is_sd15: Stable Diffusion 1.5, rather than a network of the VGen family.
        motion: The motion modules on it.
    """

    model: Any
    unet: Mapping[str, torch.Size]
    is_sd15: bool
    motion: Motion | None

    @property
    def modules(self) -> dict[str, torch.Size]:
        """Shapes of the motion modules' weights."""
        return {} if self.motion is None else _shapes(self.motion.network.state_dict())

    def fit(self, lora: LoraFile) -> LoraFit:
        """Hold a file against the networks.

        Raises:
            CheckpointError: If the layers of a file without names cannot be told apart.
        """
        return sd15.fit_lora(lora, self.unet, self.modules) if self.is_sd15 else vgen.fit_lora(lora, self.unet)

    def patched(
        self, lora: LoraFile, fit: LoraFit, strength: float, group_norm: str | None
    ) -> tuple[Any, list[str], list[str]]:
        """A clone of the MODEL with a LoRA on it; the MODEL and its motion modules stay as they are.

        Args:
            lora: The file.
            fit: Of `fit`; what is found not to fit after all is noted in it.
            strength: 1 as trained.
            group_norm: For the motion modules; None leaves it.

        Returns:
            The clone, and the keys of the UNet's and of the motion modules' weights that are changed.
        """
        modules = self.modules
        patches = make_patches(lora, fit, {**self.unet, **modules})
        clone = self.model.clone()
        of_unet = {UNET + key: patch for key, patch in patches.items() if key in self.unet}
        of_motion = {key: patch for key, patch in patches.items() if key in modules}
        changed = [key.removeprefix(UNET) for key in clone.add_patches(of_unet, strength)]
        if self.motion is None or not of_motion:
            return clone, changed, []
        patcher = self.motion.patcher.clone()
        moved = list(patcher.add_patches(of_motion, strength))
        set_motion(clone, replace(self.motion, patcher=patcher, group_norm=group_norm or self.motion.group_norm))
        return clone, changed, moved


def target_of(model: Any, file: str) -> LoraTarget:
    """What of a MODEL a LoRA can change.

    Args:
        model: The MODEL.
        file: Name of the LoRA, for messages.

    Raises:
        CheckpointError: If the MODEL is of a family whose LoRAs core's loader takes.
    """
    state = model.model.diffusion_model.state_dict()
    if isinstance(model.model, VideoLCMModel):
        return LoraTarget(model, _shapes(state), False, None)
    if sd15.takes_sd15_loras(state):
        return LoraTarget(model, _shapes(state), True, motion_of(model))
    family = foreign_family(state)
    raise CheckpointError(
        file,
        f"a MODEL of {family or 'a family that this node does not know'} ({type(model.model).__name__})",
        "a MODEL of VideoLCM's loaders, or of Stable Diffusion 1.5 with or without motion modules",
        "Use Load LoRA (Model) for this MODEL, or connect one of these.",
    )


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
