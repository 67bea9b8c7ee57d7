"""Every import of ComfyUI internals, with probes for hosts that lack a feature.

The other files of this package see the host only through this module and ``comfy_api.latest``, so an
internal that moves is mended here. Where a feature is absent in an older host, the code asks what the
host can do instead of comparing version numbers.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.k_diffusion.sampling
import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import latent_preview
import node_helpers
import torch
from comfy.conds import CONDCrossAttn as CONDCrossAttn
from comfy.conds import CONDNoiseShape as CONDNoiseShape
from comfy.ldm.modules.attention import SpatialTransformer as SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import apply_control as apply_control
from comfy.model_base import BaseModel as BaseModel
from comfy.model_base import ModelType as ModelType
from comfy.model_sampling import EPS as EPS
from comfy.model_sampling import V_PREDICTION as V_PREDICTION
from comfy.model_sampling import X0 as X0
from comfy.model_sampling import ModelSamplingContinuousEDM as ModelSamplingContinuousEDM
from comfy.model_sampling import ModelSamplingDiscrete as ModelSamplingDiscrete
from comfy.patcher_extension import PatcherInjection as PatcherInjection
from comfy.patcher_extension import WrapperExecutor as WrapperExecutor
from comfy.patcher_extension import WrappersMP as WrappersMP
from comfy.patcher_extension import get_all_wrappers as get_all_wrappers
from comfy.samplers import KSAMPLER as KSAMPLER
from comfy.sd import CLIP as CLIP
from comfy.sd import VAE as VAE
from comfy.sd1_clip import SD1ClipModel as SD1ClipModel
from comfy.sd1_clip import SD1Tokenizer as SD1Tokenizer
from comfy.sd1_clip import SDClipModel as SDClipModel
from comfy.sd1_clip import SDTokenizer as SDTokenizer
from comfy.supported_models import SD15
from comfy.supported_models_base import BASE as BaseConfig
from comfy.supported_models_base import ClipTarget as ClipTarget
from comfy.weight_adapter import LoRAAdapter as LoRAAdapter
from comfy.weight_adapter import WeightAdapterBase as WeightAdapterBase
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

log = logging.getLogger(__name__)

SD15Config = SD15
SD15LatentFormat = comfy.latent_formats.SD15
# Older hosts have this inside the functions that need it.
reshape_sigma = getattr(
    comfy.model_sampling,
    "reshape_sigma",
    lambda sigma, ndim: sigma.view(()) if sigma.nelement() == 1 else sigma.view(sigma.shape[:1] + (1,) * (ndim - 1)),
)

PACK_FOLDER = Path(__file__).resolve().parent.parent
EMBEDDED_MODELS = PACK_FOLDER / "models"
EXAMPLE_CLIPS = PACK_FOLDER / "workflows" / "clips"
MODEL_FOLDER = "videolcm"
ANNOTATOR_FOLDER = "videolcm_annotators"
MOTION_FOLDER = "animatediff_models"
MOTION_LORA_FOLDER = "animatediff_motion_lora"
EMBEDDED_ANNOTATORS = EMBEDDED_MODELS / "annotators"


def supported(function: Callable, **optional: Any) -> dict[str, Any]:
    """Those keyword arguments that ``function`` accepts (all of them if it takes ``**kwargs``)."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return optional
    names = {p.name for p in parameters}
    return {name: value for name, value in optional.items() if name in names}


def register_folders() -> None:
    """Make our model folders, and AnimateDiff-Evolved's two.

    Each is: entries of extra_model_paths.yaml, the folder of that name in models, what comes with the pack. What
    AnimateDiff-Evolved or the user said of its folders stays.
    """
    embedded: dict[str, Path | None] = {MODEL_FOLDER: EMBEDDED_MODELS, ANNOTATOR_FOLDER: EMBEDDED_ANNOTATORS}
    embedded |= {MOTION_FOLDER: None, MOTION_LORA_FOLDER: None}
    for name, ours in embedded.items():
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
        if ours is not None:
            folder_paths.add_model_folder_path(name, str(ours))
        paths, extensions = folder_paths.folder_names_and_paths[name]
        # A new folder name accepts every file, README included; model files only, as in the other folders.
        kinds = set(folder_paths.supported_pt_extensions)
        folder_paths.folder_names_and_paths[name] = (paths, kinds | (extensions if ours is None else set()))


