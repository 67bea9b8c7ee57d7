"""Find and change nodes of an API-format prompt by what they do."""

import copy
from pathlib import Path
from typing import Any

import av
import numpy as np

import setup

Prompt = dict[str, dict[str, Any]]
MODEL_FILES = (".safetensors", ".pth", ".bin", ".ckpt", ".pt")


def inputs_of(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """Inputs of the first node of a type."""
    return next(node["inputs"] for node in prompt.values() if node["class_type"] == class_type)


def sampler_of(prompt: Prompt) -> dict[str, Any]:
    """Inputs of the node that samples."""
    return next(node["inputs"] for node in prompt.values() if "positive" in node["inputs"])


def text_of(prompt: Prompt) -> dict[str, Any]:
    """Inputs of the node that encodes the sampler's positive prompt."""
    return prompt[sampler_of(prompt)["positive"][0]]["inputs"]


def set_checkpoint(prompt: Prompt, name: str) -> None:
    """Load another file in the checkpoint loader."""
    loader = inputs_of(prompt, "VideoLCMCheckpointLoader")
    (field,) = [key for key, value in loader.items() if str(value).endswith(".safetensors")]
    loader[field] = name


def quick(prompt: Prompt, **latent: Any) -> Prompt:
    """A copy with one step, and with the latent's inputs where given."""
    prompt = copy.deepcopy(prompt)
    sampler_of(prompt)["steps"] = 1
    inputs_of(prompt, "VideoLCMEmptyLatent").update(latent)
    return prompt


def long_run(prompt: Prompt, seed: int) -> Prompt:
    """A copy that takes seconds per step, so that a stop falls inside one."""
    prompt = copy.deepcopy(prompt)
    sampler_of(prompt).update(steps=50, seed=seed)
    inputs_of(prompt, "VideoLCMEmptyLatent").update(width=128, height=128)
    return prompt


def frames_in(path: Path) -> list[np.ndarray]:
    """Decoded frames of a video file, each [H, W, 3] uint8."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def notes(result: Any) -> list[str]:
    """What the nodes told the page, ids of nodes before it."""
    return [message[8:].decode() for message in result.previews if message[:4] == (3).to_bytes(4, "big")]


def absent_models(prompt: Prompt) -> set[str]:
    """Model files that a prompt names and that do not come with the pack."""
    values = (value for node in prompt.values() for value in node["inputs"].values())
    named = {value for value in values if isinstance(value, str) and value.endswith(MODEL_FILES)}
    folders = [setup.ROOT / "models", setup.ROOT / "models" / "annotators"]
    return {name for name in named if not any((folder / name).is_file() for folder in folders)}
