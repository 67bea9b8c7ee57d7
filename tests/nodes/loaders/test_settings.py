"""The nodes read what the trainer reads: one table of entries, one of defaults, and errors that name the entry."""

import logging

import pytest
import torch
from settings_cases import HOSTILE, PARTLY, RELEASED, SPELLED

from training.teachers.loading import teacher_settings
from videolcm_core.files.settings import NAMES
from videolcm_core.networks.vgen.unet3d import UNetConfig

SAID = {"videolcm.prediction": "v", "videolcm.sampling": "lcm"}


@pytest.fixture(scope="module")
def reader(host):
    return host.pack("nodes.loaders.settings")


def config_of(kind, config_class):
    changes = RELEASED[kind][0]
    return config_class(**{**changes, "conditions": frozenset(changes.get("conditions", ()))})


def read(host, reader, entries, kind="t2v", sampling="auto"):
    config = config_of(kind, host.pack("videolcm_core.networks.vgen.unet3d").UNetConfig)
    return reader.read_settings(config, {f"videolcm.{k}": v for k, v in entries.items()}, "a.safetensors", sampling)


@pytest.mark.parametrize("kind", RELEASED)
@pytest.mark.parametrize("case", PARTLY)
def test_nodes_and_trainer_read_the_same(host, reader, kind, case):
    """But for what nobody can tell, whether an unlabelled v network is a student: each has its purpose."""
    entries = PARTLY[case][0]
    ours = read(host, reader, entries, kind)
    theirs = teacher_settings(config_of(kind, UNetConfig), {f"videolcm.{k}": v for k, v in entries.items()}, "a")
    undecided = ours.file.sampling is None
    for name in NAMES:
        expected = None if name == "sampling" and undecided else getattr(theirs, name)
        assert getattr(ours.file, name) == expected, name
    options = ours.sampling.entries()
    assert options.pop("sampling") == ("lcm" if undecided else theirs.sampling)
    assert options == {name: getattr(theirs, name) for name in options}
    said = "sampling" in entries or entries.get("prediction") == "eps"
    assert undecided == (not said and RELEASED[kind][1][3] is None)


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("t2v", "videolcm"),
        ("vcomposer", "videolcm"),
        ("tft2v_t2v", "teacher"),
        ("first videocomposer", "eps"),
        ("t2vbase", "eps"),
    ],
)
def test_unlabelled_files_are_a_preset_with_a_warning(host, reader, kind, choice, caplog):
    with caplog.at_level(logging.WARNING):
        found = read(host, reader, {}, kind)
    assert found.sampling == reader.SAMPLING_PRESETS[choice]
    assert f"a.safetensors says nothing about its prediction type; taking '{choice}'" in caplog.text


def test_what_stays_unsaid_is_warned_of(host, reader, caplog):
    with caplog.at_level(logging.WARNING):
        read(host, reader, {"prediction": "v"})
        assert "says nothing about whether it is a student or a teacher; taking 'videolcm'" in caplog.text
        caplog.clear()
        read(host, reader, {"prediction": "eps"})
        read(host, reader, {"prediction": "v"}, "tft2v_t2v")
        read(host, reader, {"sampling": "lcm"})
        assert not caplog.text


@pytest.mark.parametrize(("name", "text", "value"), SPELLED)
def test_spellings(host, reader, name, text, value):
    assert getattr(read(host, reader, {name: text}).file, name) == value


@pytest.mark.parametrize(("name", "text"), HOSTILE, ids=[f"{name}-{i}" for i, (name, _) in enumerate(HOSTILE)])
def test_values_that_are_refused(host, reader, name, text):
    error = host.pack("videolcm_core.files.errors").SettingsError
    with pytest.raises(error) as caught:
        read(host, reader, {name: text})
    message = str(caught.value)
    assert message.startswith(f"a.safetensors: got videolcm.{name} ") and "; allowed: " in message
    assert len(message) <= 1500
    by_hand = name in host.pack("videolcm_core.files.settings").SAMPLING_ENTRIES
    assert ("choose `sampling`" in message) == by_hand
    if by_hand:  # the way out that the message names
        assert read(host, reader, {name: text}, sampling="teacher").sampling == reader.SAMPLING_PRESETS["teacher"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timestep_scaling", "nan"),
        ("timestep_scaling", "inf"),
        ("original_steps", "0"),
        ("zero_terminal_snr", "maybe"),
        ("sampling", "euler"),
        ("latent_rgb_factors", "[[1, 2, 3]]"),
        ("latent_rgb_bias", "[0, NaN, 0]"),
        ("frames", "-16"),
        ("head_dim", "x" * 100_000),
    ],
)
def test_loading_a_file_with_such_a_value_says_so(host, write_model, unet_state_dict, name, text):
    file = write_model("hostile.safetensors", unet_state_dict, {**SAID, f"videolcm.{name}": text})
    with pytest.raises(ValueError, match=rf"hostile.safetensors: got videolcm.{name} .*; allowed: ") as caught:
        host.run("VideoLCMModelLoader", model_name=file, weight_dtype="default", sampling="auto")
    assert len(str(caught.value)) <= 1500


def test_a_damaged_marker_is_named(host, write_model, unet_state_dict):
    file = write_model("marked.safetensors", {**unet_state_dict, "videolcm_metadata": torch.zeros(9)}, None)
    with pytest.raises(ValueError, match=r"marked.safetensors: got a tensor videolcm_metadata of float32 \[9\]"):
        host.run("VideoLCMModelLoader", model_name=file, weight_dtype="default", sampling="auto")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timestep_scaling", float("nan")),
        ("timestep_scaling", float("inf")),
        ("timestep_scaling", 0.0),
        ("timestep_scaling", -1.0),
        ("original_steps", 0),
        ("original_steps", 1001),
        ("prediction", "flow"),
        ("beta_schedule", "cosine"),
    ],
)
def test_options_of_the_node_are_held_to_the_same(host, option, value):
    options = host.pack("nodes.model.model_sampling").SamplingOptions
    with pytest.raises(ValueError, match=f"{option} is .*; allowed: "):
        options(**{option: value})