def model_files(*folders: str) -> list[str]:
    """Names of the model files in the given folders, in this order, each name once."""
    names: dict[str, None] = {}
    for folder in folders:
        names.update(dict.fromkeys(name for name in _filename_list(folder) if not _is_annotator(folder, name)))
    return list(names)


def _is_annotator(folder: str, name: str) -> bool:
    # The embedded annotators lie in a sub-folder of the embedded models and are not video models.
    return folder == MODEL_FOLDER and Path(name).parts[0] == EMBEDDED_ANNOTATORS.name


def _filename_list(folder: str) -> list[str]:
    try:
        return folder_paths.get_filename_list(folder)
    except OSError:
        # The host's cached list fails for good once a folder that it has listed is removed.
        folder_paths.filename_list_cache.pop(folder, None)
        return folder_paths.get_filename_list(folder)


def model_path(name: str, *folders: str) -> str:
    """Full path of a model file: the first of ``folders`` that has it.

    Raises:
        FileNotFoundError: Naming the file and every folder searched.
    """
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    searched = ", ".join(path for folder in folders for path in folder_paths.get_folder_paths(folder))
    raise FileNotFoundError(
        f"{name}: no such model file. Searched: {searched}. Put it there, press R, choose it again."
    )


def file_fingerprint(name: str, *folders: str) -> tuple[str, int, int] | str:
    """Changes when the file changes: training overwrites its outputs under the same name."""
    try:
        path = model_path(name, *folders)
        status = os.stat(path)
    except OSError:
        return f"missing: {name}"
    return path, status.st_mtime_ns, status.st_size


def embedding_folders() -> list[str]:
    """Where textual inversions are searched."""
    return folder_paths.get_folder_paths("embeddings")


def optimized_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The host's attention at full precision, on ``[B, N, heads * head_dim]``."""
    # Looked up at call time: the host and other packs choose the function after this import.
    function = comfy.ldm.modules.attention.optimized_attention
    return function(q, k, v, heads, mask=mask, attn_precision=torch.float32, **_precise(function))


def _precise(function: Callable) -> dict[str, Any]:
    return supported(inspect.unwrap(function), low_precision_attention=False)


def load_device() -> torch.device:
    """Where models compute."""
    return comfy.model_management.get_torch_device()


def intermediate_device() -> torch.device:
    """Where latents wait between nodes."""
    return comfy.model_management.intermediate_device()


def intermediate_dtype() -> torch.dtype:
    """Of latents between nodes; float32 in hosts that have no setting for it."""
    probe = getattr(comfy.model_management, "intermediate_dtype", None)
    return torch.float32 if probe is None else probe()


def set_inference_dtypes(config: BaseConfig, dtype: torch.dtype | None, parameters: int, weights: torch.dtype) -> None:
    """Choose storage and compute precision for a model as the host's own loaders do.

    Args:
        config: The model's configuration; receives both.
        dtype: Storage asked for, None for the host's choice.
        parameters: Number of parameters.
        weights: Precision in the file.
    """
    manager, device = comfy.model_management, load_device()
    kinds = list(config.supported_inference_dtypes)
    dtype = storage_dtype(dtype, parameters, weights, kinds)
    cast = manager.unet_manual_cast(dtype, device, kinds)
    config.set_inference_dtype(dtype, cast, **supported(config.set_inference_dtype, device=device))


def storage_dtype(
    dtype: torch.dtype | None,
    parameters: int,
    weights: torch.dtype,
    kinds: Sequence[torch.dtype] = (torch.float16, torch.bfloat16, torch.float32),
) -> torch.dtype:
    """How the host's loaders would keep a network's weights in memory.

    Args:
        dtype: Asked for, None for the host's choice.
        parameters: Number of parameters.
        weights: Precision in the file.
        kinds: Those that the network can compute in.
    """
    choose = comfy.model_management.unet_dtype
    return dtype or choose(model_params=parameters, supported_dtypes=list(kinds), weight_dtype=weights)


