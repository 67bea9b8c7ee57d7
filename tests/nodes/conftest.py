"""The real host's code in this process, with the pack loaded the way the host loads it, and tiny checkpoints.

No server: nodes are called as the host's executor calls them, under ``torch.inference_mode``.
"""

import importlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from no_float64 import NoFloat64
from safetensors.torch import save_file
from torch._C import _len_torch_dispatch_stack

ROOT = Path(__file__).resolve().parents[2]
ANIMATEDIFF = ROOT / "tests" / "golden" / "animatediff"
sys.path.insert(0, str(ROOT / "tests" / "tools"))

from in_process_host import load_host  # noqa: E402

import setup  # noqa: E402

TINY_UNET = {
    "model_channels": 64,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_scales": (1.0, 0.5),
    "context_dim": 32,
    "num_heads": 1,
    "head_dim": 64,
}
TEXT_CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
RGB_FACTORS = [[0.3, 0.1, 0.0], [0.0, 0.3, 0.1], [0.1, 0.0, 0.3], [0.1, 0.1, 0.1]]


class Host(SimpleNamespace):
    """The host and the pack: ``nodes`` (the host's module), ``pack(name)`` (one of ours), ``run(id, **inputs)``."""

    def pack(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.name}.{name}")

    def run(self, node_id: str, **inputs: Any) -> tuple:
        """Outputs of a node of ours or of the host, watched for float64 on the compute device.

        Not where a test computes in float64 itself, which it does with a dispatch mode of its own.
        """
        if _len_torch_dispatch_stack():
            return self._run(node_id, inputs)
        with NoFloat64() as watch:
            result = self._run(node_id, inputs)
        assert watch.found == set()
        return result

    def _run(self, node_id: str, inputs: dict[str, Any]) -> tuple:
        node = self.nodes.NODE_CLASS_MAPPINGS[node_id]
        if hasattr(node, "define_schema"):
            return node.EXECUTE_NORMALIZED(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("host")
    for folder in (
        "custom_nodes",
        "input",
        "output",
        "temp",
        "user",
        "models/videolcm",
        "models/loras",
        "models/animatediff_models",
    ):
        (base / folder).mkdir(parents=True)
    # Another version of the host, for runs within runs: tests/host/test_oldest_host.py.
    tree = setup.host_tree(os.environ.get("HOST_VERSION", setup.NEWEST_HOST))
    return Host(nodes=load_host(ROOT, base, tree), name=str(ROOT).replace(".", "_x_"), base=base)


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def recipe_array(key: str, shape: tuple[int, ...], seed: int, gain: float = 1.0) -> torch.Tensor:
    """Weights from a key's name, of unit gain unless told: no framework's random numbers, no zero layers."""
    state = np.random.RandomState((zlib.crc32(key.encode()) + 2654435761 * seed) % 2**32)
    values = state.random_sample(tuple(shape)) * 2 - 1
    if len(shape) >= 2:
        values *= gain * (3.0 / np.prod(shape[1:])) ** 0.5
    else:
        values = 1 + 0.25 * values if key.endswith("weight") else 0.15 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float16).astype(np.float32))


