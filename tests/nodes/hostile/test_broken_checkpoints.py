"""Broken and hostile checkpoints: kinds of damage x parts of the file, each within limits of text, time and memory."""

import json

import broken_files
import numpy as np
import pytest
import torch
from broken_files import BYTE_KINDS, HEADERS, PICKLES, TENSOR_KINDS
from limits import limited

MODEL = {"weight_dtype": "default", "sampling": "auto"}
TEXT, VAE = "cond_stage_model.", "first_stage_model."
PARTS = {
    "unet table": "model.diffusion_model.time_embed.0.weight",
    "text tokens": f"{TEXT}transformer.text_model.embeddings.token_embedding.weight",
    "text layer": f"{TEXT}transformer.text_model.encoder.layers.1.self_attn.q_proj.weight",
    "text width": f"{TEXT}transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    "vae encoder": f"{VAE}taesd_encoder.1.conv.0.weight",
    "vae bias": f"{VAE}taesd_decoder.19.bias",
}
SIZES = {
    "stem": "input_blocks.0.0.weight",
    "end": "out.2.weight",
    "first attention": "input_blocks.0.1.proj_in.weight",
    "text width": "middle_block.1.transformer_blocks.0.attn2.to_k.weight",
    "block": "input_blocks.1.0.out_layers.3.weight",
}


@pytest.fixture
def refused(host):
    """``refused(name, loader)`` -> the error of loading this file."""
    errors = host.pack("videolcm_core.files.errors")

    def load(name, loader="VideoLCMCheckpointLoader"):
        inputs = {"ckpt_name": name} if loader == "VideoLCMCheckpointLoader" else {"model_name": name, **MODEL}
        error = limited(lambda: host.run(loader, **inputs), errors.CheckpointError, name)
        assert error is not None, "it was loaded"
        assert "; allowed: " in str(error) and str(error).startswith(name)
        return error

    return load


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_tensors_of_whole_checkpoints(refused, write_model, checkpoint_tensors, part, kind):
    key = PARTS[part]
    name = write_model("broken.safetensors", broken_files.broken(checkpoint_tensors, kind, key))
    text = str(refused(name))
    if kind in ("int64", "bool", "complex", "nan", "inf", "shorter", "renamed"):
        assert key.removeprefix("model.diffusion_model.") in text or part in ("text tokens", "text width")


@pytest.mark.parametrize("part", SIZES)
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_tensors_that_tell_sizes(refused, write_model, unet_state_dict, part, kind):
    tensors = broken_files.broken(unet_state_dict, kind, SIZES[part])
    refused(write_model("sizes.safetensors", tensors, None), "VideoLCMModelLoader")


# Whole numbers of other types are vocabularies too, and none of them is NaN or infinite.
NO_VOCABULARIES = [kind for kind in TENSOR_KINDS if kind not in ("int64", "uint8", "nan", "inf")]


@pytest.mark.parametrize("kind", NO_VOCABULARIES)
def test_vocabularies(refused, write_model, checkpoint_tensors, kind):
    tensors = broken_files.broken(checkpoint_tensors, kind, f"{TEXT}vocabulary")
    refused(write_model("words.safetensors", tensors))


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("kind", BYTE_KINDS)
def test_bytes(refused, host, unet_state_dict, container, kind):
    few = dict(list(unet_state_dict.items())[:12])  # what is read without an error is no whole network
    data = broken_files.container(few, container)
    rng = np.random.default_rng(sorted(BYTE_KINDS).index(kind))
    path = host.base / "models" / "videolcm" / f"bytes.{'safetensors' if container == 'safetensors' else 'pth'}"
    for _ in range(5 if "flipped" in kind else 1):
        broken_files.save(path, BYTE_KINDS[kind](data, rng))
        refused(path.name, "VideoLCMModelLoader")


@pytest.mark.parametrize("header", HEADERS)
def test_headers(refused, host, header):
    name = broken_files.save(host.base / "models" / "videolcm" / "header.safetensors", HEADERS[header])
    refused(name)


@pytest.mark.parametrize("content", PICKLES)
def test_pickles(refused, host, content, capfd):
    name = broken_files.save(host.base / "models" / "videolcm" / "pickle.ckpt", PICKLES[content]())
    refused(name, "VideoLCMModelLoader")
    assert "called" not in capfd.readouterr().out


NETWORKS = {
    "blocks": lambda: broken_files.endless_blocks(1000),
    "levels": lambda: broken_files.endless_levels(),
    "wide": lambda: broken_files.wide(1 << 40),
    "many": lambda: broken_files.endless_blocks(6_000),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_small_files_that_ask_for_large_networks(refused, write_model, network):
    refused(write_model("endless.safetensors", NETWORKS[network](), None), "VideoLCMModelLoader")


@pytest.mark.parametrize("change", [broken_files.wide_text, broken_files.endless_text])
def test_small_files_that_ask_for_large_text_encoders(refused, write_model, checkpoint_tensors, change):
    refused(write_model("text.safetensors", change(checkpoint_tensors, TEXT)))


@pytest.mark.parametrize("heads", [3, 5, 31])
def test_heads_that_do_not_divide_the_width(refused, write_model, checkpoint_tensors, heads):
    config = json.dumps({"hidden_size": 30 * heads, "num_attention_heads": heads})
    metadata = {"videolcm.head_dim": "64", "videolcm.sampling": "lcm", "videolcm.text_config": config}
    name = write_model("heads.safetensors", checkpoint_tensors, metadata)
    assert f"{heads} heads" in str(refused(name))


def test_another_kind_of_autoencoder(refused, write_model, checkpoint_tensors):
    tensors = {key: value for key, value in checkpoint_tensors.items() if not key.startswith(VAE)}
    for names in (["decoder.middle.0.residual.0.gamma"], ["decoder.conv_in.weight", "encoder.conv_in.weight", "x"]):
        strange = {VAE + name: torch.zeros(1 << 8, 4, 3, 3) for name in names}
        assert "VAE that this ComfyUI does not know" in str(refused(write_model("vae.safetensors", tensors | strange)))
