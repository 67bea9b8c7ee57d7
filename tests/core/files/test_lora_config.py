"""Settings of peft beside a LoRA: where they lie, and whether they are of the same training run as the tensors."""

import json

import pytest
import torch
from safetensors.torch import save_file

from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.lora import read_lora

NAMES = (
    "transformer_in.proj_in",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.resnets.0.conv1",
)
PREFIX = "base_model.model."


def tensors(names=NAMES, prefix=PREFIX, magnitude=False):
    made = {f"{prefix}{n}.lora_{part}.weight": torch.ones(4, 4) for n in names for part in "AB"}
    return made | {f"{prefix}{n}.lora_magnitude_vector": torch.ones(4) for n in names if magnitude}


@pytest.fixture
def read(tmp_path):
    """``read(tensors, settings)`` -> the LoRA; ``file`` and ``settings_in`` are places within a checkpoint's folder."""

    def write_and_read(tensors, settings, file="adapter_model.safetensors", settings_in="."):
        path, folder = tmp_path / file, tmp_path / settings_in
        for parent in (path.parent, folder):
            parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        text = json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | settings)
        (folder / "adapter_config.json").write_text(text)
        return read_lora(path)

    return write_and_read


def scales(lora):
    return {layer.scale for layer in lora.layers.values()}


def test_settings_above_unet_lora(read):
    """MCM's checkpoints have the LoRA twice, and its settings once."""
    file = "unet_lora/pytorch_lora_weights.safetensors"
    lora = read(tensors(prefix="unet.base_model.model."), {"target_modules": list(NAMES)}, file)
    assert scales(lora) == {2.0} and lora.guessed == () and lora.missing == ()


def test_settings_above_any_other_folder_are_not_its_own(read):
    lora = read(tensors(), {}, "style/adapter_model.safetensors")
    assert scales(lora) == {1.0} and lora.guessed == ("peft",)


def test_settings_beside_come_first(read, tmp_path):
    file = "unet_lora/pytorch_lora_weights.safetensors"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 400}))
    assert scales(read(tensors(), {}, file, "unet_lora")) == {2.0}


FITTING = {
    "whole names": list(NAMES),
    "ends": ["proj_in", "to_q", "conv1"],
    "with prefixes": [f"unet.{name}" for name in NAMES],
    "an expression": r".*\.(proj_in|to_q|conv1)",
    "all": "all-linear",
    "none": None,
}


@pytest.mark.parametrize("targets", FITTING.values(), ids=FITTING)
def test_targets_that_fit(read, targets):
    lora = read(tensors(), {"target_modules": targets})
    assert len(lora.layers) == 3 and lora.missing == ()


def test_modules_without_tensors_are_listed(read):
    lora = read(tensors(NAMES[:1]), {"target_modules": [*NAMES, "out.3"]})
    assert lora.missing == tuple(sorted((*NAMES[1:], "out.3")))


OTHERS = {
    "another network's": ["blocks.0.cross_attn.q", "blocks.0.ffn.0"],
    "one less": list(NAMES[1:]),
    "part of a name": ["roj_in", "to_q", "conv1"],
}


@pytest.mark.parametrize("targets", OTHERS.values(), ids=OTHERS)
def test_targets_of_another_lora(read, targets):
    with pytest.raises(CheckpointError, match="none of the . target_modules in its adapter_config.json") as error:
        read(tensors(), {"target_modules": targets})
    assert any(name in str(error.value) for name in NAMES) and "Put the file back into its own folder" in str(
        error.value
    )


@pytest.mark.parametrize("targets", [[1], [""], [None], {"to_q": 1}, 7, [["to_q"]]])
def test_targets_that_are_none(read, targets):
    with pytest.raises(CheckpointError, match="target_modules is .*; allowed: a list of names, or one text"):
        read(tensors(), {"target_modules": targets})


@pytest.mark.parametrize("flag", ["use_rslora", "use_dora"])
@pytest.mark.parametrize("value", ["false", 1, [True]])
def test_flags_are_true_or_false(read, flag, value):
    with pytest.raises(CheckpointError, match=f"{flag} is .*; allowed: true, false"):
        read(tensors(), {flag: value})


def test_rslora_divides_by_the_root(read):
    assert scales(read(tensors(), {"use_rslora": True})) == {4.0}


def test_dora_needs_its_magnitudes(read):
    assert all(
        layer.magnitude is not None for layer in read(tensors(magnitude=True), {"use_dora": True}).layers.values()
    )
    with pytest.raises(CheckpointError, match="use_dora in its adapter_config.json, but no lora_magnitude_vector for"):
        read(tensors(), {"use_dora": True})