def recipe_state_dict(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    return {key: recipe_array(key, tuple(value.shape), seed) for key, value in module.state_dict().items()}


@pytest.fixture(scope="session")
def recipe_weights() -> Callable[[torch.nn.Module, int], dict[str, torch.Tensor]]:
    return recipe_state_dict


@pytest.fixture(scope="session")
def unet_state_dict(host: Host) -> dict[str, torch.Tensor]:
    unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
    return recipe_state_dict(unet3d.UNet3D(unet3d.UNetConfig(**TINY_UNET)), seed=7)


@pytest.fixture(scope="session")
def checkpoint_tensors(host: Host, unet_state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All-in-one tensors: tiny UNet and text encoder, the host's tiny VAE."""
    return all_in_one(host, unet_state_dict, TEXT_CONFIG)


def all_in_one(host: Host, unet: dict[str, torch.Tensor], text_config: dict[str, Any]) -> dict[str, torch.Tensor]:
    from comfy.taesd.taesd import TAESD

    text_encoder = host.pack("videolcm_core.networks.text_encoder")
    words = torch.tensor([320, 550, 1929, 4558, 49406, 49407], dtype=torch.int32)
    text = text_encoder.TextEncoder(words, text_encoder.TextConfig(**text_config))
    text_tensors = {k: v for k, v in recipe_state_dict(text, seed=3).items() if k != "vocabulary"}
    vae = recipe_state_dict(TAESD(), seed=5)
    vae |= {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    tensors = {f"model.diffusion_model.{k}": v for k, v in unet.items()}
    tensors |= {f"cond_stage_model.{k}": v for k, v in text_tensors.items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in vae.items()}
    return tensors | {"cond_stage_model.vocabulary": words}


METADATA = {
    "videolcm.format": "1",
    "videolcm.family": "tiny",
    "videolcm.prediction": "v",
    "videolcm.sampling": "lcm",
    "videolcm.beta_schedule": "scaled_linear",
    "videolcm.zero_terminal_snr": "true",
    "videolcm.original_steps": "50",
    "videolcm.timestep_scaling": "10.0",
    "videolcm.head_dim": "64",
    "videolcm.text_config": json.dumps(TEXT_CONFIG),
    "videolcm.latent_rgb_factors": json.dumps(RGB_FACTORS),
    "videolcm.latent_rgb_bias": "[0.0, 0.0, 0.0]",
}
TEACHER = {**METADATA, "videolcm.sampling": "teacher"}


@pytest.fixture(scope="session")
def write_model(host: Host) -> Callable[..., str]:
    """``write_model(name, tensors, metadata, folder="videolcm")`` -> the name, as a loader's list has it."""

    def write(name: str, tensors: dict, metadata: dict | None = METADATA, folder: str = "videolcm") -> str:
        path = host.base / "models" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
        return name

    return write


@pytest.fixture(scope="session")
def checkpoint(host: Host, checkpoint_tensors: dict, write_model: Callable) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the tiny all-in-one file, a consistency model."""
    name = write_model("tiny.safetensors", checkpoint_tensors)
    return host.run("VideoLCMCheckpointLoader", ckpt_name=name)[:3]


@pytest.fixture(scope="session")
def teacher(host: Host, checkpoint_tensors: dict, write_model: Callable) -> Any:
    """The same network as a plain diffusion MODEL."""
    name = write_model("tiny-teacher.safetensors", checkpoint_tensors, TEACHER)
    return host.run("VideoLCMCheckpointLoader", ckpt_name=name)[0]


@pytest.fixture(scope="session")
def model(checkpoint: tuple) -> Any:
    return checkpoint[0]


@pytest.fixture(scope="session")
def golden_weights() -> Callable[..., dict[str, torch.Tensor]]:
    """``golden_weights("unet")``: the tensors of tests/golden/animatediff/weights_unet.json, made by their recipe."""

    def load(name: str) -> dict[str, torch.Tensor]:
        listed = json.loads((ANIMATEDIFF / f"weights_{name}.json").read_text())
        seed, gain = listed["recipe"]["seed"], listed["recipe"]["gain"]
        return {key: recipe_array(key, shape, seed, gain) for key, shape in listed["tensors"].items()}

    return load


@pytest.fixture(scope="session")
def sd15_checkpoint(host: Host, golden_weights: Callable, write_model: Callable) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of Stable Diffusion 1.5's layout 32 wide, with the weights of the golden data."""
    prefix = "model.diffusion_model."
    unet = {key.removeprefix(prefix): value for key, value in golden_weights("unet").items()}
    config = {**TEXT_CONFIG, "hidden_size": 48, "num_attention_heads": 3}
    metadata = {"videolcm.text_config": json.dumps(config)}
    name = write_model("sd15-narrow.safetensors", all_in_one(host, unet, config), metadata)
    return host.run("VideoLCMCheckpointLoader", ckpt_name=name)[:3]


@pytest.fixture(scope="session")
def sd15(sd15_checkpoint: tuple) -> Any:
    return sd15_checkpoint[0]


@pytest.fixture(scope="session")
def motion_module(host: Host, golden_weights: Callable, write_model: Callable) -> Any:
    """AnimateLCM's text-to-video modules, 32 wide."""
    name = write_model("animatelcm-narrow.safetensors", golden_weights("motion"), None)
    return host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="fp32")[0]


@pytest.fixture(scope="session")
def i2v_module(host: Host, golden_weights: Callable, write_model: Callable) -> Any:
    """AnimateLCM's image-to-video modules, 32 wide."""
    tensors = golden_weights("motion") | golden_weights("i2v")
    name = write_model("animatelcm-i2v-narrow.safetensors", tensors, None)
    return host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="fp32")[0]


@pytest.fixture
def animate(host: Host, sd15: Any, motion_module: Any) -> Callable[..., Any]:
    """``animate()`` -> the narrow MODEL with motion modules; inputs of Apply Motion Module change it."""
    settings = {"model": sd15, "motion_module": motion_module, "sampling": "auto", "group_norm": "auto", "scale": 1.0}
    return lambda **inputs: host.run("VideoLCMMotionApply", **settings | inputs)[0]


@pytest.fixture(scope="session")
def composer_state_dict(host: Host) -> dict[str, torch.Tensor]:
    unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
    conditions = unet3d.CONDITIONS - {"histogram", "canny"}
    return recipe_state_dict(unet3d.UNet3D(unet3d.UNetConfig(**TINY_UNET, conditions=conditions)), seed=11)


@pytest.fixture(scope="session")
def composer(host: Host, composer_state_dict: dict, write_model: Callable) -> Any:
    """A compositional MODEL with every condition of the authors', a consistency model."""
    name = write_model("tiny-composer.safetensors", composer_state_dict)
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``clip_file(frames, fps=8, name="clip.mp4", title=None)`` writes a lossless video of ``[F, H, W, 3]``."""
    folder = tmp_path_factory.mktemp("clips")

    def write(
        frames: torch.Tensor, fps: int = 8, name: str = "clip.mp4", title: str | None = None, to: Path = folder
    ) -> Path:
        import av

        path = to / name
        with av.open(str(path), "w") as container:
            if title:
                container.metadata["title"] = title
            stream = container.add_stream("libx264rgb", rate=fps, options={"crf": "0"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "rgb24"
            for frame in (frames * 255).round().byte().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture
def prompt(host: Host, checkpoint: tuple) -> Callable[[str], Any]:
    """``prompt("a dog")`` -> CONDITIONING."""
    return lambda text: host.run("CLIPTextEncode", clip=checkpoint[1], text=text)[0]


@pytest.fixture
def latent(host: Host) -> Callable[..., dict]:
    """``latent(frames=3, width=64, height=64)`` -> LATENT."""
    return lambda frames=3, width=64, height=64: host.run(
        "VideoLCMEmptyLatent", width=width, height=height, frames=frames
    )[0]


@pytest.fixture
def ksampler(host: Host) -> Callable[..., torch.Tensor]:
    """Core's KSampler with this family's settings; returns the samples."""

    def sample(model: Any, positive: Any, latent: dict, negative: Any = None, **options: Any) -> torch.Tensor:
        settings = {
            "seed": 1,
            "steps": 2,
            "cfg": 1.0,
            "sampler_name": "lcm",
            "scheduler": "simple",
            "denoise": 1.0,
        } | options
        return host.run(
            "KSampler",
            model=model,
            positive=positive,
            negative=positive if negative is None else negative,
            latent_image=latent,
            **settings,
        )[0]["samples"]

    return sample
