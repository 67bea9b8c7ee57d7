"""LoRA files against networks of the released size, without their weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videolcm_core.families.foreign import lora_base
from videolcm_core.families.vgen.detection import detect_unet_config
from videolcm_core.families.vgen.lora import fit_lora
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.lora import LoraFile, LoraLayer, read_lora
from videolcm_core.files.lora_fit import merged_state
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

MCM = json.loads((Path(__file__).resolve().parents[2] / "golden" / "mcm_lora_modelscope.json").read_text())


def network(**options):
    return {key: value.shape for key, value in UNet3D(UNetConfig(**options), device="meta").state_dict().items()}


def meta(*shape):
    return torch.empty(shape, device="meta")


def layers(prefix):
    """The 482 layers of MCM's LoRA for ModelScope, rank 64, as its published files name and shape them."""
    rank, found = MCM["rank"], {}
    for name, (out, inner) in MCM["layers"].items():
        up, down = meta(out, rank, *[1] * (len(inner) - 1)), meta(rank, *inner)
        found[f"{prefix}{name}"] = LoraLayer(name=f"{prefix}{name}", up=up, down=down, scale=1.0)
    return found


@pytest.mark.parametrize("prefix", ["base_model.model.", "unet.base_model.model.", "unet.", ""])
@pytest.mark.parametrize("concat", [0, 8])
def test_mcm_fits_whole(prefix, concat):
    lora = LoraFile(file="mcm.safetensors", layers=layers(prefix))
    fit = fit_lora(lora, network(concat_channels=concat))
    assert len(fit.changes) == 482 and not (fit.misshapen or fit.unknown or fit.text)
    assert sum(".2." in key or key.startswith("input_blocks.0.1") for key in fit.changes) > 100  # along time
    assert "ModelScope" in lora_base(lora)


def test_mcm_on_a_narrow_network():
    """Only the first temporal transformer has the same width in both: 8 heads of 64."""
    lora = LoraFile(file="mcm.safetensors", layers=layers("unet."))
    fit = fit_lora(lora, network(model_channels=64))
    assert len(fit.changes) == 10 and all(key.startswith("input_blocks.0.1.transformer") for key in fit.changes)
    assert len(fit.misshapen) == 472
    assert fit.misshapen[0] == "unet.transformer_in.proj_in (up [512, 64], down [64, 320]) for [512, 64, 1]"


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_merged_state_is_what_the_file_says(tmp_path, tiny_unet, factor):
    key = "middle_block.1.transformer_blocks.0.attn2.to_k"
    weight = tiny_unet.state_dict()[f"{key}.weight"]
    up, down = torch.randn(weight.shape[0], 3), torch.randn(3, weight.shape[1])
    base = f"lora_unet_{key.replace('.', '_')}"
    tensors = {f"{base}.lora_up.weight": up, f"{base}.lora_down.weight": down, f"{base}.alpha": torch.tensor(6.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    state = tiny_unet.state_dict()
    fit = fit_lora(read_lora(tmp_path / "x.safetensors"), {k: v.shape for k, v in state.items()})
    merged = merged_state(state, fit, factor)
    torch.testing.assert_close(merged[f"{key}.weight"], weight + factor * 2 * up @ down)
    assert all(torch.equal(merged[k], v) for k, v in state.items() if k != f"{key}.weight")


def test_a_list_without_names_is_no_checkpoint(tmp_path):
    torch.save([torch.ones(4, 2), torch.ones(2, 4)], tmp_path / "unet.pt")
    from videolcm_core.files.reading import load_state_dict

    tensors = load_state_dict(tmp_path / "unet.pt")[0]
    with pytest.raises(CheckpointError, match="list of tensors without names"):
        detect_unet_config(tensors, {}, "unet.pt")