def make_patcher(model: BaseModel, state_dict: dict[str, Tensor], disable_dynamic: bool = False) -> Any:
    """Wrap a model for the host's memory management and load its weights.

    Args:
        model: Built, without weights.
        state_dict: Keys of ``model.diffusion_model``, checked by the caller.
        disable_dynamic: Use the static patcher, as the host asks for when it makes copies.
    """
    manager = comfy.model_management
    static = comfy.model_patcher.ModelPatcher
    # main.py rebinds CoreModelPatcher after the packs may have been imported: look it up now.
    kind = static if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", static)
    offload = manager.unet_offload_device()
    patcher = kind(model, load_device=load_device(), offload_device=offload)
    if not manager.is_device_cpu(offload):
        model.to(offload)
    dynamic = bool(getattr(patcher, "is_dynamic", bool)())
    model.load_model_weights(dict(state_dict), "", **supported(model.load_model_weights, assign=dynamic))
    return patcher


def detect_unet_config(state_dict: dict[str, Tensor]) -> dict[str, Any]:
    """The host's configuration of an image UNet, from its weights without prefix."""
    return comfy.model_detection.detect_unet_config(state_dict, "")


def make_clip(target: ClipTarget, state_dict: dict[str, Tensor], disable_dynamic: bool = False) -> CLIP:
    """A text encoder from a state dict in the host's key names."""
    options = supported(
        CLIP.__init__,
        parameters=sum(t.nelement() for t in state_dict.values()),
        state_dict=state_dict,
        disable_dynamic=disable_dynamic,
    )
    clip = CLIP(target, embedding_directory=embedding_folders(), tokenizer_data={}, **options)
    if "state_dict" not in options:
        clip.load_sd(state_dict, full_model=True)
    return clip


def make_vae(state_dict: dict[str, Tensor], metadata: dict[str, str]) -> VAE:
    """A VAE from a state dict in a layout the host knows."""
    return VAE(sd=state_dict, **supported(VAE.__init__, metadata=metadata or None))


def calculate_parameters(state_dict: dict[str, Tensor]) -> int:
    """Number of values in a state dict."""
    return sum(t.nelement() for t in state_dict.values())


def lora_patches(lora: dict[str, Tensor], key_map: dict[str, str]) -> dict[str, Any]:
    """Patches for `ModelPatcher.add_patches`, from the host's LoRA formats."""
    return comfy.lora.load_lora(lora, key_map, **supported(comfy.lora.load_lora, log_missing=False))


def patch_fits(patch: Any, shape: Sequence[int], key: str) -> bool:
    """Whether a patch changes a weight of this shape; the host itself only logs that one does not fit."""
    if not isinstance(patch, WeightAdapterBase):
        return tuple(patch[-1][0].shape) == tuple(shape)
    weight = torch.linspace(0.5, 1.0, torch.Size(shape).numel()).reshape(tuple(shape))
    return not torch.equal(comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), key), weight)


def core_lcm(model: Any, x: Tensor, sigmas: Tensor, noise_sampler: Callable | None, **kwargs: Any) -> Tensor:
    """The host's ``lcm`` sampler with a given source of step noise."""
    return comfy.k_diffusion.sampling.sample_lcm(model, x, sigmas, noise_sampler=noise_sampler, **kwargs)


def default_step_noise(x: Tensor, seed: int | None) -> Callable:
    """The host's own step noise, drawn on the device of ``x``."""
    function = comfy.k_diffusion.sampling.default_noise_sampler
    return function(x, **supported(function, seed=seed))


def prepare_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    """An empty latent of another model gets this model's channels and size, as in the host's samplers."""
    fix = comfy.sample.fix_empty_latent_channels
    hints = {key: latent[key] for key in ("downscale_ratio_spacial", "downscale_ratio_temporal") if key in latent}
    return fix(model, latent["samples"], **supported(fix, **hints))


def prepare_noise(latent: Tensor, seed: int, batch_index: Sequence[int] | None) -> Tensor:
    """Start noise, drawn on the CPU: the same on every machine."""
    return comfy.sample.prepare_noise(latent, seed, batch_index)


def prepare_callback(model: Any, steps: int, x_0_output: dict[str, Tensor]) -> Callable:
    """Progress and preview; the last prediction ends in ``x_0_output["x0"]``."""
    return latent_preview.prepare_callback(model, steps, x_0_output)


def shows_previews() -> bool:
    """Whether somebody looks at the run, and has not switched previews off in the page or on the command line."""
    server: Any = _server()
    context = get_executing_context()
    if server is None or context is None or getattr(server, "client_id", None) not in server.sockets:
        return False
    running = server.prompt_queue.currently_running.values()
    extra: dict[str, Any] = next((item[3] for item in list(running) if item[1] == context.prompt_id), {})
    asked = extra.get("preview_method", "default")
    # Off is also the host's default, so only a word of the user's counts.
    if asked == "default":
        return not any(word.endswith("none") for word in _said("--preview-method"))
    return asked != latent_preview.LatentPreviewMethod.NoPreviews.value


