"""From a file or folder to a `Teacher`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from videolcm_core.diffusion.prediction import PREDICTIONS
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.families.foreign import UNET_PREFIX
from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.loading import HOST_MARKERS, check_weights
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.autoencoder import LATENT_SCALE, TinyAutoencoder
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

from ..engine.files import released_state
from .running import is_running_checkpoint, running_state
from .teacher import Teacher

ALLOWED: Final = (
    "a diffusion model of the VGen family: the authors' TF-T2V or VideoComposer file, ModelScope text-to-video, a "
    "folder of diffusers' UNet3DConditionModel, an all-in-one file of this pack, or a running checkpoint of a teacher"
)
TEXT_PREFIX: Final = "cond_stage_model."
VAE_PREFIX: Final = "first_stage_model."
_PREFIX: Final = "videolcm."
# Published sizes: width, height, frames and frames per second of the clips that the released models were trained on.
_RELEASED: Final = {"width": "448", "height": "256", "frames": "16", "fps": "8"}
_MODELSCOPE: Final = {"width": "256", "height": "256", "frames": "16", "fps": "8"}


def load_teacher(
    path: Path | str, *, prediction: str | None = None, dtype: torch.dtype = torch.float32, student: bool = False
) -> Teacher:
    """Read a teacher, frozen and ready for inference.

    Args:
        path: a file (.pth, .pt, .bin, .ckpt, .safetensors), a diffusers folder, or a running checkpoint of this
            package (its averaged weights are taken).
        prediction: what it predicts, where the file does not say or says it wrong.
        dtype: of the network; text encoder and autoencoder stay in float32.
        student: allow files of consistency students (for evaluation); a student is no teacher.

    Raises:
        ValueError: wrong teacher; the text has what, got, allowed and what to do next.
    """
    path = Path(path)
    if is_running_checkpoint(path):
        tensors, distilled = running_state(path)
        metadata = {f"{_PREFIX}family": "videolcm-mini", f"{_PREFIX}sampling": "lcm" if distilled else "teacher"}
        kind = "running checkpoint"
    else:
        try:
            tensors, metadata, info = load_state_dict(path)
        except CheckpointError as error:
            raise wrong_teacher(error) from error
        kind = "diffusers" if info.diffusers else "file"
    parts = _parts(tensors)
    try:
        config = detect_unet_config(parts["unet"], metadata, path.name)
        known = teacher_metadata(config, metadata, kind, path.name, prediction)
        config = replace(config, dropout=float(known["dropout"]))
        network = _network(parts["unet"], config, path.name, dtype)
    except CheckpointError as error:
        raise wrong_teacher(error) from error
    if known["sampling"] == "lcm" and not student:
        raise ValueError(
            f"wrong teacher {path.name}: got a consistency student; allowed: {ALLOWED}. Give the teacher it was "
            "distilled from."
        )
    return Teacher(
        network=network,
        config=config,
        schedule=_schedule(known, path.name),
        prediction=known["prediction"],
        conditions=tuple(sorted(config.conditions)),
        text=_text(parts["text"], known, path.name),
        autoencoder=_autoencoder(parts["vae"], path.name),
        metadata=known,
    )


def load_encoders(path: Path | str) -> tuple[nn.Module, nn.Module]:
    """Autoencoder and text encoder out of an all-in-one file.

    Raises:
        ValueError: the file has none; the text has what, got, allowed and what to do next.
    """
    path = Path(path)
    try:
        tensors, metadata, _ = load_state_dict(path)
    except CheckpointError as error:
        raise wrong_teacher(error) from error
    parts, known = _parts(tensors), {k.removeprefix(_PREFIX): v for k, v in metadata.items()}
    autoencoder, text = _autoencoder(parts["vae"], path.name), _text(parts["text"], known, path.name)
    if autoencoder is None or text is None:
        missing = "autoencoder" if autoencoder is None else "text encoder"
        raise ValueError(
            f"{path} has no {missing} of ours; allowed: an all-in-one file of this pack. Give one, or Stable "
            "Diffusion's files (--vae FILE --text-encoder FILE)."
        )
    return autoencoder, text


def load_autoencoder(path: Path | str) -> nn.Module:
    """Our autoencoder, out of an all-in-one file or a running checkpoint of its training, told by the suffix.

    Raises:
        ValueError: the file has none.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_encoders(path)[0]
    autoencoder = _autoencoder(released_state(path), path.name)
    if autoencoder is None:
        raise ValueError(f"{path} is no checkpoint of an autoencoder; give one, or an all-in-one .safetensors file.")
    return autoencoder


def wrong_teacher(error: CheckpointError) -> ValueError:
    """The error of a file that cannot teach."""
    return ValueError(f"wrong teacher {error.file}: got {error.got}; allowed: {ALLOWED}. {error.next_step}")


