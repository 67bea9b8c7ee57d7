"""From a file or folder to a `Teacher`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from videolcm_core.diffusion.prediction import PREDICTIONS
from videolcm_core.families.foreign import UNET_PREFIX
from videolcm_core.families.vgen.defaults import defaults_of
from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.files.entries import PREFIX
from videolcm_core.files.errors import CheckpointError, SettingsError, shorten
from videolcm_core.files.loading import HOST_MARKERS, check_weights
from videolcm_core.files.marker import own_metadata
from videolcm_core.files.reading import load_state_dict
from videolcm_core.files.settings import FileSettings, read_settings
from videolcm_core.networks.autoencoder import TinyAutoencoder
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
    diffusers = False
    if is_running_checkpoint(path):
        tensors, metadata = running_state(path)
    else:
        tensors, metadata, diffusers = _read(path)
    parts = _parts(tensors)
    try:
        config = detect_unet_config(parts["unet"], metadata, path.name)
        known = teacher_settings(config, metadata, path.name, diffusers=diffusers, prediction=prediction)
        config = replace(config, dropout=known.dropout)
        network = _network(parts["unet"], config, path.name, dtype)
    except SettingsError as error:
        raise ValueError(f"wrong teacher {error}") from error
    except CheckpointError as error:
        raise wrong_teacher(error) from error
    if known.sampling == "lcm" and not student:
        raise ValueError(
            f"wrong teacher {path.name}: got a consistency student; allowed: {ALLOWED}. Give the teacher it was "
            "distilled from."
        )
    return Teacher(
        network=network,
        config=config,
        file=path.name,
        settings=known,
        text=_text(parts["text"], known, path.name),
        autoencoder=_autoencoder(parts["vae"], path.name),
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], bool]:
    """Tensors, our metadata entries (kept as a tensor by ComfyUI's savers), and whether a file is diffusers'."""
    try:
        tensors, metadata, info = load_state_dict(path)
        return tensors, own_metadata(tensors, metadata, path.name), info.diffusers
    except CheckpointError as error:
        raise wrong_teacher(error) from error


def load_encoders(path: Path | str) -> tuple[nn.Module, nn.Module]:
    """Autoencoder and text encoder out of an all-in-one file.

    Raises:
        ValueError: the file has none; the text has what, got, allowed and what to do next.
    """
    path = Path(path)
    tensors, metadata, _ = _read(path)
    try:
        known = read_settings(metadata, lambda given: FileSettings(), path.name)
    except SettingsError as error:
        raise ValueError(f"wrong teacher {error}") from error
    parts = _parts(tensors)
    autoencoder, text = _autoencoder(parts["vae"], path.name), _text(parts["text"], known, path.name)
    if autoencoder is None or text is None:
        missing = "autoencoder" if autoencoder is None else "text encoder"
        raise ValueError(
            f"{path} has no {missing} of ours; allowed: an all-in-one file of this pack. Give one, or Stable "
            "Diffusion's files (--vae FILE --text-encoder FILE)."
        )
    return autoencoder, text


def load_autoencoder(path: Path | str) -> nn.Module:
    """Our autoencoder: of an all-in-one file, of a file of its own (TAESD's layout), or of its running checkpoint.

    Raises:
        ValueError: the file has none.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors, _, _ = _read(path)
        alone = _autoencoder(tensors, path.name)
        return load_encoders(path)[0] if alone is None else alone
    autoencoder = _autoencoder(released_state(path), path.name)
    if autoencoder is None:
        raise ValueError(f"{path} is no checkpoint of an autoencoder; give one, or an all-in-one .safetensors file.")
    return autoencoder


def wrong_teacher(error: CheckpointError) -> ValueError:
    """The error of a file that cannot teach."""
    return ValueError(f"wrong teacher {error.file}: got {error.got}; allowed: {ALLOWED}. {error.next_step}")


def teacher_settings(
    config: UNetConfig,
    metadata: Mapping[str, str],
    file: str,
    *,
    diffusers: bool = False,
    prediction: str | None = None,
) -> FileSettings:
    """A teacher's settings, complete: the file's own entries over what its family is known to be.

    A file of which neither entries nor shape tell whether it is a student or a teacher is taken for a teacher: who
    gives it to the trainer means to teach with it. The nodes take the same file for a student.

    Args:
        config: shape of the network.
        metadata: of the file.
        file: its name.
        diffusers: whether it is diffusers' own.
        prediction: overrides the file.

    Raises:
        ValueError: an entry, or the prediction given, is not allowed.
    """
    if prediction is not None:
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"wrong teacher {file}: it predicts {shorten(repr(prediction))}; allowed: {', '.join(PREDICTIONS)}. "
                "Say what it predicts."
            )
        metadata = {**metadata, f"{PREFIX}prediction": prediction}
    try:
        known = read_settings(metadata, defaults_of(config, diffusers), file)
    except SettingsError as error:
        raise ValueError(f"wrong teacher {error}") from error
    return replace(known, sampling=known.sampling or "teacher")


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


def _text(tensors: Mapping[str, Tensor], known: FileSettings, file: str) -> nn.Module | None:
    """Our small text encoder, if the file has one; of other encoders the file named by the user is used."""
    if "vocabulary" not in tensors:
        return None
    try:
        with torch.device("meta"):  # sizes that a file claims must not be allocated before they are compared
            text = TextEncoder(tensors["vocabulary"], TextConfig(**dict(known.text_config or {})))
    except TypeError as error:
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
    # Copies, for the file may be mapped.
    kept = {k: v.to(torch.float32 if v.is_floating_point() else v.dtype, copy=True) for k, v in tensors.items()}
    module.load_state_dict(kept, assign=True)
    return module.train(False).requires_grad_(False)
