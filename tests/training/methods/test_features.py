"""The discriminator's feature networks: numbers of the published ones, every layout of their files, what is refused."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import seeded_features as seeded
import tiny_mcm
import torch
from precision import assert_rounded, assert_same, assert_within
from safetensors.torch import save_file

import setup
from training.engine.identity import Identity, check_fixed
from training.methods.parts.dino_files import read_hub_dino
from training.methods.parts.discriminator import Discriminator
from training.methods.parts.discriminator_input import View, prepare
from training.methods.parts.feature_networks import AlexNetFeatures, DinoFeatures
from training.methods.parts.features import FEATURES, check_feature_size, load_features
from training.metrics import inception
from training.metrics.inception_network import published_names
from training.metrics.lpips import Lpips
from training.recipes.mcm import MCMRecipe

CONVOLUTIONAL = ("alexnet", "vgg16", "inception")
BY_HAND = {"alexnet": seeded.alexnet_by_hand, "vgg16": seeded.vgg16_by_hand, "inception": seeded.inception_by_hand}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def weights():
    return {
        "alexnet": seeded.chain(seeded.ALEXNET),
        "vgg16": seeded.chain(seeded.VGG16),
        "inception": seeded.inception_state(),
    }


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """A file of each network."""
    folder = tmp_path_factory.mktemp("features")
    torch.save(seeded.torchvision_state(weights["alexnet"], seeded.ALEXNET_PLACES), folder / "alexnet.pth")
    torch.save(weights["inception"], folder / "pt_inception.pth")
    return {
        "alexnet": folder / "alexnet.pth",
        "vgg16": seeded.save_flax(folder / "vgg16.ckpt", "VGG16_0", weights["vgg16"]),
        "inception": folder / "pt_inception.pth",
        "dinov2_s14": tiny_mcm.save_small_dino(folder / "dino"),
    }


@pytest.fixture(scope="module")
def networks(files):
    return {name: load_features(name, str(file)) for name, file in files.items()}


def doubled(weights):
    """The same numbers in float64."""
    if isinstance(weights, dict):
        return {key: value.double() for key, value in weights.items()}
    return [(weight.double(), bias.double()) for weight, bias in weights]


def seen(pixels):
    """Pixels ``[N, H, W, 3]`` of 0 to 255 on the discriminator's way: frames in [-1, 1], not changed, not cut."""
    frames = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    view = View(changes=None, crop=torch.full((len(pixels), 2), -1))
    return prepare(frames, view, pixels.shape[1])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_features_of_pixels_are_those_of_the_published_network(name, weights, networks):
    """From bytes on: each network's own range of numbers, then its layers line by line; float64 on both sides."""
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

    x = pixels.permute(0, 3, 1, 2).double()
    if name == "inception":
        x = (x - 128.0) / 128.0
    else:
        mean, spread = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        x = (x / 255.0 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(spread).double().view(3, 1, 1)
    found = networks[name](seen(pixels))
    assert {n: v.shape[2] for n, v in found.items()} == dict(networks[name].widths)
    truth = assert_rounded(lambda: networks[name](seen(pixels))).of_another(BY_HAND[name](x, doubled(weights[name])))
    for layer in truth.values:
        assert_within(found[layer], truth, layer)


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_they_are_torchvisions(name, weights, networks):
    models = pytest.importorskip("torchvision.models")
    model = getattr(models, name)(weights=None).train(False)
    places = seeded.ALEXNET_PLACES if name == "alexnet" else seeded.VGG16_PLACES
    state = seeded.torchvision_state(weights[name], places)
    model.features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if "features" in k})
    images, found = normal(2, 3, 64, 64), []
    with torch.no_grad():
        x = images
        for n, layer in enumerate(model.features):
            x = layer(x)
            found += [x.flatten(2).transpose(1, 2).clone()] if n - 1 in places else []
        ours = networks[name](images)
    taken = (1, 2, 3, 4) if name == "alexnet" else (6, 9, 12)
    for own, place in zip(ours.values(), taken, strict=True):
        torch.testing.assert_close(own, found[place])


