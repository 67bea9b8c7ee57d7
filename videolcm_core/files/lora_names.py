"""Names of a LoRA's layers without what the trainers put before them."""

from __future__ import annotations

from typing import Final

_PREFIXES: Final = (
    "module.",
    "_orig_mod.",
    "unet.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "lora_unet_",
    "lycoris_",
)


def without_prefixes(module: str) -> str:
    """Name of a layer without what trainers put before it."""
    while prefix := next((p for p in _PREFIXES if module.startswith(p)), None):
        module = module[len(prefix) :]
    return module