def _said(option: str) -> list[str]:
    """The values that the command line gives an option."""
    after = zip(sys.argv, [*sys.argv[1:], ""], strict=True)
    return [value if word == option else word for word, value in after if word.split("=")[0] == option]


def show_preview(step: int, steps: int, image: Tensor | None) -> None:
    """Show ``uint8 [height, width, 3]`` on the node that is running, in place of the host's preview of this step."""
    if image is not None:
        shown = Image.fromarray(image.numpy())
        size = min(latent_preview.MAX_PREVIEW_RESOLUTION, max(shown.size))
        comfy.utils.ProgressBar(steps).update_absolute(step, steps, ("JPEG", shown, size))


def sample_custom(model: Any, noise: Tensor, cfg: float, sampler: Any, sigmas: Tensor, **kwargs: Any) -> Tensor:
    """The host's sampling, with everything a graph may have attached to the model."""
    return comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, **kwargs)


def progress_bar_disabled() -> bool:
    """Whether the host wants no progress bar in the console."""
    return not comfy.utils.PROGRESS_BAR_ENABLED


def append_to_conditioning(conditioning: Any, key: str, value: tuple) -> Any:
    """A copy of CONDITIONING with ``value`` after what is under ``key`` already; the one given stays as it is."""
    return node_helpers.conditioning_set_values(conditioning, {key: value}, append=True)


_notes: dict[str, tuple[str, list[str]]] = {}
"""What nodes told the page, by node: in which prompt, and the messages."""


def forget_notes() -> None:
    """Take back what an earlier run of the node that is running told the page."""
    context = get_executing_context()
    if context is not None and context.node_id in _notes:
        del _notes[context.node_id]
        _show(context.node_id, "")


def forget_old_notes() -> None:
    """The same, for code that runs inside a node of the host: what was told in this very prompt stays."""
    context = get_executing_context()
    if context is not None and _notes.get(context.node_id, (context.prompt_id,))[0] != context.prompt_id:
        forget_notes()


def tell(*messages: str) -> None:
    """Warn in the log, and in the page on the node that is running."""
    _tell(logging.WARNING, messages)


def inform(*messages: str) -> None:
    """Say what is no cause for doubt, in the log and in the page on the node that is running."""
    _tell(logging.INFO, messages)


def _tell(level: int, messages: Sequence[str]) -> None:
    for message in messages:
        log.log(level, "VideoLCM: %s", message)
    context = get_executing_context()
    if messages and context is not None:
        forget_old_notes()
        _, told = _notes.setdefault(context.node_id, (context.prompt_id, []))
        told.extend(message for message in messages if message not in told)
        _show(context.node_id, "\n\n".join(told))


def _server() -> Any:
    """The host's web server; None where there is none."""
    # Looked up, not imported: it is the whole server, which is there only when one runs.
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def _show(node_id: str, text: str) -> None:
    server: Any = _server()
    if hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def manual_cast() -> Any:
    """Layer classes whose weights follow the precision and device of their input."""
    return comfy.ops.manual_cast


def wrap_network(network: torch.nn.Module, disable_dynamic: bool = False) -> Any:
    """Put a network that is no diffusion model under the host's memory management."""
    static = comfy.model_patcher.ModelPatcher
    kind = static if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", static)
    return kind(network, load_device=load_device(), offload_device=comfy.model_management.unet_offload_device())


def load_networks(patchers: Sequence[Any], memory: float) -> None:
    """Bring networks onto the device, with ``memory`` bytes left for their activations."""
    comfy.model_management.load_models_gpu(list(patchers), memory_required=memory)


def frame_progress(total: int) -> Callable[[int], None]:
    """Called with the number of frames that are done: moves the progress bar, and stops the run if the user asked."""
    bar = comfy.utils.ProgressBar(total)

    def done(count: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(count, total)

    return done


def user_folder(name: str) -> str:
    """The folder in the user's models folder where files of this kind belong."""
    return os.path.join(folder_paths.models_dir, name)


def check_interrupted() -> None:
    """Stop the run that is going on, by the host's own exception, if the user asked for that."""
    comfy.model_management.throw_exception_if_processing_interrupted()
