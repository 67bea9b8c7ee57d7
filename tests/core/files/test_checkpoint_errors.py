"""Every file that cannot be used is refused by name, with what was found, what is allowed and what to do."""

import itertools
import pickle

import pytest
import torch
from safetensors.torch import save_file

from videolcm_core.families.foreign import foreign_family
from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.loading import load_unet
from videolcm_core.files.reading import load_state_dict


@pytest.fixture(scope="module")
def weights(tiny_unet):
    return tiny_unet.state_dict()


def refused(path, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_state_dict(path)
    text = str(error.value)
    assert path.name in text and "; allowed: " in text and len(text) < 600
    return error.value


def test_missing(tmp_path):
    refused(tmp_path / "none.safetensors", "got no such file")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_empty(tmp_path, name):
    (tmp_path / name).touch()
    refused(tmp_path / name, "got an empty file .0 bytes.")


@pytest.mark.parametrize("part", [0.001, 0.3, 0.999])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_truncated(tmp_path, name, part, weights):
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=not name.startswith("old"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "truncated|damaged|foreign|unreadable")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"hello, these are no weights at all", "not safetensors inside|damaged or foreign|unreadable"),
    ],
    ids=["lfs", "html", "text"],
)
def test_something_else_under_the_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


class Harmful:
    """A pickle that would write a file when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_inside_is_not_run(tmp_path, save):
    trap, path = tmp_path / "trap", tmp_path / "model.ckpt"
    content = {"state_dict": {"a": torch.ones(1)}, "callback": Harmful(trap)}
    if save == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    refused(path, "code or Python objects inside, which was not run|damaged or foreign pickle")
    assert not trap.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.ones(2)], ids=["list", "no tensors", "tensor"])
def test_pickles_of_other_things(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "got a (list|dictionary without tensors|Tensor); allowed: a dictionary of tensors")


NOT_FINITE = [
    *itertools.product([torch.float32, torch.float16], [float("nan"), float("inf"), -float("inf")]),
    (torch.float8_e4m3fn, float("nan")),  # which has no infinity
]


@pytest.mark.parametrize(("dtype", "value"), NOT_FINITE)
def test_nan_and_infinity(tmp_path, value, dtype, weights):
    bad = weights["middle_block.0.in_layers.2.weight"].clone()
    bad.view(-1)[17] = value
    path = tmp_path / "nan.safetensors"
    save_file({**weights, "middle_block.0.in_layers.2.weight": bad.to(dtype)}, path)
    refused(path, "nan.safetensors: got NaN or infinite values in middle_block.0.in_layers.2.weight")
    load_state_dict(path, check_finite=False)


def test_large_finite_weights_pass(tmp_path):
    save_file({"a": torch.full((8,), 3e38)}, tmp_path / "large.safetensors")
    load_state_dict(tmp_path / "large.safetensors")


UNET = "model.diffusion_model."
FAMILIES = {
    "Stable Diffusion 1.x": {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)},
    "Stable Diffusion 2.x": {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
    "Stable Diffusion XL": {f"{UNET}label_emb.0.0.weight": (1280, 2816), "conditioner.embedders.1.x": (1,)},
    "Wan": {"blocks.0.cross_attn.k.weight": (8, 8), "head.modulation": (1, 2, 8), "patch_embedding.weight": (8, 16)},
    "an AnimateDiff or AnimateLCM motion module": {
        "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)
    },
    "a LoRA, not a whole model": {"unet.mid_block.attentions.0.proj_in.lora_A.weight": (4, 8)},
    "a text encoder": {"text_model.encoder.layers.0.mlp.fc1.weight": (4, 4)},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": (1,), "single_blocks.0.linear1.weight": (1,)},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_named(tmp_path, family):
    path = tmp_path / "other.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in FAMILIES[family].items()}, path)
    with pytest.raises(CheckpointError) as error:
        load_unet(path)
    assert f"other.safetensors: got {family}; allowed: a network of the VGen family" in str(error.value)


def test_the_own_family_is_not_foreign(weights):
    assert foreign_family(weights) is None
    assert foreign_family({UNET + key: value for key, value in weights.items()}) is None
    assert foreign_family({"unknown": torch.ones(1)}) is None


def without(weights, part):
    return {key: value for key, value in weights.items() if part not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if "temopral" not in k}, "missing keys .*temopral_conv.conv1.0.weight"),
        (lambda w: w | {"z.weight": torch.ones(1)}, "unexpected keys z.weight; allowed: exactly the"),
        (
            lambda w: w | {"middle_block.0.in_layers.2.bias": torch.ones(3)},
            r"in_layers.2.bias of shape \[3\]; allowed: \[128\]",
        ),
        (lambda w: {"a": torch.ones(1)}, "got no input_blocks.0.0.weight among a"),
        (lambda w: without(w, "out.2.weight"), "got no out.2.weight among"),
        (
            lambda w: {k: v for k, v in w.items() if "input_blocks.3.0" not in k},
            "no input_blocks.3.0.out_layers.3.weight|residual blocks",
        ),
    ],
    ids=["missing", "unexpected", "shape", "nothing known", "no end", "a block missing"],
)
def test_incomplete_networks(tmp_path, weights, change, message):
    path = tmp_path / "bad.safetensors"
    save_file({k: v.contiguous() for k, v in change(dict(weights)).items()}, path, {"videolcm.head_dim": "16"})
    with pytest.raises(CheckpointError, match=message) as error:
        load_unet(path)
    assert str(error.value).startswith("bad.safetensors: got")


@pytest.mark.parametrize(
    ("head_dim", "message"),
    [("7", "head_dim 7 for 48 channels")]
    + [(text, f"a.safetensors: got videolcm.head_dim '{text}'; allowed: 1 to") for text in ("0", "sixteen", "-16")],
)
def test_head_dim_must_divide(weights, head_dim, message):
    with pytest.raises(CheckpointError, match=message):
        detect_unet_config(weights, {"videolcm.head_dim": head_dim}, "a.safetensors")


def test_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="a folder without diffusion_pytorch_model weights"):
        load_state_dict(tmp_path)
