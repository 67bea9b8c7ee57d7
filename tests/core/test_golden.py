"""Reference values of the authors' code, on small copies in this repository; ``tests/parity.py`` runs any folder."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

sys.path[:0] = [str(GOLDEN.parent)]

import parity  # noqa: E402

FOLDERS = (GOLDEN, GOLDEN / "animatediff", GOLDEN / "animatelcm", GOLDEN / "mcm")
FILES = [path for folder in FOLDERS for path in parity.files_in(folder)]
# Inputs of cases that were left out to keep the repository small.
SHORTENED = {"unet_videolcm_vcomposer.io.safetensors"}


def test_every_kind_but_the_largest_is_here():
    kinds = {parity.find_kind(path) for path in FILES}
    assert {kind.prefix for kind in set(parity.KINDS) - kinds} == {"recipe_", "fullsize_", "e2e_ddim"}
    assert None not in kinds


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_parity(path):
    results = list(parity.check_file(path))
    assert [(r.case, r.error) for r in results if not r.passed] == []
    assert results
    left_out = [r.note for r in results if r.case == "not compared"]
    assert left_out == [] or path.name in SHORTENED, left_out


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one good reference file."""
    for name in ("unet_modelscope_t2vbase.io.safetensors",):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    return tmp_path


def test_command_passes_and_prints_errors(folder, capsys):
    (folder / "INDEX.json").write_text("{}")
    (folder / ".hidden").write_text("")
    assert parity.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "y (frames)" in out and "1 files, all passed" in out


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("sampler_lcm_animate", "final_50_4"),
        ("sampler_lcm", "v.n4.final"),
        ("lcm_lora_more", "before.a.weight"),
        ("lcm_lora_more", "y_1_0.8"),
        ("i2v_a", "sd.conv_in.weight"),
        ("unet_forward_x", "y_8_999"),
        ("unet_x", "in.x"),
        ("lcm_sampling", "modelscope.denoised0"),
        ("lcm_sampling", "denoised_0"),
    ],
)
def test_one_name_may_mean_two_kinds_and_what_is_inside_tells(tmp_path, name, marker):
    path = tmp_path / f"{name}.safetensors"
    save_file({marker: torch.ones(1)}, path)
    kind = parity.find_kind(path)
    assert kind is not None and re.fullmatch(kind.marker, marker) and name.startswith(kind.prefix)


def test_a_known_name_with_other_tensors_is_refused(tmp_path, capsys):
    save_file({"other": torch.ones(1)}, tmp_path / "unet_forward_x.safetensors")
    assert parity.main([str(tmp_path)]) == 1
    assert "a file of no known kind" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["surprise.safetensors", "unet_x.pt", "annotator.bin"])
def test_unknown_files_fail(folder, capsys, name):
    (folder / name).write_bytes(b"")
    assert parity.main([str(folder), "--only", name]) == 1
    assert f"FAILED   {name}: a file of no known kind" in capsys.readouterr().out


def test_a_small_difference_fails(folder, capsys):
    path = folder / "unet_modelscope_t2vbase.io.safetensors"
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    save_file({**tensors, "out.y": tensors["out.y"] + 3e-5}, path, metadata)
    assert parity.main([str(folder)]) == 1
    assert "FAILED" in capsys.readouterr().out


WRONG = {
    "boundary_scalings": ("c_skip.s4", 3, 1e-3),
    "cd_assembly": ("huber.lcor", 0, 1e-3),
    "ddim_solver_scaled_linear": ("step.x_prev", 7, 1e-3),
    "discriminator_head": ("b4.train.after.heads.2.cls.weight_u", 1, 1e-3),
    "discriminator_input": ("full_policy", 5, 1e-3),
    "ema": ("after3", 2, 1e-3),
    "gan_losses": ("D.wgan.gt", 0, 1e-3),
    "guidance_scale_embedding": ("emb33", 35, 1e-2),
    "lcm_sampling": ("modelscope.x3", 9, 1e-3),
    "motion_representations": ("grad_student.lcor", 4, 1e-2),
    "spatial_head": ("learn.grad_x", 3, 1e-2),
}
"""Of MCM's files a number, and how much of itself it is made wrong by."""


@pytest.mark.parametrize("name", WRONG)
def test_one_wrong_number_fails(tmp_path, name):
    tensor, place, share = WRONG[name]
    with safe_open(GOLDEN / "mcm" / f"{name}.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    number = tensors[tensor].view(-1)[place]
    assert number != 0
    tensors[tensor].view(-1)[place] = number * (1 + share)
    save_file(tensors, path := tmp_path / f"{name}.safetensors", metadata)
    wrong = [r.case for r in parity.check_file(path) if not r.passed]
    assert wrong and all(tensor in case or case.endswith("recorded") for case in wrong)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("frame_sampling", lambda values: values["seed0_n16_k2"]["tsn_sample"].reverse()),
        ("lcm_timesteps", lambda values: values["orig50_steps4"].__setitem__(1, 749)),
    ],
)
def test_one_wrong_entry_fails(tmp_path, name, change):
    content = json.loads((GOLDEN / "mcm" / f"{name}.json").read_text())
    change(content["values"])
    (path := tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert len([r for r in parity.check_file(path) if not r.passed]) == 1


def test_other_json_is_no_reference_and_a_broken_one_fails(tmp_path, capsys):
    (tmp_path / "INDEX.json").write_text("{}")
    (tmp_path / "lcm_timesteps.json").write_text("{")
    assert parity.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 files, 1 failures" in out and "JSONDecodeError" in out


def test_a_broken_file_does_not_hide_the_others(folder, capsys):
    (folder / "unet_broken.safetensors").write_bytes(b"{}")
    assert parity.main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert "2 files, 1 failures" in out and "y (frames)" in out


def test_too_little_memory_is_said(folder, capsys, monkeypatch):
    path = folder / "unet_modelscope_t2vbase.io.safetensors"
    path.rename(folder / "fullsize_modelscope.io.safetensors")
    monkeypatch.setattr(parity, "available_memory", lambda: 10**8)
    assert parity.main([str(folder)]) == 0
    assert (
        "left out fullsize_modelscope.io.safetensors: needs 1.0 GB of memory, 0.1 GB are available"
        in capsys.readouterr().out
    )