def test_the_packages_alexnet_is_torchvisions(tmp_path):
    """The published weights in both files' names."""
    path = setup.metric_folder() / "lpips_alex_v0.1.pt"
    stored = torch.load(path, weights_only=True)["trunk"]
    pairs = [(layer["weight"], layer["bias"]) for layer in stored]
    torch.save(seeded.torchvision_state(pairs, seeded.ALEXNET_PLACES), tmp_path / "alexnet.pth")
    flax = seeded.save_flax(tmp_path / "alexnet.ckpt", "AlexNet_0", pairs)
    found = [load_features("alexnet", str(file)) for file in (path, tmp_path / "alexnet.pth", flax)]
    assert len({f.identity()["features"] for f in found}) == 1
    images = normal(1, 3, 64, 64)
    assert_same(lambda: found[0](images), lambda: seeded.alexnet_by_hand(images, pairs))


@pytest.mark.parametrize("name", ["vgg16", "inception"])
def test_the_packages_files(name):
    """What only the real files tell: that their names and hashes are known, and that they see something."""
    path = setup.ROOT / "runs" / "metrics" / {"vgg16": "vgg16.ckpt", "inception": "default_1.pt"}[name]
    if not path.exists():
        pytest.skip(f"60 to 80 MB of weights, fetched by {FEATURES[name].source.split()[0]}")
    network, images = load_features(name, str(path)), normal(1, 3, 64, 64)
    found = network(images)
    assert all(float((value > 0).float().mean()) > 0.01 for value in found.values())
    if name == "inception":
        x, layers = (images * network.spread + network.mean) * 255.0, inception.load_inception(path).net.layers
        x, exact = (x - 128.0) / 128.0, assert_rounded(lambda: network(images))
        for name in "conv conv_1 conv_2 pool0 conv_3 conv_4 pool1".split() + [
            "mixed",
            *map("mixed_{}".format, range(1, 8)),
        ]:
            x = getattr(layers, name)(x)
            if ours := {"conv_4": "Conv2d_4a_3x3", "mixed_2": "Mixed_5d", "mixed_7": "Mixed_6e"}.get(name):
                assert_within(x.flatten(2).transpose(1, 2), exact, ours, "the published program's")


def test_every_layout_is_the_same_network(tmp_path, weights, files, networks):
    state = seeded.torchvision_state(weights["vgg16"], seeded.VGG16_PLACES)
    torch.save(state, tmp_path / "vgg16.pth")
    torch.save({"state_dict": state}, tmp_path / "vgg16.bin", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "vgg16.safetensors")
    same = [load_features("vgg16", str(tmp_path / f"vgg16.{end}")) for end in ("pth", "bin", "safetensors")]
    assert {f.identity()["features"] for f in same} == {networks["vgg16"].identity()["features"]}
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pth")
    half = load_features("vgg16", str(tmp_path / "half.pth"))
    assert half.identity() != same[0].identity() and next(half.parameters()).dtype == torch.float32


def test_the_names_of_the_scripted_inception_are_the_published_ones(weights):
    without_scale = {k: torch.ones_like(v) if k.endswith("bn.weight") else v for k, v in weights["inception"].items()}
    found = published_names(seeded.scripted_state(without_scale))
    assert set(found) == {k for k in without_scale if not k.startswith("fc.")}
    assert all(torch.equal(value, without_scale[key]) for key, value in found.items())


@pytest.mark.parametrize("name", FEATURES)
def test_gradients_reach_the_images_only(name, networks):
    images = normal(2, 3, FEATURES[name].smallest, FEATURES[name].smallest).requires_grad_()
    sum(value.square().sum() for value in networks[name](images).values()).backward()
    assert all(bool(gradient.any()) and bool(gradient.isfinite().all()) for gradient in images.grad)
    assert not networks[name].training
    assert not any(p.requires_grad or p.grad is not None for p in networks[name].parameters())


@pytest.mark.parametrize("name", FEATURES)
def test_the_smallest_images_are_those_that_a_discriminator_can_judge(name, networks):
    entry, network = FEATURES[name], networks[name]
    discriminator, text = Discriminator(network.widths, 6), normal(2, 6)
    check_feature_size(name, entry.smallest)
    side = entry.smallest
    assert discriminator(network(normal(2, 3, side, side)), text).isfinite().all()
    smaller = normal(2, 3, side - entry.multiple, side - entry.multiple)
    with pytest.raises(RuntimeError):
        discriminator(network(smaller), text)
    with pytest.raises(ValueError, match=rf"feature_size is {side - entry.multiple} .*{name}.*allowed: {side} or more"):
        check_feature_size(name, side - entry.multiple)


