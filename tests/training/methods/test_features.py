"""The discriminator's feature networks: numbers of the published ones, layouts, sizes, identities, steps of MCM."""

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
from training.methods.parts.discriminator import Discriminator
from training.methods.parts.discriminator_input import View, prepare
from training.methods.parts.feature_networks import AlexNetFeatures
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
    return seeded.seeded_weights()


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    return seeded.save_files(tmp_path_factory.mktemp("features"), weights)


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
