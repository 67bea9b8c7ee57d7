"""Files of feature networks: DINOv2's layouts, and all that is no file of the network that is asked for."""

import json
import pickle
import re

import numpy as np
import pytest
import seeded_features as seeded
import tiny_mcm
import torch
from safetensors.torch import save_file

from training.methods.parts.dino_files import read_hub_dino
from training.methods.parts.feature_networks import DinoFeatures
from training.methods.parts.features import FEATURES, load_features


@pytest.fixture(scope="module")
def weights():
    return seeded.seeded_weights()


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    return seeded.save_files(tmp_path_factory.mktemp("features"), weights)


def test_features_of_dino_are_normed_and_without_the_class(tmp_path):
    from transformers import Dinov2Model

    folder = tiny_mcm.save_small_dino(tmp_path)
    images = torch.randn(2, 3, 28, 28)
    found = load_features("dinov2_s14", str(folder))(images)
    assert {name: tuple(v.shape) for name, v in found.items()} == dict.fromkeys(("2", "5", "8", "11"), (2, 4, 16))
    alone = read_hub_dino(folder / "model.safetensors", heads=2)
    with torch.no_grad():
        assert torch.equal(DinoFeatures(alone.train(False))(images)["5"], found["5"])
    whole = Dinov2Model.from_pretrained(str(folder), local_files_only=True).train(False)
    with torch.no_grad():
        torch.testing.assert_close(found["11"], whole(pixel_values=images).last_hidden_state[:, 1:])
    with pytest.raises(ValueError, match=r"features_file is '', .* Give --features-file PATH"):
        load_features("alexnet", "")