@pytest.mark.parametrize(("size", "near"), [(30, 28), (223, 224), (128, 126), (1, 28)])
def test_dino_sees_whole_patches(size, near):
    message = rf"feature_size is {size} .* a multiple of 14. Give --feature-size {near}"
    with pytest.raises(ValueError, match=message):
        check_feature_size("dinov2_s14", size)
    with pytest.raises(ValueError, match=message):
        MCMRecipe(name="a", feature_size=size)
    assert MCMRecipe(name="a", feature_size=size, adversarial_weight=0.0).feature_size == size


def test_the_table_says_what_the_networks_are(networks):
    for name, entry in FEATURES.items():
        assert type(networks[name]) is entry.features and entry.features.name == name
        assert list(networks[name].widths) == list(entry.widths)
        if name != "dinov2_s14":  # the test's is narrower
            assert dict(networks[name].widths) == dict(entry.widths)
        for script in re.findall(r"scripts/\w+\.sh", entry.source):
            assert (setup.ROOT / script).is_file()
    assert MCMRecipe.choices["features"] == tuple(FEATURES)


def test_an_identity_is_that_of_the_weights(networks, tmp_path):
    assert len({network.identity()["features"] for network in networks.values()}) == 4
    assert networks["vgg16"].identity()["features"].startswith("vgg16 ")
    other = seeded.chain(seeded.ALEXNET, seed=1)
    torch.save(seeded.torchvision_state(other, seeded.ALEXNET_PLACES), tmp_path / "alexnet.pth")
    found = load_features("alexnet", str(tmp_path / "alexnet.pth")).identity()
    assert found.keys() == networks["alexnet"].identity().keys() and found != networks["alexnet"].identity()
    for later in (found, networks["vgg16"].identity()):
        began = {"identity": Identity(fixed=networks["alexnet"].identity()).entries()}
        with pytest.raises(
            ValueError, match=r"begun with other inputs \(features: alexnet \w{16}, now (alexnet|vgg16) "
        ):
            check_fixed(Identity(fixed=later), began, tmp_path / "c.pt")


@pytest.mark.parametrize("name", FEATURES)
def test_reading_draws_nothing(name, files):
    """The discriminator begins the same, whichever network's and layout's file was read before it."""
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    load_features(name, str(files[name]))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", FEATURES)
def test_mcm_trains_through_each(name, files):
    """A step of both sides: what the discriminator says through these features reaches the student."""
    recipe = tiny_mcm.tiny_recipe(
        files[name],
        features=name,
        feature_size={"dinov2_s14": 28, "vgg16": 32}.get(name, FEATURES[name].smallest),
        disc_frames=1,
        batch=1,
    )
    task = tiny_mcm.tiny_mcm(recipe)
    assert task.method.frozen["features"].name == name
    values = task.step(0, torch.Generator())
    assert all(np.isfinite(value) for value in values.values()) and values["grad_norm"] > 0
    without = replace(recipe, adversarial_weight=0.0)
    assert tiny_mcm.tiny_mcm(without).step(0, torch.Generator())["grad_norm"] != values["grad_norm"]


# ------------------------------------------------------------------------------------------------ files of others


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


# ------------------------------------------------------------------------------------------------ DINOv2


def test_features_of_dino_are_normed_and_without_the_class(tmp_path):
    from transformers import Dinov2Model

    folder = tiny_mcm.save_small_dino(tmp_path)
    images = normal(2, 3, 28, 28)
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

    folder, images = tiny_mcm.save_small_dino(tmp_path / "dino"), normal(2, 3, 28, 28)
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


@pytest.mark.parametrize("side", [64, 128])
def test_features_of_alexnet_are_the_activations_of_lpips(side):
    torch.manual_seed(0)
    network = Lpips()
    images = torch.rand(2, 3, side, side)
    found = AlexNetFeatures(network)((images * 2 - 1 - network.shift) / network.scale)
    assert list(found) == ["1", "2", "3", "4"] and len(AlexNetFeatures(network).widths) == 4
    for activation, (name, value) in zip(network.features(images)[1:], found.items(), strict=True):
        unit = value / (value.square().sum(-1, keepdim=True).sqrt() + 1e-10)
        torch.testing.assert_close(unit, activation.flatten(2).transpose(1, 2))
        assert value.shape[2] == AlexNetFeatures(network).widths[name]


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"conv.weight": torch.ones(2)}, path := tmp_path / "other.pth")
    with pytest.raises(ValueError, match="without DINOv2's patch_embed"):
        load_features("dinov2_s14", str(path))
