"""Files of motion modules: every layout, every release, and what is refused by name."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from motion_weights import BLOCK, NARROW, motion, with_tables
from recipe import recipe_fill
from safetensors.torch import save_file

from videolcm_core.families.animatediff.defaults import RELEASED, UNKNOWN
from videolcm_core.families.animatediff.detection import read_motion
from videolcm_core.families.animatediff.keymaps import motion_from_diffusers, motion_to_diffusers, sd15_to_diffusers
from videolcm_core.files.errors import SettingsError
from videolcm_core.files.reading import load_state_dict
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet

KEYS = json.loads((Path(__file__).resolve().parents[2] / "golden" / "keys.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return motion()


def assert_weights(found, weights):
    assert set(found.weights) == set(weights)
    for key, value in weights.items():
        assert found.weights[key].equal(value), key


# ------------------------------------------------------------------------------------------- published key lists


def digest(tensors):
    return hashlib.sha256("\n".join(sorted(f"{k} {list(v.shape)}" for k, v in tensors.items())).encode()).hexdigest()


def full_size(**sizes):
    return MotionNetwork(MotionConfig(**sizes), device="meta").state_dict()


def parameters(tensors):
    return sum(value.numel() for value in tensors.values())


def assert_published(tensors, name):
    assert len(tensors) == KEYS[name]["tensors"]
    assert parameters(tensors) == KEYS[name]["parameters"]
    assert digest(tensors) == KEYS[name]["sha256"]


def test_keys_and_sizes_are_the_published_ones():
    both = full_size(image_encoder=True)
    modules = full_size()
    assert_published(modules, "animatelcm_t2v")
    assert_published({key: both[key] for key in both.keys() - modules.keys()}, "animatelcm_i2v_encoder")
    adapter = motion_to_diffusers(modules)
    assert_published(adapter, "animatelcm_diffusers")
    # What the pages of the published files say, in GB.
    assert round(parameters(modules) * 4 / 1e9, 2) == 1.81
    assert round(parameters(both) * 4 / 1e9, 2) == 2.12
    assert round(parameters(adapter) * 4 / 1e9, 2) == 1.82
    assert round(parameters(adapter) * 2 / 1e9, 3) == 0.908


@pytest.mark.parametrize("to_file", [dict, motion_to_diffusers], ids=["authors", "diffusers"])
@pytest.mark.parametrize("image_encoder", [False, True])
def test_full_size_is_read(to_file, image_encoder):
    found = read_motion(to_file(full_size(image_encoder=image_encoder)), {}, "AnimateLCM.ckpt")
    positions = 32 if to_file is motion_to_diffusers else 0
    assert found.config == MotionConfig(image_encoder=image_encoder, positions=positions)
    assert found.release == ("animatelcm-i2v" if image_encoder else "animatelcm")


# -------------------------------------------------------------------------------------------------- every layout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "wrapped.ckpt", "parallel.ckpt", "both.pth"])
def test_files_of_authors(tmp_path, weights, name, dtype):
    tensors = {key: value.to(dtype) for key, value in weights.items()}
    stored = {f"module.{key}": value for key, value in tensors.items()} if name[0] in "pb" else tensors
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file(stored, path)
    else:
        torch.save({"state_dict": stored, "epoch": 3, "global_step": 7} if name[0] in "wb" else stored, path)
    found = read_motion(*load_state_dict(path)[:2], path.name)
    assert_weights(found, tensors)
    assert (found.release, found.layout, found.ignored) == ("animatelcm", "authors", ())
    MotionNetwork(found.config).load_state_dict(found.weights)


@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 1, 1)])
def test_projections_may_be_convolutions(weights, kernel):
    kernels = {
        k: v.reshape(*v.shape, *kernel) if re.search(r"\.proj_(in|out)\.w", k) else v for k, v in weights.items()
    }
    assert sum(value.ndim > 2 for value in kernels.values()) == 42
    assert_weights(read_motion(kernels, {}, "a.ckpt"), weights)


@pytest.mark.parametrize(
    ("mid_block", "frames", "release"),
    [
        (False, 24, "animatediff-v1"),
        (True, 32, "animatediff-v2"),
        (True, 77, "animatediff-v2"),
        (False, 32, "animatediff-v3"),
        (True, 0, "animatelcm"),
        (False, 0, "animatelcm"),
    ],
)
def test_releases(mid_block, frames, release):
    tensors = motion(mid_block=mid_block)
    tensors = with_tables(tensors, frames) if frames else tensors
    found = read_motion(tensors, {}, "mm.ckpt")
    assert found.release == found.settings.family == release
    assert found.config == MotionConfig(channels=NARROW, mid_block=mid_block, positions=frames)
    assert_weights(found, tensors)
    network = MotionNetwork(found.config)
    network.load_state_dict(found.weights)
    assert len(network.names()) == (21 if mid_block else 20)


def test_other_networks_beside_it_are_left_out_and_named(weights, tiny_unet):
    unet = {f"module.{key}": value for key, value in tiny_unet.state_dict().items() if "input_blocks.0." in key}
    more = {"module.conv_in.weight": torch.ones(32, 4, 3, 3), "epoch": torch.tensor(3), **unet}
    found = read_motion({**{f"module.{k}": v for k, v in weights.items()}, **more}, {}, "a.ckpt")
    assert_weights(found, weights)
    assert set(found.ignored) == set(more)


def test_the_image_encoder_is_kept():
    tensors = motion(image_encoder=True)
    found = read_motion({f"module.{key}": value for key, value in tensors.items()}, {}, "a.ckpt")
    assert_weights(found, tensors)
    assert found.config.image_encoder and found.release == "animatelcm-i2v"


@pytest.mark.parametrize("frames", [0, 24])
@pytest.mark.parametrize("mid_block", [True, False])
def test_diffusers_and_back(mid_block, frames):
    tensors = motion(mid_block=mid_block)
    tensors = with_tables(tensors, frames) if frames else tensors
    adapter = motion_to_diffusers(tensors)
    found = read_motion(adapter, {}, "adapter.safetensors")
    assert found.layout == "diffusers" and found.config.positions == (frames or 32)
    assert_weights(found, with_tables(tensors, frames or 32))
    again = motion_to_diffusers(found.weights)
    assert set(again) == set(adapter) and all(again[key].equal(value) for key, value in adapter.items())


def test_two_tables_in_a_block_cannot_go_to_diffusers(weights):
    tensors = with_tables(weights, 24)
    tensors[f"{BLOCK}.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"] = torch.zeros(1, 24, 64)
    with pytest.raises(ValueError, match=r"two tables of positions in down_blocks.1.motion_modules.0"):
        motion_to_diffusers(tensors)
    assert_weights(read_motion(tensors, {}, "a.ckpt"), tensors)


@pytest.mark.parametrize("mid_block", [True, False])
def test_diffusers_own_adapter(tmp_path, mid_block):
    diffusers = pytest.importorskip("diffusers")
    adapter = diffusers.MotionAdapter(
        block_out_channels=NARROW,
        motion_num_attention_heads=8,
        use_motion_mid_block=mid_block,
        motion_max_seq_length=20,
    )
    theirs = dict(recipe_fill(adapter, seed=2).state_dict())
    found = read_motion(theirs, {}, "adapter.safetensors")
    assert found.config == MotionConfig(channels=NARROW, mid_block=mid_block, positions=20)
    assert found.ignored == () and found.settings.group_norm == "video"
    network = MotionNetwork(found.config)
    network.load_state_dict(found.weights)
    adapter.save_pretrained(tmp_path)
    assert_weights(read_motion(*load_state_dict(tmp_path)[:2], "folder"), found.weights)
    back = motion_to_diffusers(network.state_dict())
    assert set(back) == set(theirs) and all(back[key].equal(value) for key, value in theirs.items())


# ------------------------------------------------------------------------------------------------------ settings


def test_settings_of_releases(weights):
    t2v = read_motion(weights, {}, "a.ckpt").settings
    said = (t2v.prediction, t2v.beta_schedule, t2v.beta_end, t2v.zero_terminal_snr, t2v.sampling, t2v.original_steps)
    assert said == ("eps", "linear", 0.012, False, "lcm", 100)
    assert (t2v.timestep_scaling, t2v.group_norm, t2v.cfg, t2v.steps) == (10, "frame", 1.5, 4)
    assert (t2v.width, t2v.height, t2v.frames, t2v.fps) == (512, 512, 16, 8)
    i2v = read_motion(motion(image_encoder=True), {}, "a.ckpt").settings
    assert (i2v.original_steps, i2v.beta_end, i2v.sampling, i2v.group_norm) == (200, 0.014, "lcm", "frame")
    plain = read_motion(with_tables(weights, 32), {}, "mm_sd_v15_v2.ckpt").settings
    assert (plain.prediction, plain.beta_schedule, plain.sampling) == ("eps", "linear", "teacher")
    assert plain.group_norm == "frame" and not plain.zero_terminal_snr


def test_an_adapter_of_diffusers_does_not_tell_its_release(weights):
    adapter = motion_to_diffusers(weights)
    found = read_motion(adapter, {}, "diffusion_pytorch_model.safetensors")
    assert (found.release, found.settings.sampling, found.settings.group_norm) == (UNKNOWN, None, "video")
    by_name = read_motion(adapter, {}, "AnimateLCM_adapter.safetensors")
    assert (by_name.release, by_name.settings.sampling) == ("animatelcm", "lcm")
    for sampling, steps in (("lcm", 4), ("teacher", 25)):
        said = read_motion(adapter, {"videolcm.sampling": sampling}, "a.safetensors").settings
        assert (said.sampling, said.steps) == (sampling, steps)


def test_metadata_wins(weights):
    metadata = {"videolcm.group_norm": "video", "videolcm.original_steps": "50", "videolcm.beta_end": "0.013"}
    settings = read_motion(weights, metadata, "a.safetensors").settings
    assert (settings.group_norm, settings.original_steps, settings.beta_end) == ("video", 50, 0.013)
    assert settings.given == {"group_norm", "original_steps", "beta_end"}
    adapter = read_motion(motion_to_diffusers(weights), {"videolcm.group_norm": "frame"}, "a.safetensors")
    assert adapter.settings.group_norm == "frame"


@pytest.mark.parametrize("release", RELEASED)
def test_a_file_that_names_its_family_is_of_it(weights, release):
    metadata = {"videolcm.family": "animatelcm-mini" if release == UNKNOWN else release}
    settings = read_motion(motion_to_diffusers(weights), metadata, "a.safetensors").settings
    expected = RELEASED["animatelcm" if release == UNKNOWN else release]
    assert (settings.sampling, settings.original_steps) == (expected.sampling, expected.original_steps)


def test_bad_metadata_is_refused(weights):
    with pytest.raises(SettingsError, match=r"a\.safetensors: got videolcm\.group_norm .*allowed: frame, video"):
        read_motion(weights, {"videolcm.group_norm": "batch"}, "a.safetensors")


# ---------------------------------------------------------------------------------- Stable Diffusion 1.5's UNet


@pytest.mark.parametrize(
    "config",
    [SD15Config(), SD15Config(32, (1, 2, 4, 4), 48), SD15Config(64, (1, 2, 2, 4), 40)],
    ids=["real", "32", "64"],
)
def test_stable_diffusion_in_diffusers_names(config):
    diffusers = pytest.importorskip("diffusers")
    widths = tuple(config.model_channels * mult for mult in config.channel_mult)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=widths, cross_attention_dim=config.context_dim, attention_head_dim=8
        )
    own = SD15UNet(config, device="meta").state_dict()
    mapped = sd15_to_diffusers(own)
    assert len(mapped) == len(own) == 686
    assert {mapped[key]: value.shape for key, value in own.items()} == {
        k: v.shape for k, v in unet.state_dict().items()
    }


def test_keys_of_other_networks_are_left_out():
    assert sd15_to_diffusers(["first_stage_model.decoder.conv_in.weight", "label_emb.0.0.weight"]) == {}


def test_names_of_other_keys_stay(weights):
    assert motion_from_diffusers({"conv_in.weight": torch.ones(1)}) == {"conv_in.weight": torch.ones(1)}
    assert set(motion_from_diffusers(weights)) == set(weights)
