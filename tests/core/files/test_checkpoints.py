import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from videolcm_core.families.vgen.detection import detect_unet_config, require_conditions
from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.loading import load_unet
from videolcm_core.files.reading import load_state_dict
from videolcm_core.files.writing import save_safetensors

METADATA = {"videolcm.head_dim": "16", "videolcm.prediction": "v"}


@pytest.fixture(scope="module")
def weights(tiny_unet):
    return tiny_unet.state_dict()


def write(path, weights, wrapping):
    """One way in which such weights are found in the wild."""
    if wrapping == "bare":
        torch.save(weights, path)
    elif wrapping == "state_dict and step":
        torch.save({"state_dict": weights, "step": 544000}, path)
    elif wrapping == "module.":
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    elif wrapping == "old pickle":
        torch.save(weights, path, _use_new_zipfile_serialization=False)
    elif wrapping == "all-in-one":
        torch.save(
            {f"model.diffusion_model.{k}": v for k, v in weights.items()} | {"first_stage_model.x": torch.ones(1)}, path
        )


@pytest.mark.parametrize("wrapping", ["bare", "state_dict and step", "module.", "old pickle", "all-in-one"])
def test_pickles_of_every_wrapping(tmp_path, weights, wrapping, tiny_config, tiny_unet, tiny_inputs):
    path = tmp_path / "model.pth"
    write(path, weights, wrapping)
    tensors, metadata, info = load_state_dict(path)
    assert (info.file, info.format, metadata) == ("model.pth", "pickle", {})
    assert info.step == (544000 if wrapping == "state_dict and step" else None)
    network = load_unet(path, tiny_config)
    with torch.no_grad():  # with gradients other kernels run, which round otherwise
        assert torch.equal(network(*tiny_inputs.values()), tiny_unet(*tiny_inputs.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_with_everything_detected(tmp_path, weights, dtype, tiny_config, tiny_unet, tiny_inputs):
    path = tmp_path / "model.safetensors"
    save_safetensors({key: value.to(dtype) for key, value in weights.items()}, path, METADATA)
    tensors, metadata, info = load_state_dict(path)
    assert metadata == METADATA and info.format == "safetensors" and tensors["out.2.bias"].dtype == dtype
    assert detect_unet_config(tensors, metadata) == tiny_config
    network = load_unet(path, dtype=torch.float32)
    network.requires_grad_(False)  # with gradients other kernels run, which round otherwise
    assert all(torch.equal(value, weights[key].to(dtype).float()) for key, value in network.state_dict().items())
    if dtype != torch.bfloat16:  # the recipe's weights are exact in float16, not in bfloat16
        assert torch.equal(network(*tiny_inputs.values()), tiny_unet(*tiny_inputs.values()))


def test_safetensors_under_another_name(tmp_path, weights):
    path = tmp_path / "model.bin"
    save_file(weights, path, METADATA)
    assert load_state_dict(path)[2].format == "pickle" and load_state_dict(path)[1] == METADATA


def to_diffusers(weights):
    names = vgen_to_diffusers(weights)
    return {names[k]: v.squeeze(-1) if v.ndim == 3 else v for k, v in weights.items() if k in names}


@pytest.mark.parametrize("kind", ["folder", "pipeline", "shards", "file"])
def test_diffusers_folders_and_files(tmp_path, weights, kind, tiny_inputs, tiny_unet):
    theirs = to_diffusers(weights)
    unet = tmp_path / "unet" if kind == "pipeline" else tmp_path
    unet.mkdir(exist_ok=True)
    (unet / "config.json").write_text(json.dumps({"attention_head_dim": 16}))
    if kind == "pipeline":
        (tmp_path / "scheduler").mkdir()
        settings = {"prediction_type": "epsilon", "beta_schedule": "scaled_linear"}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    if kind == "shards":
        keys = sorted(theirs)
        parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
        for name, part in parts.items():
            save_file({key: theirs[key].contiguous() for key in part}, unet / name)
        index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
        (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file({k: v.contiguous() for k, v in theirs.items()}, unet / "diffusion_pytorch_model.safetensors")
    path = unet / "diffusion_pytorch_model.safetensors" if kind == "file" else tmp_path
    tensors, metadata, info = load_state_dict(path)
    assert info.diffusers and set(tensors) == {key for key in weights if key in vgen_to_diffusers(weights)}
    assert metadata.get("videolcm.head_dim") == (None if kind == "file" else "16")
    assert metadata.get("videolcm.prediction") == ("eps" if kind == "pipeline" else None)
    config = detect_unet_config(tensors, {"videolcm.head_dim": "16"})
    assert config.conditions == frozenset()
    with torch.no_grad():
        assert torch.equal(load_unet(path, config)(*tiny_inputs.values()), tiny_unet(*tiny_inputs.values()))


def test_required_conditions(tiny_config):
    require_conditions(tiny_config, {"depth"})
    with pytest.raises(
        CheckpointError,
        match="got a network with these conditions: depth, image, masked; allowed: one that takes sketch",
    ):
        require_conditions(tiny_config, {"depth", "sketch"}, "a.pth")


def test_export_is_contiguous_and_separate(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    path = save_safetensors(
        {"t": base.t(), "row": base[1], "same": base, "again": base}, tmp_path / "a" / "x.safetensors"
    )
    loaded = load_file(path)
    assert torch.equal(loaded["t"], base.t()) and torch.equal(loaded["row"], base[1])
    assert torch.equal(loaded["again"], loaded["same"])
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_safetensors({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(Exception):  # noqa: B017 - whatever the writer raises for metadata that is no string
        save_safetensors({"a": torch.zeros(1)}, path, {"steps": 3})  # type: ignore[dict-item]
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_export_names():
    with pytest.raises(ValueError, match="x.pth; allowed: a name ending in .safetensors"):
        save_safetensors({}, "x.pth")
