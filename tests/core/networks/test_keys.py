"""Key names and shapes of the released networks, built without memory, against digests of the authors' lists."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.families.vgen.keymaps import diffusers_to_vgen, is_diffusers, vgen_to_diffusers
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

KEYS = json.loads((Path(__file__).resolve().parents[2] / "golden" / "keys.json").read_text())
VCOMPOSER = frozenset({"depth", "masked", "sketch", "motion", "image", "local_image", "single_sketch"})
RELEASED = {
    "t2v": UNetConfig(),
    "tft2v_t2v": UNetConfig(conditions=frozenset({"image"})),
    "vcomposer": UNetConfig(conditions=VCOMPOSER),
    "tft2v_vcomposer": UNetConfig(conditions=VCOMPOSER),
    "t2vbase": UNetConfig(concat_channels=0),
}


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights(config):
    return UNet3D(config, device="meta").state_dict()


@pytest.mark.parametrize("name", RELEASED)
def test_keys_and_shapes_are_the_authors(name):
    state_dict = weights(RELEASED[name])
    assert len(state_dict) == KEYS[name]["tensors"]
    assert sum(value.numel() for value in state_dict.values()) == KEYS[name]["parameters"]
    assert digest(f"{key} {list(value.shape)}" for key, value in state_dict.items()) == KEYS[name]["sha256"]


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_released_networks_are_detected(name, prefix):
    state_dict = {prefix + key: value for key, value in weights(RELEASED[name]).items()}
    assert detect_unet_config(state_dict) == RELEASED[name]


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(
            model_channels=64,
            channel_mult=(1, 2),
            num_res_blocks=1,
            attention_scales=(1.0, 0.5),
            context_dim=128,
            num_heads=1,
        ),
        UNetConfig(
            model_channels=96,
            channel_mult=(1, 1, 3),
            num_res_blocks=3,
            attention_scales=(0.5,),
            context_dim=48,
            num_heads=2,
            head_dim=32,
            use_fps=True,
            conditions=frozenset({"canny", "histogram"}),
        ),
        UNetConfig(
            model_channels=64,
            channel_mult=(2,),
            num_res_blocks=1,
            attention_scales=(),
            head_dim=32,
            num_heads=5,
            conditions=frozenset({"image"}),
            num_image_tokens=1,
        ),
    ],
    ids=["mini", "deep", "flat"],
)
def test_other_widths_are_detected(config):
    metadata = {"videolcm.head_dim": str(config.head_dim)}
    assert detect_unet_config(weights(config), metadata) == config


def test_diffusers_map_is_that_of_its_own_conversion_script():
    keys = list(weights(RELEASED["vcomposer"]))
    mapped = vgen_to_diffusers(keys)
    assert len(mapped) == KEYS["diffusers_map"]["tensors"]
    assert sorted(set(keys) - set(mapped))[0].startswith("depth_embedding")
    assert digest(f"{own} {theirs}" for own, theirs in _in_their_order(mapped)) == KEYS["diffusers_map"]["sha256"]


def _in_their_order(mapped):
    """The recorded list is in the order of the text-to-video network."""
    return [(key, mapped[key]) for key in weights(RELEASED["t2v"])]


@pytest.mark.parametrize(
    "config",
    [UNetConfig(), UNetConfig(channel_mult=(1, 2), num_res_blocks=1, attention_scales=(1.0, 0.5))],
    ids=["real", "small"],
)
def test_diffusers_names_and_back(config):
    own = weights(config)
    mapped = vgen_to_diffusers(own)
    assert len(mapped) == len(own) == len(set(mapped.values()))
    squeeze = {key for key, value in own.items() if value.ndim == 3}
    theirs = {mapped[key]: value.squeeze(-1) if key in squeeze else value for key, value in own.items()}
    assert is_diffusers(theirs) and not is_diffusers(own)
    back = diffusers_to_vgen(theirs)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in own.items()}


def test_unknown_diffusers_keys_stay_for_the_key_check():
    theirs = {vgen: torch.empty(1) for vgen in vgen_to_diffusers(weights(UNetConfig())).values()}
    assert "surprise.weight" in diffusers_to_vgen({**theirs, "surprise.weight": torch.empty(1)})
