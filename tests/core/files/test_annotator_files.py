"""Annotator files: what is read, and what is refused with which words."""

import pytest
import torch
from recipe import recipe_fill
from safetensors.torch import save_file

from videolcm_core.files.annotator_files import (
    ANNOTATORS,
    MIDAS,
    MINI_DEPTH,
    PIDINET,
    SKETCH_SIMPLIFICATION,
    load_annotator,
)
from videolcm_core.files.errors import CheckpointError
from videolcm_core.networks.annotators.midas import Midas, MidasConfig
from videolcm_core.networks.annotators.mini_depth import MiniDepth
from videolcm_core.networks.annotators.pidinet import PiDiNet, PiDiNetConfig
from videolcm_core.networks.annotators.sketch_simplification import SketchSimplification

TINY_MIDAS = MidasConfig(
    dim=64, num_layers=4, num_heads=1, grid=2, mlp_dim=96, neck_dims=(8, 8, 8, 8), fusion_dim=8, head_dims=(8, 4)
)
NETWORKS = {
    MIDAS: Midas(TINY_MIDAS),
    MINI_DEPTH: MiniDepth(),
    PIDINET: PiDiNet(PiDiNetConfig(width=4, dilated=4, attended=2)),
    SKETCH_SIMPLIFICATION: SketchSimplification((1, *[4] * 22, 1)),
}


def state_dict(kind):
    weights = recipe_fill(NETWORKS[kind], seed=5).state_dict()
    if kind is PIDINET:  # as published: every difference convolution 3x3
        weights = {k: v[..., 1:4, 1:4].contiguous() if v.shape[-1] == 5 else v for k, v in weights.items()}
    return weights


@pytest.mark.parametrize("kind", ANNOTATORS, ids=lambda kind: kind.file)
@pytest.mark.parametrize("form", ["safetensors", "pth", "authors"])
def test_every_network_loads(kind, form, tmp_path):
    path = tmp_path / f"file.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(state_dict(kind), path)
    else:
        prefix = "module." if form == "authors" else ""
        tensors = {prefix + key: value for key, value in state_dict(kind).items()}
        torch.save({"state_dict": tensors, "epoch": 3} if form == "authors" else tensors, path)
    found, network = load_annotator(path, (kind,))
    assert found is kind and not network.training
    with torch.no_grad():
        out = network(torch.rand(1, 1 if kind is SKETCH_SIMPLIFICATION else 3, 32, 32))
    assert (out[0] if isinstance(out, tuple) else out).shape == (1, 1, 32, 32)


def test_half_precision_files_compute_in_float32(tmp_path):
    save_file({key: value.half() for key, value in state_dict(MIDAS).items()}, tmp_path / "half.safetensors")
    _, network = load_annotator(tmp_path / "half.safetensors", (MIDAS,))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def refused(tmp_path, tensors, allowed=(MIDAS, MINI_DEPTH)) -> str:
    save_file(tensors, tmp_path / "given.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_annotator(tmp_path / "given.safetensors", allowed)
    assert "given.safetensors" in str(caught.value)
    return str(caught.value)


def test_another_network_is_named(tmp_path):
    text = refused(tmp_path, state_dict(PIDINET))
    assert "PiDiNet edges (as in table5_pidinet.pth)" in text and "midas_v3_dpt_large.pth" in text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("pretrained.model.cls_token", "MiDaS in the layout of its first release"),
        ("dpt.embeddings.cls_token", "layout of Hugging Face"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a diffusion checkpoint"),
        ("some.key", "a network with keys some.key"),
    ],
)
def test_foreign_files_are_described(tmp_path, key, words):
    assert words in refused(tmp_path, {key: torch.zeros(2)})


def test_incomplete_and_misshapen_files(tmp_path):
    tensors = state_dict(MIDAS)
    key = "blocks.1.attn.proj.weight"
    assert key in refused(tmp_path, {k: v for k, v in tensors.items() if k != key})
    assert key in refused(tmp_path, {**tensors, key: tensors[key][:-1].contiguous()})
    assert "without conv3.0.weight" in refused(tmp_path, {k: v for k, v in tensors.items() if k != "conv3.0.weight"})
    assert "without blocks.3" in refused(tmp_path, {k: v for k, v in tensors.items() if not k.startswith("blocks.3.")})
    assert key in refused(tmp_path, {**tensors, key: torch.full_like(tensors[key], float("nan"))})
