"""The one table of settings: reading, validating, defaults, writing; the trainer reads the same values."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from settings_cases import HOSTILE, PARTLY, RELEASED, SPELLED

from training.teachers.loading import teacher_settings
from videolcm_core.families.vgen.defaults import defaults_of
from videolcm_core.files.entries import ENTRIES, PREFIX
from videolcm_core.files.errors import CheckpointError, SettingsError
from videolcm_core.files.marker import MARKER_KEY, from_marker, own_metadata, to_marker
from videolcm_core.files.settings import NAMES, FileSettings, read_settings, to_metadata
from videolcm_core.networks.vgen.unet3d import UNetConfig

MODELS = Path(__file__).resolve().parents[3] / "models"
SHIPPED = sorted(path.name for path in MODELS.glob("*.safetensors"))


def config_of(kind):
    changes = RELEASED[kind][0]
    return UNetConfig(**{**changes, "conditions": frozenset(changes.get("conditions", ()))})


def prefixed(entries):
    return {PREFIX + name: text for name, text in entries.items()}


def read(entries, config=None, file="a.safetensors"):
    return read_settings(prefixed(entries), defaults_of(config or UNetConfig()), file)


def values_of(settings):
    return {name: getattr(settings, name) for name in NAMES}


@pytest.mark.parametrize("kind", RELEASED)
def test_a_released_shape_without_metadata(kind):
    found = read({}, config_of(kind))
    shown = (found.family, found.prediction, found.zero_terminal_snr, found.sampling, found.width, found.height)
    assert shown == RELEASED[kind][1] and not found.given
    assert (found.original_steps, found.timestep_scaling, found.frames, found.fps) == (50, 10, 16, 8)


@pytest.mark.parametrize("kind", RELEASED)
@pytest.mark.parametrize("case", PARTLY)
def test_what_a_file_says_decides_and_the_shape_says_the_rest(kind, case):
    entries, decided = PARTLY[case]
    config = config_of(kind)
    found, bare = values_of(read(entries, config)), values_of(read({}, config))
    assert found == {**bare, **decided}
    teacher = teacher_settings(config, prefixed(entries), "a.safetensors")
    assert values_of(teacher) == {**found, "sampling": found["sampling"] or "teacher"}
    assert teacher.given == set(entries)


@pytest.mark.parametrize("kind", RELEASED)
def test_a_prediction_given_by_hand_is_as_one_in_the_file(kind):
    config = config_of(kind)
    for prediction in ("v", "eps", "x_0"):
        by_hand = teacher_settings(config, prefixed({"prediction": "v"}), "a.pth", prediction=prediction)
        assert by_hand == teacher_settings(config, prefixed({"prediction": prediction}), "a.pth")


@pytest.mark.parametrize(("name", "text", "value"), SPELLED)
def test_spellings(name, text, value):
    assert getattr(read({name: text}), name) == value


@pytest.mark.parametrize(("name", "text"), HOSTILE, ids=[f"{name}-{i}" for i, (name, _) in enumerate(HOSTILE)])
def test_values_that_are_refused(name, text):
    with pytest.raises(SettingsError) as caught:
        read({name: text}, file="bad file.safetensors")
    error, message = caught.value, str(caught.value)
    assert (error.entry, error.file) == (name, "bad file.safetensors")
    assert message.startswith(f"bad file.safetensors: got videolcm.{name} ") and "; allowed: " in message
    assert error.next_step and len(message) <= 1500 and message.isprintable()
    with pytest.raises(ValueError, match=f"wrong teacher bad.pth: got videolcm.{name} "):
        teacher_settings(UNetConfig(), prefixed({name: text}), "bad.pth")


def test_every_entry_is_met_by_a_hostile_value():
    free = {"scheduler", "base", "recipe"}  # words that nothing is computed from
    assert {name for name, _ in HOSTILE} | free == set(NAMES) == set(ENTRIES) and len(HOSTILE) >= 60


def test_messages_stay_short_whatever_a_file_holds():
    long = "x" * 10**6
    for error in (
        SettingsError(long, "prediction", long, long, long),
        CheckpointError(long, long, long, long),
        pytest.raises(SettingsError, read, {"sampling": long}, file=long).value,
    ):
        assert len(str(error)) <= 1500


FULL = FileSettings(
    family="modelscope",
    prediction="eps",
    beta_schedule="linear",
    beta_end=0.014,
    zero_terminal_snr=False,
    sampling="lcm",
    original_steps=333,
    timestep_scaling=4.5,
    w=5.0,
    w_range=(2.5, 7.5),
    cfg=1.0,
    steps=4,
    sampler="lcm",
    scheduler="simple",
    conditions=("depth", "sketch"),
    width=320,
    height=192,
    frames=24,
    fps=7.5,
    group_norm="video",
    head_dim=32,
    dropout=0.2,
    latent_scale=1.5,
    text_config={"hidden_size": 64, "num_attention_heads": 2},
    latent_rgb_factors=((0.1, 0.2, 0.3),) * 4,
    latent_rgb_bias=(0.0, 1e-9, -0.5),
    base="teacher.pth",
    method="mcm",
    recipe='{"name": "paper"}',
    extra={"later": "entry", "note": "ü"},
)


def test_writing_and_reading_give_equal_settings():
    texts = to_metadata(FULL)
    assert set(texts) == {PREFIX + name for name in (*NAMES, "later", "note")}
    assert all(isinstance(text, str) for text in texts.values())
    again = read_settings(texts, lambda given: FileSettings(), "a.safetensors")
    assert again == FULL and again.given == set(NAMES) and to_metadata(again) == texts
    assert texts["videolcm.zero_terminal_snr"] == "false" and texts["videolcm.conditions"] == '["depth", "sketch"]'
    assert (texts["videolcm.w"], texts["videolcm.steps"], texts["videolcm.recipe"]) == ("5.0", "4", '{"name": "paper"}')
    unsaid = to_metadata(FileSettings())
    assert "videolcm.sampling" not in unsaid and "videolcm.text_config" not in unsaid
    assert set(to_metadata(FULL, {"w"})) == {"videolcm.w", "videolcm.later", "videolcm.note"}


def test_entries_of_others_are_not_ours():
    found = read_settings({"prediction": "eps", "modelspec.title": "x", "w": "9"}, lambda given: FileSettings(), "a")
    assert found == FileSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestep_scaling", math.nan),
        ("timestep_scaling", math.inf),
        ("timestep_scaling", "10"),
        ("original_steps", 50.0),
        ("original_steps", True),
        ("zero_terminal_snr", 1),
        ("zero_terminal_snr", "true"),
        ("prediction", "flow"),
        ("width", "64"),
        ("frames", 0),
        ("latent_rgb_bias", (0.0, math.nan, 0.0)),
        ("conditions", ["depth"]),
    ],
)
def test_settings_made_in_code_are_held_to_the_same(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; allowed: "):
        replace(FULL, **{name: value})


@pytest.mark.parametrize("file", SHIPPED)
def test_the_shipped_files_read_and_write_as_they_are(file):
    with safe_open(MODELS / file, "pt") as opened:
        metadata = opened.metadata()
    found = read_settings(metadata, defaults_of(UNetConfig()), file)
    assert to_metadata(found, found.given) == {k: v for k, v in metadata.items() if k.startswith(PREFIX)}
    assert (found.family, found.prediction, found.zero_terminal_snr) == ("videolcm-mini", "v", True)
    assert found.sampling == ("teacher" if "teacher" in file else "lcm") and not found.extra
    assert (found.original_steps, found.timestep_scaling, found.head_dim) == (50, 10, 64)
    assert (found.width, found.height, found.frames, found.fps) == (64, 64, 16, 8)
    assert (found.latent_scale, found.dropout) == (1, 0) and found.text_config["hidden_size"] == 128


def test_settings_travel_as_a_tensor():
    texts = to_metadata(FULL)
    marker = to_marker(texts)
    assert marker.dtype == torch.uint8 and from_marker(marker, "a") == texts
    assert own_metadata({MARKER_KEY: marker}, {"prompt": "{}"}, "a") == texts
    assert own_metadata({MARKER_KEY: marker}, {"videolcm.w": "1"}, "a") == {"videolcm.w": "1"}
    assert own_metadata({}, None, "a") == {}
    values = from_marker(torch.tensor(list(b'{"videolcm.zero_terminal_snr": true}'), dtype=torch.uint8), "a")
    assert read_settings(values, lambda given: FileSettings(), "a").zero_terminal_snr is True


def bytes_of(text):
    return torch.tensor(list(text), dtype=torch.uint8)


@pytest.mark.parametrize(
    "marker",
    [
        bytes_of(b""),
        bytes_of(b"[1, 2]"),
        bytes_of(b'{"videolcm.w": '),
        bytes_of(b"\xff\xfe\x00"),
        bytes_of(b"[" * 100_000),
        bytes_of(json.dumps({}).encode())[None],
        torch.full((4,), math.nan),
        torch.tensor(3, dtype=torch.uint8),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(1, dtype=torch.uint8).expand(10**9),
        torch.zeros(4, dtype=torch.complex64),
    ],
)
def test_markers_that_are_no_settings(marker):
    with pytest.raises(CheckpointError, match="b.safetensors: got a tensor videolcm_metadata of .*; allowed: uint8"):
        own_metadata({MARKER_KEY: marker}, {}, "b.safetensors")