def teacher_metadata(
    config: UNetConfig, metadata: Mapping[str, str], kind: str, file: str, prediction: str | None = None
) -> dict[str, str]:
    """A teacher's metadata, complete: the file's own entries over what its family is known to be.

    TF-T2V predicts v on a schedule with zero terminal signal; ModelScope (a first layer without channels for
    conditions) and the first VideoComposer (one token an image) predict noise on Stable Diffusion's schedule.

    Args:
        config: shape of the network.
        metadata: of the file.
        kind: "file", "diffusers" or "running checkpoint".
        file: its name.
        prediction: overrides the file.

    Raises:
        ValueError: an entry is unknown.
    """
    own = {k.removeprefix(_PREFIX): v for k, v in metadata.items() if k.startswith(_PREFIX)}
    first_composer = "image" in config.conditions and config.num_image_tokens == 1
    noise = config.concat_channels == 0 or first_composer
    family = "videocomposer" if config.conditions - {"image"} else "tf-t2v"
    family = "modelscope" if config.concat_channels == 0 else family
    default = {
        **(_MODELSCOPE if noise else _RELEASED),
        "family": "diffusers" if kind == "diffusers" else family,
        "prediction": "eps" if noise else "v",
        "beta_schedule": "scaled_linear",
        "zero_terminal_snr": str(not noise).lower(),
        "sampling": "teacher",
        "latent_scale": str(LATENT_SCALE),
        "head_dim": str(config.head_dim),
        "dropout": "0.1",
    }
    if own.get("family", "").startswith("videolcm-mini"):
        small = {"width": "64", "height": "64", "frames": "16", "fps": "8"}
        default |= {**small, "latent_scale": "1.0", "dropout": "0.0"}
    known = {**default, **own, "file": file}
    if prediction is not None:
        known["prediction"] = prediction
    if known["prediction"] not in PREDICTIONS:
        raise ValueError(
            f"wrong teacher {file}: it predicts {known['prediction']!r}; allowed: {', '.join(PREDICTIONS)}. Say what "
            "it predicts."
        )
    return known


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """UNet, text encoder and autoencoder of a file; without prefixes all of it is the UNet."""
    if not any(key.startswith(UNET_PREFIX) for key in tensors):
        return {"unet": {k: v for k, v in tensors.items() if k not in HOST_MARKERS}, "text": {}, "vae": {}}
    prefixes = {"unet": UNET_PREFIX, "text": TEXT_PREFIX, "vae": VAE_PREFIX}
    return {
        name: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for name, prefix in prefixes.items()
    }


def _network(tensors: Mapping[str, Tensor], config: UNetConfig, file: str, dtype: torch.dtype) -> UNet3D:
    network = UNet3D(config, device="meta")
    check_weights(tensors, network.state_dict(), file)
    # A copy, for the file may be mapped: a teacher must not change when the file does.
    network.load_state_dict({k: v.to(dtype, copy=True) for k, v in tensors.items()}, assign=True)
    return network.train(False).requires_grad_(False)


def _schedule(known: Mapping[str, str], file: str) -> Schedule:
    if (value := known["zero_terminal_snr"]) not in ("true", "false"):
        raise ValueError(f"wrong teacher {file}: zero_terminal_snr is {value!r}; allowed: true, false.")
    try:
        return Schedule.create(known["beta_schedule"], zero_terminal_snr=value == "true", dtype=torch.float64)
    except ValueError as error:
        raise ValueError(f"wrong teacher {file}: {error}") from error


def _text(tensors: Mapping[str, Tensor], known: Mapping[str, str], file: str) -> nn.Module | None:
    """Our small text encoder, if the file has one; of other encoders the file named by the user is used."""
    if "vocabulary" not in tensors:
        return None
    try:
        sizes: dict[str, Any] = json.loads(known.get("text_config", "{}"))
        with torch.random.fork_rng(devices=[]):  # reading a file must not use up the run's random numbers
            text = TextEncoder(tensors["vocabulary"], TextConfig(**sizes))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"wrong teacher {file}: its text_config cannot be read ({error}); allowed: the sizes of a CLIP "
            "config.json. Export it again."
        ) from error
    return _filled(text, tensors, f"{file} ({TEXT_PREFIX})")


def _autoencoder(tensors: Mapping[str, Tensor], file: str) -> nn.Module | None:
    """Our small autoencoder, if the file has one."""
    if not any(key.startswith("taesd_encoder.") for key in tensors):
        return None
    with torch.random.fork_rng(devices=[]):
        model = TinyAutoencoder().channels_last()
    _filled(model, tensors, f"{file} ({VAE_PREFIX})")
    model.skip_idle_blocks()
    return model


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], file: str) -> nn.Module:
    try:
        check_weights(tensors, module.state_dict(), file)
    except CheckpointError as error:
        raise wrong_teacher(error) from error
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return module.train(False).requires_grad_(False)
