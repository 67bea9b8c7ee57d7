"""Broken and hostile files of motion modules and of narrow SD1.5 checkpoints, each within limits."""

import broken_files
import numpy as np
import pytest
import torch
from broken_files import BYTE_KINDS, HEADERS, PICKLES, TENSOR_KINDS
from limits import limited

FIRST = "down_blocks.0.motion_modules.0.temporal_transformer"
PARTS = {
    "norm that tells a width": f"{FIRST}.norm.weight",
    "projection": f"{FIRST}.proj_in.weight",
    "attention": f"{FIRST}.transformer_blocks.0.attention_blocks.1.to_q.weight",
    "middle": "mid_block.motion_modules.0.temporal_transformer.proj_out.bias",
    "image encoder": "img_encoder.conv_in.weight",
}
SIZES = {
    "stem": "model.diffusion_model.input_blocks.0.0.weight",
    "level": "model.diffusion_model.input_blocks.4.0.out_layers.3.weight",
    "text width": "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "end": "model.diffusion_model.out.2.weight",
    "block": "model.diffusion_model.output_blocks.11.0.in_layers.2.weight",
}


@pytest.fixture
def refused(host):
    """``refused(name)`` -> the error of loading this file as motion modules."""
    errors = host.pack("videolcm_core.files.errors")

    def load(name, must=True):
        inputs = {"motion_name": name, "weight_dtype": "default"}
        error = limited(lambda: host.run("VideoLCMMotionLoader", **inputs), errors.CheckpointError, name)
        assert error is not None or not must, "it was loaded"
        return error

    return load


@pytest.fixture(scope="module")
def motion(golden_weights):
    return golden_weights("motion") | golden_weights("i2v")


def test_whole_modules_are_taken(refused, write_model, motion):
    with pytest.raises(AssertionError, match="it was loaded"):
        refused(write_model("whole-motion.safetensors", motion, None))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_tensors(refused, write_model, motion, part, kind):
    refused(write_model("motion.safetensors", broken_files.broken(motion, kind, PARTS[part]), None))


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_bytes(refused, host, motion, container, kind):
    few = dict(list(motion.items())[:12])  # what is read without an error is no whole set
    data = broken_files.container(few, container)
    rng = np.random.default_rng(sorted(BYTE_KINDS).index(kind))
    path = host.base / "models" / "videolcm" / f"motion.{'safetensors' if container == 'safetensors' else 'ckpt'}"
    broken_files.save(path, BYTE_KINDS[kind](data, rng))
    refused(path.name)


@pytest.mark.parametrize("header", HEADERS)
def test_headers(refused, host, header):
    refused(broken_files.save(host.base / "models" / "videolcm" / "header.safetensors", HEADERS[header]))


@pytest.mark.parametrize("content", PICKLES)
def test_pickles(refused, host, content, capfd):
    refused(broken_files.save(host.base / "models" / "videolcm" / "pickle.ckpt", PICKLES[content]()))
    assert "called" not in capfd.readouterr().out


def test_small_files_that_ask_for_large_networks(refused, write_model, motion):
    huge = {**motion, PARTS["norm that tells a width"]: torch.ones(1 << 22)}
    refused(write_model("huge.safetensors", huge, None))


@pytest.mark.parametrize("part", SIZES)
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_narrow_checkpoints(host, write_model, golden_weights, part, kind):
    errors = host.pack("videolcm_core.files.errors")
    tensors = broken_files.broken(golden_weights("unet"), kind, SIZES[part])
    name = write_model("narrow.safetensors", tensors, None)
    inputs = {"model_name": name, "weight_dtype": "default", "sampling": "auto"}
    error = limited(lambda: host.run("VideoLCMModelLoader", **inputs), errors.CheckpointError, name)
    assert error is not None, "it was loaded"
    assert "; allowed: " in str(error) and str(error).startswith(name)