def in_the_names_of_the_release(state):
    """Weights of transformers' Dinov2Model, of its versions 4 and 5, as its authors' file has them."""
    renamed = {}
    for key, value in state.items():
        for old, new in (
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.", ""),
            ("encoder.layer.", "blocks."),
            ("layernorm.", "norm."),
            ("attention.output.dense", "attn.proj"),
            ("attention.o_proj", "attn.proj"),
            *((f"attention.{name[0]}_proj", f"attention.attention.{name}") for name in ("query", "key", "value")),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
        ):
            key = key.replace(old, new)
        renamed[key] = value
    for key in [key for key in renamed if ".query." in key]:
        parts = [renamed.pop(key.replace("query", name)) for name in ("query", "key", "value")]
        renamed[key.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return renamed


def test_dino_from_the_release_is_dino_from_transformers(tmp_path):
    from transformers import Dinov2Model

    folder, images = tiny_mcm.save_small_dino(tmp_path / "dino"), torch.randn(2, 3, 28, 28)
    state = Dinov2Model.from_pretrained(str(folder), local_files_only=True).state_dict()
    renamed = in_the_names_of_the_release(state)
    assert {"blocks.3.attn.qkv.weight", "blocks.0.ls1.gamma", "pos_embed", "norm.bias"} <= set(renamed)
    torch.save(renamed, path := tmp_path / "dino.pth")
    theirs = load_features("dinov2_s14", str(folder))
    network = read_hub_dino(path, heads=theirs.network.config.num_attention_heads)
    found = DinoFeatures(network.train(False))
    with torch.no_grad():
        assert all(torch.equal(found(images)[name], value) for name, value in theirs(images).items())
    for change in ({"norm.weight": torch.ones(3)}, {"blocks.0.more": torch.ones(3)}, {"blocks.3.ls1.gamma": None}):
        changed = {key: value for key, value in (renamed | change).items() if value is not None}
        torch.save(changed, path)
        with pytest.raises(ValueError, match="missing, unexpected or misshapen"):
            read_hub_dino(path, heads=2)


def cut(path, target):
    target.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return target


class Code:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.fixture(scope="module")
def wrong(files, weights, tmp_path_factory):
    """Files that are not what they should be, by what they are, each with what must be said of it."""
    folder = tmp_path_factory.mktemp("wrong")

    def saved(name, content):
        torch.save(content, folder / name)
        return folder / name

    def dumped(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))
        return folder / name

    def named(name, content=b""):
        (folder / name).write_bytes(content)
        return folder / name

    def transformers(name, config):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        return folder / name

    array = np.ones((3, 3), np.float32)
    save_file({"some.weight": torch.ones(2)}, folder / "other.safetensors")
    scripted = folder / "i3d_torchscript.pt"
    torch.jit.script(torch.nn.ReLU()).save(str(scripted))
    no_config = folder / "no_config"
    no_config.mkdir()
    config = json.loads((files["dinov2_s14"] / "config.json").read_text())
    strange, damaged = (transformers(name, config) for name in ("strange", "damaged"))
    save_file({"text_model.embeddings.token_embedding.weight": torch.ones(2, 4)}, strange / "model.safetensors")
    cut(files["dinov2_s14"] / "model.safetensors", damaged / "model.safetensors")
    odd = {"patch_embed.proj.weight": torch.ones(4, 3), "pos_embed": torch.ones(4)}
    hub = {"patch_embed.proj.weight": torch.ones(4, 3, 16, 16), "pos_embed": torch.ones(1, 5, 4)}
    found = {
        "i3d": (dumped("i3d.ckpt", {"params": {"Conv3d_1a_7x7": {"kernel": array}}}), "got .*I3D"),
        "safetensors": (folder / "other.safetensors", "got .*some.weight"),
        "raft": (saved("raft.pth", {"update_block.flow_head.conv1.weight": torch.ones(2)}), "got .*RAFT"),
        "clip": (saved("open_clip_pytorch_model.bin", {"token_embedding.weight": torch.ones(2)}), "a text encoder"),
        "transformer": (saved("vit.pth", hub), "missing, unexpected or misshapen|a vision transformer"),
        "google": (
            saved("inception_v3.pth", weights["inception"] | {"AuxLogits.fc.bias": torch.ones(1)}),
            "torchvision",
        ),
        "script": (scripted, "a TorchScript program other than"),
        "no arrays": (dumped("list.ckpt", ["text"]), "no tensors"),
        "infinite": (dumped("inf.ckpt", {"a": array * np.inf}), "NaN or infinite values in a"),
        "code": (dumped("code.ckpt", {"a": Code()}), "builtins.print"),
        "nothing": (named("empty.pth"), "an empty file"),
        "page": (named("page.pth", b"<html>not found</html>"), "a web page"),
        "text": (named("notes.txt", b"hello"), "got"),
        "pointer": (named("lfs.pth", b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        "no config": (no_config, "a folder"),
        "clip folder": (transformers("clip_folder", {"model_type": "clip"}), "transformers' 'clip'|a folder"),
        "empty folder": (transformers("empty_folder", {"model_type": "dinov2"}), "cannot read|a folder"),
        "another's weights": (strange, "missing, unexpected or misshapen|a folder"),
        "a damaged folder": (damaged, "cannot read|a folder"),
        "odd sizes": (saved("odd.pth", odd), "cannot be used|a vision transformer"),
        "a list": (transformers("list_folder", ["dinov2"]), "names its model_type|a folder"),
    }
    for name, file in files.items():
        file = file / "model.safetensors" if file.is_dir() else file
        found[f"part of {name}"] = cut(file, folder / f"part_{file.name}"), "got"
    return found


WRONG = (
    "i3d safetensors raft clip transformer google script code nothing page text pointer infinite".split()
    + [
        "no arrays",
        "no config",
        "clip folder",
        "empty folder",
        "a list",
        "another's weights",
        "a damaged folder",
        "odd sizes",
    ]
    + [f"part of {name}" for name in FEATURES]
)


def refused(name, file, said):
    with pytest.raises(ValueError) as caught:
        load_features(name, str(file))
    message = str(caught.value)
    assert str(file) in message and re.search(said, message), message
    assert f"allowed: for {name}: {FEATURES[name].files}. Give --features-file PATH" in message, message
    return message


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", FEATURES)
def test_what_is_no_file_of_a_network_is_refused(name, kind, wrong, capfd):
    refused(name, *wrong[kind])
    assert "ran" not in capfd.readouterr().out.split(), "nothing in a file runs"


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("other", FEATURES)
def test_the_file_of_one_network_is_not_anothers(name, other, files):
    if name == other:
        load_features(name, str(files[name]))
        return
    titles = {"alexnet": "AlexNet", "vgg16": "VGG16", "inception": "Inception", "dinov2_s14": "a folder|'dinov2'"}
    refused(name, files[other], titles[other])


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("vgg16", lambda s: without(s, "features.28.weight"), "VGG16|unknown.*without features.28.weight"),
        ("vgg16", lambda s: s | {"features.5.weight": torch.ones(128, 64, 5, 5)}, r"features.5.weight of shape \[128"),
        ("vgg16", lambda s: s | {"features.5.bias": torch.ones(3)}, "features.5"),
        ("vgg16", lambda s: s | {"features.0.weight": torch.full((64, 3, 3, 3), torch.nan)}, "NaN or infinite"),
        ("vgg16", lambda s: s | {"features.0.weight": torch.ones(64, 3, 3, 3).int()}, "of type int32"),
        ("inception", lambda s: without(s, "Mixed_6b.branch1x1.bn.bias"), "missing keys Mixed_6b.branch1x1.bn.bias"),
        ("inception", lambda s: s | {"Mixed_5b.branch1x1.bn.bias": torch.ones(3)}, r"of shape \[3\]"),
        ("inception", lambda s: s | {"Mixed_5b.branch1x1.bn.bias": torch.ones(64).int()}, "of type int32"),
    ],
)
def test_files_that_are_nearly_right(name, change, said, weights, tmp_path):
    state = weights[name] if name == "inception" else seeded.torchvision_state(weights[name], seeded.VGG16_PLACES)
    torch.save(change(state), tmp_path / "weights.pth")
    refused(name, tmp_path / "weights.pth", said)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("file", ["", "not/there.pth"])
def test_a_file_that_is_not_there(name, file):
    with pytest.raises(ValueError, match=rf"features_file is '{file}', which is not there; allowed for {name}"):
        load_features(name, file)


def test_a_network_that_is_not_in_the_table(files):
    with pytest.raises(ValueError, match="features is 'resnet'; allowed: dinov2_s14, vgg16, inception, alexnet"):
        load_features("resnet", str(files["vgg16"]))


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"conv.weight": torch.ones(2)}, path := tmp_path / "other.pth")
    with pytest.raises(ValueError, match="without DINOv2's patch_embed"):
        load_features("dinov2_s14", str(path))
