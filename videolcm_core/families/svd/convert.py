"""AnimateLCM-SVD's published file as a checkpoint for ComfyUI's Image Only Checkpoint Loader.

The authors published the UNet alone, in diffusers' names, which ComfyUI cannot read; image encoder and VAE are those of
Stable Video Diffusion. In the folder of this pack:

    python -m videolcm_core.families.svd.convert svd_xt.safetensors AnimateLCM-SVD-xt.safetensors OUT.safetensors
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors.torch import save_file
from torch import Tensor

from ...files.errors import CheckpointError, name_some
from ...files.guard import reading
from ...files.loading import check_weights
from ...files.reading import load_state_dict
from ...files.writing import whole_file
from ..foreign import UNET_PREFIX
from .keymaps import MARKER, diffusers_to_svd

_BASE: Final = "an all-in-one file of Stable Video Diffusion, such as svd_xt.safetensors (9.56 GB)"
_UNET: Final = "the UNet of AnimateLCM-SVD in diffusers' names, such as AnimateLCM-SVD-xt.safetensors"


def with_unet(base: Mapping[str, Tensor], unet: Mapping[str, Tensor], base_file: str, file: str) -> dict[str, Tensor]:
    """A checkpoint with another UNet in it, in the precision of the checkpoint.

    Args:
        base: All-in-one checkpoint of Stable Video Diffusion.
        unet: In diffusers' names.
        base_file: Name of the first, for messages.
        file: Name of the second, for messages.

    Raises:
        CheckpointError: If one of the two is something else, or the UNet does not fit.
    """
    own = {key.removeprefix(UNET_PREFIX): value for key, value in base.items() if key.startswith(UNET_PREFIX)}
    if not any(".time_stack." in key for key in own):
        some = name_some(sorted(base), 3) or "nothing"
        raise CheckpointError(
            base_file, f"no Stable Video Diffusion among {some}", _BASE, "Choose the base checkpoint."
        )
    if MARKER not in unet:
        some = name_some(sorted(unet), 3) or "nothing"
        raise CheckpointError(file, f"no {MARKER} among {some}", _UNET, "Choose the file that the authors published.")
    names = diffusers_to_svd(unet)
    renamed = {names.get(key, key): value for key, value in unet.items()}
    check_weights(renamed, own, file)
    converted = {UNET_PREFIX + key: value.to(own[key].dtype).contiguous() for key, value in renamed.items()}
    return {**base, **converted}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help=_BASE)
    parser.add_argument("unet", type=Path, help=_UNET)
    parser.add_argument("out", type=Path, help="safetensors file to write, for models/checkpoints")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"{options.out} is there already: remove it or choose another name")
    try:
        with reading(str(options.base)), reading(str(options.unet)):
            base, metadata, _ = load_state_dict(options.base)
            unet, _, _ = load_state_dict(options.unet)
            tensors = with_unet(base, unet, options.base.name, options.unet.name)
            with whole_file(options.out) as temporary:
                save_file(tensors, temporary, metadata={str(key): str(value) for key, value in metadata.items()})
    except (CheckpointError, OSError) as error:
        parser.error(str(error))
    print(f"{options.out}: {len(unet)} weights of {options.unet.name} in {options.base.name}")


if __name__ == "__main__":
    main()
