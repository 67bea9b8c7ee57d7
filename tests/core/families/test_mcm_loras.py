"""MCM's LoRAs known by the layers they adapt, on networks of the released sizes; everything near them is not."""

import json
from pathlib import Path

import pytest
import torch

from videolcm_core.families.animatediff import lora as sd15
from videolcm_core.families.mcm import animatediff_targets, is_mcm, modelscope_targets
from videolcm_core.families.vgen import lora as vgen
from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.files.lora import LoraFile, LoraLayer
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
LISTED = {name: json.loads((GOLDEN / f"mcm_lora_{name}.json").read_text()) for name in ("modelscope", "animatediff")}


def shapes(network):
    return {key: value.shape for key, value in network.state_dict().items()}


VGEN = {concat: shapes(UNet3D(UNetConfig(concat_channels=concat), device="meta")) for concat in (0, 8)}
UNET = shapes(SD15UNet(SD15Config(), device="meta"))
MOTION = shapes(MotionNetwork(MotionConfig(), device="meta"))
OWN = {
    theirs.removesuffix(".weight"): own.removesuffix(".weight") for own, theirs in vgen_to_diffusers(VGEN[0]).items()
}


def layer(name, out, inner):
    ones = [1] * (len(inner) - 1)
    up, down = torch.empty(out, 4, *ones, device="meta"), torch.empty(4, *inner, device="meta")
    return LoraLayer(name=name, up=up, down=down, scale=1.0)


def lora_of(base, spelling="base_model.model.{}".format, without=(), **more):
    layers = LISTED[base]["layers"].items()
    spelled = [layer(spelling(name), *shape) for name, shape in layers if name not in without]
    return LoraFile(file="mcm.safetensors", layers={one.name: one for one in spelled}, **more)


def fits_modelscope(lora, shapes=VGEN[0]):
    return is_mcm(lora, vgen.fit_lora(lora, shapes), shapes, None)


def fits_animatediff(lora, motion=MOTION):
    return is_mcm(lora, sd15.fit_lora(lora, UNET, motion), UNET, motion)


SPELLINGS = {
    "peft": "base_model.model.{}".format,
    "unet_lora": "unet.base_model.model.{}".format,
    "diffusers": "unet.{}".format,
    "kohya": lambda name: f"lora_unet_{name.replace('.', '_')}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_the_published_layers_are_known(spelling):
    assert all(fits_modelscope(lora_of("modelscope", spelling), shapes) for shapes in VGEN.values())
    assert fits_animatediff(lora_of("animatediff", spelling))


def test_the_targets_are_the_published_ones():
    fit = vgen.fit_lora(lora_of("modelscope"), VGEN[0])
    assert modelscope_targets(VGEN[0]) == set(fit.changes) and len(fit.changes) == 482
    fit = sd15.fit_lora(lora_of("animatediff"), UNET, MOTION)
    assert animatediff_targets(UNET, MOTION) == set(fit.changes) and len(fit.changes) == 530


LAST = {base: list(listed["layers"])[-1] for base, listed in LISTED.items()}
ALONG_TIME = [name for name in LISTED["modelscope"]["layers"] if "temp_attentions" in name or "transformer_in" in name]


def with_layer(lora, name, out, inner):
    return LoraFile(file=lora.file, layers={**lora.layers, name: layer(name, out, inner)})


NEAR = {
    "a layer less": lambda: fits_modelscope(lora_of("modelscope", without=(LAST["modelscope"],))),
    "space alone": lambda: fits_modelscope(lora_of("modelscope", without=ALONG_TIME)),
    "a convolution along time": lambda: fits_modelscope(
        with_layer(lora_of("modelscope"), "down_blocks.0.temp_convs.0.conv1.2", 320, [320, 3, 1, 1])
    ),
    "the first convolution": lambda: fits_modelscope(with_layer(lora_of("modelscope"), "conv_in", 320, [4, 3, 3])),
    "an unknown layer": lambda: fits_modelscope(with_layer(lora_of("modelscope"), "nowhere", 8, [8])),
    "a whole bias": lambda: fits_modelscope(lora_of("modelscope", rest={"conv_in.bias": torch.zeros(320)})),
    "this pack's names": lambda: fits_modelscope(lora_of("modelscope", lambda n: f"base_model.model.{OWN[n]}")),
    "this pack's kohya": lambda: fits_modelscope(
        lora_of("modelscope", lambda n: f"lora_unet_{OWN[n].replace('.', '_')}")
    ),
    "AnimateDiff's": lambda: fits_modelscope(lora_of("animatediff")),
    "ModelScope's": lambda: fits_animatediff(lora_of("modelscope")),
    "AnimateDiff's, a layer less": lambda: fits_animatediff(lora_of("animatediff", without=(LAST["animatediff"],))),
    "LCM-LoRA": lambda: fits_animatediff(
        lora_of("animatediff", without=[n for n in LISTED["animatediff"]["layers"] if "motion_modules" in n])
    ),
    "without motion modules": lambda: fits_animatediff(lora_of("animatediff"), {}),
}


@pytest.mark.parametrize("case", NEAR)
def test_files_near_it_are_not_taken_for_it(case):
    assert not NEAR[case]()


@pytest.mark.parametrize("base", LISTED)
def test_on_the_other_base_the_text_does_not_fit(base):
    """Space has the same names and widths in both, so about 246 layers fit by chance."""
    lora = lora_of(base)
    fit = sd15.fit_lora(lora, UNET, MOTION) if base == "modelscope" else vgen.fit_lora(lora, VGEN[0])
    assert len(fit.changes) > 200 and "attn2.to_" in fit.reads_other_text(fit.changes)
    assert len(fit.unknown) == {"modelscope": 204, "animatediff": 252}[base]
