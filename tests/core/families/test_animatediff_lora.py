"""LoRA files against Stable Diffusion 1.5 and motion modules: the authors' recorded values, names and scales."""

import pytest
import sd15_loras
import torch
from precision import assert_recorded
from safetensors.torch import save_file
from sd15_loras import MODULES, SPATIAL, TEMPORAL, animatediff_tensors, authors_name, kohya_tensors, peft_tensors

from videolcm_core.families.animatediff.keymaps import diffusers_motion_name, sd15_to_diffusers
from videolcm_core.families.animatediff.lora import fit_lora, takes_sd15_loras, trained_group_norm
from videolcm_core.families.foreign import lora_base
from videolcm_core.files.errors import CheckpointError, SettingsError
from videolcm_core.files.lora import LoraFile, LoraLayer, read_lora
from videolcm_core.files.lora_fit import merged_state
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet


def shapes_of(weights):
    return {key: value.shape for key, value in weights.items()}


@pytest.fixture(scope="module")
def unet():
    return sd15_loras.unet_weights()


@pytest.fixture(scope="module")
def motion():
    return sd15_loras.motion_weights()


@pytest.fixture
def read(tmp_path):
    def write_and_read(tensors, name="x.safetensors", metadata=None):
        save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / name, metadata)
        return read_lora(tmp_path / name)

    return write_and_read


def merged(lora, unet, motion, strength=1.0):
    """Both networks with the file on them."""
    state = merged_state({**unet, **motion}, fit_lora(lora, shapes_of(unet), shapes_of(motion)), strength)
    return sd15_loras.networks({k: state[k] for k in unet}, {k: state[k] for k in motion})


def test_animatelcms_lora_gives_the_authors_forward(read, unet, motion):
    values = sd15_loras.recorded("animatediff/lcm_lora_forward")
    net, modules = merged(read(kohya_tensors()), unet, motion, 0.8)
    assert_recorded(lambda: sd15_loras.forward(net, modules, values), values[f"y_{sd15_loras.T}_0.8"])
    without = merged(read(kohya_tensors(alpha=None, rank=64)), unet, motion, 0.8)[0].state_dict()
    for key, value in net.state_dict().items():  # a longer sum of zeros may round otherwise
        torch.testing.assert_close(without[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_mcms_lora_gives_peft_and_diffusers_forward(read, unet, motion):
    values = sd15_loras.recorded("animatediff/mcm_lora_forward")
    net, modules = merged(read(peft_tensors()), unet, motion)
    across = {"across_frames": True}
    assert_recorded(lambda: sd15_loras.forward(net, modules, values, **across), values[f"y_{sd15_loras.T}"])


def test_animatelcms_merge(read):
    values = sd15_loras.recorded("animatelcm/lcm_lora_merge")
    keys = [
        *sd15_loras.unet_weights(),
        "input_blocks.1.0.skip_connection.weight",
        "input_blocks.1.0.skip_connection.bias",
    ]
    own = {theirs: key for key, theirs in sd15_to_diffusers(keys).items()}
    stages = ({own[k.removeprefix(s)]: v for k, v in values.items() if k.startswith(s)} for s in ("before.", "after."))
    before, after = stages
    lora = read({k.removeprefix("lora."): v for k, v in values.items() if k.startswith("lora.")})
    fit = fit_lora(lora, shapes_of(before))
    assert len(fit.changes) == 8 and not (fit.unknown or fit.misshapen)
    for key, value in after.items():
        assert_recorded(lambda key=key: merged_state(before, fit, 0.8)[key], value)


def meta_layer(name, out, inner, rank, layout):
    up, down = (torch.empty(shape, device="meta") for shape in ((out, rank, *[1] * (len(inner) - 1)), (rank, *inner)))
    return LoraLayer(name=name, up=up, down=down, scale=1.0, layout=layout)


FULL = {
    "unet": shapes_of(SD15UNet(SD15Config(), device="meta").state_dict()),
    "motion": shapes_of(MotionNetwork(MotionConfig(), device="meta").state_dict()),
}
NAMES = {
    "peft": "base_model.model.{}",
    "diffusers": "unet.base_model.model.{}",
    "adapter": "unet.{}",
    "bare": "{}",
    "compiled": "module._orig_mod.{}",
}


def listed(spelling, layout="peft"):
    """MCM's published layers at full width."""
    layers = {}
    for name, (out, inner) in sd15_loras.LISTED["layers"].items():
        spelled = spelling(name)
        layers[spelled] = meta_layer(spelled, out, inner, sd15_loras.LISTED["rank"], layout)
    return LoraFile(file="mcm.safetensors", layers=layers)


@pytest.mark.parametrize("prefix", NAMES.values(), ids=NAMES)
def test_every_module_of_mcm_fits_at_full_width(prefix):
    fit = fit_lora(listed(prefix.format), **FULL)
    assert len(fit.changes) == 530 and not (fit.misshapen or fit.unknown or fit.text)
    assert len(set(fit.changes) & set(FULL["unet"])) == 278
    assert len(set(fit.changes) & set(FULL["motion"])) == 252


SPELLINGS = {
    "kohya": lambda name: f"lora_unet_{name.replace('.', '_')}",
    "kohya, authors' names": lambda name: f"lora_unet_{own_name(name).replace('.', '_')}",
    "own names": lambda name: f"diffusion_model.{own_name(name)}",
    "processors": lambda name: ".processor.".join(own_name(name).rsplit(".", 1)),
    "processors, diffusers' names": lambda name: "unet." + ".processor.".join(name.rsplit(".", 1)),
}


def own_name(name):
    """LDM's name of a layer of the UNet, AnimateDiff's of a motion module's."""
    if name in TEMPORAL:
        return (
            authors_name(name)
            if ".transformer_blocks." in name
            else name.replace(".proj", ".temporal_transformer.proj")
        )
    return LDM[name]


LDM = {v.removesuffix(".weight"): k.removesuffix(".weight") for k, v in sd15_to_diffusers(FULL["unet"]).items()}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_other_spellings_fit_as_whole(spelling):
    wanted = fit_lora(listed(NAMES["peft"].format), **FULL)
    fit = fit_lora(listed(spelling, "kohya"), **FULL)
    assert set(fit.changes) == set(wanted.changes) and not (fit.misshapen or fit.unknown or fit.text)


def test_animatediffs_motion_lora(read, unet, motion):
    """Its authors add up @ down to each projection of both attentions."""
    lora = read(animatediff_tensors())
    fit = fit_lora(lora, shapes_of(unet), shapes_of(motion))
    assert len(fit.changes) == 21 * 8 and not (fit.unknown or fit.misshapen) and not lora.guessed
    assert set(fit.changes) <= set(motion) and trained_group_norm(lora) is None
    state = merged_state({**unet, **motion}, fit)
    theirs = read({f"unet.{diffusers_motion_name(key)}": value for key, value in animatediff_tensors().items()})
    assert set(fit_lora(theirs, shapes_of(unet), shapes_of(motion)).changes) == set(fit.changes)
    key = "up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1"
    up, down = (lora.layers[f"{key}.processor.to_out"].up, lora.layers[f"{key}.processor.to_out"].down)
    torch.testing.assert_close(state[f"{key}.to_out.0.weight"], motion[f"{key}.to_out.0.weight"] + up @ down)


def test_without_motion_modules_the_rest_fits(read, unet):
    fit = fit_lora(read(peft_tensors()), shapes_of(unet))
    assert len(fit.changes) == 278 and len(fit.unknown) == 252 and not fit.misshapen
    assert all("motion_modules" in name for name in fit.unknown)


def test_modules_without_a_middle_block(read, unet, motion):
    """AnimateDiff v1 and v3."""
    without = {key: value for key, value in motion.items() if not key.startswith("mid_block")}
    fit = fit_lora(read(peft_tensors()), shapes_of(unet), shapes_of(without))
    assert len(fit.changes) == 518 and len(fit.unknown) == 12 and "mid_block" in fit.unknown[0]


def without_alpha(rank=64, modules=SPATIAL):
    return kohya_tensors(modules, None, rank)


def with_one_alpha():
    return without_alpha() | {f"lora_unet_{SPATIAL[5].replace('.', '_')}.alpha": torch.tensor(64.0)}


def with_one_rank():
    tensors, base = without_alpha(), f"lora_unet_{SPATIAL[5].replace('.', '_')}"
    tensors[f"{base}.lora_up.weight"] = tensors[f"{base}.lora_up.weight"][:, :32]
    tensors[f"{base}.lora_down.weight"] = tensors[f"{base}.lora_down.weight"][:32]
    return tensors


OTHERS = {
    "rank 32": lambda: without_alpha(32),
    "one layer less": lambda: without_alpha(modules=SPATIAL[1:]),
    "attention alone": lambda: without_alpha(modules=[name for name in SPATIAL if ".attn" in name]),
    "one layer of another rank": with_one_rank,
    "one alpha": with_one_alpha,
    "peft": lambda: peft_tensors(SPATIAL),
}


@pytest.mark.parametrize("tensors", OTHERS.values(), ids=OTHERS)
def test_other_files_without_alpha_are_taken_at_one(read, unet, tensors):
    lora = read(tensors())
    fit = fit_lora(lora, shapes_of(unet))
    assert fit.assumed is None and {change.scale for change in fit.changes.values()} == {1.0} and lora.guessed


@pytest.mark.parametrize("motion", [False, True])
def test_animatelcms_files_without_alpha_get_an_eighth(read, unet, motion):
    modules = shapes_of(sd15_loras.motion_weights()) if motion else None
    fit = fit_lora(read(without_alpha()), shapes_of(unet), modules)
    assert fit.assumed == 1 / 8 and {change.scale for change in fit.changes.values()} == {1 / 8}


@pytest.mark.parametrize("alpha", [8.0, 32.0, 64.0])
def test_an_alpha_in_the_file_wins(read, unet, alpha):
    lora = read(kohya_tensors(alpha=alpha / 16, rank=64))
    fit = fit_lora(lora, shapes_of(unet))
    assert (
        fit.assumed is None and {change.scale for change in fit.changes.values()} == {alpha / 64} and not lora.guessed
    )


def test_group_norm_of_motion_layers(read):
    motion = dict(list(peft_tensors(TEMPORAL).items())[:4])
    spatial = dict(list(peft_tensors(SPATIAL).items())[:4])
    assert trained_group_norm(read({**motion, **spatial})) == "video"
    assert trained_group_norm(read(spatial)) is None
    assert trained_group_norm(read(motion, metadata={"videolcm.group_norm": "frame"})) == "frame"
    with pytest.raises(SettingsError, match=r"videolcm.group_norm 'both'; allowed: .*frame"):
        trained_group_norm(read(motion, metadata={"videolcm.group_norm": "both"}))


WIDTHS = {"Stable Diffusion XL": 2048, "Stable Diffusion 2.x": 1024}


@pytest.mark.parametrize("base", WIDTHS)
def test_a_lora_that_reads_other_text_is_of_another_base(base):
    """Half of it has this network's shapes, in layers that do the same thing elsewhere."""
    layers = {}
    for name, (out, inner) in sd15_loras.LISTED["layers"].items():
        if ".attn" in name and name in SPATIAL:
            inner = [WIDTHS[base]] if inner == [768] else inner
            layers[name] = meta_layer(name, out, inner, 4, "peft")
    lora = LoraFile(file="other.safetensors", layers=layers)
    fit = fit_lora(lora, **FULL)
    assert len(fit.changes) == 96 and base in lora_base(lora)
    assert f"down [4, {WIDTHS[base]}]" in fit.reads_other_text(fit.changes)


def test_one_layer_of_another_width_is_no_other_base(read, unet):
    tensors, key = kohya_tensors(), "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    fit = fit_lora(read({**tensors, key: torch.zeros(4, 768)}), shapes_of(unet))
    assert fit.reads_other_text(fit.changes) is None and len(fit.misshapen) == 1 and len(fit.changes) == 277


def test_layers_without_names_are_refused(tmp_path):
    torch.save([torch.ones(320, 4), torch.ones(4, 320)], tmp_path / "unet.pt")
    with pytest.raises(CheckpointError, match="1 layers without names"):
        fit_lora(read_lora(tmp_path / "unet.pt"), **FULL)


def state(config, **changes):
    weights = dict(SD15UNet(config, device="meta").state_dict())
    return {**weights, **{key: torch.empty(shape, device="meta") for key, shape in changes.items()}}


def linear_projections():
    weights = state(SD15Config(context_dim=1024))
    return {k: v.flatten(1) if ".proj_" in k and v.ndim == 4 else v for k, v in weights.items()}


def fewer_blocks():
    return {key: value for key, value in state(SD15Config()).items() if not key.startswith("input_blocks.8.")}


UNETS = {
    "SD1.5": (lambda: state(SD15Config()), True),
    "inpainting": (lambda: state(SD15Config(in_channels=9)), True),
    "narrow": (lambda: state(sd15_loras.UNET), True),
    "narrow, other levels": (lambda: state(SD15Config(64, (1, 2, 2, 4), 40)), True),
    "more keys of a host": (lambda: state(SD15Config(), **{"input_blocks.1.1.scale_weight": (1,)}), True),
    "SD2": (linear_projections, False),
    "SDXL's class labels": (lambda: state(SD15Config(), **{"label_emb.0.0.weight": (1280, 2816)}), False),
    "a smaller UNet": (fewer_blocks, False),
    "Flux": (lambda: {"double_blocks.0.img_attn.qkv.weight": torch.empty(9, 3)}, False),
    "nothing": (dict, False),
}


@pytest.mark.parametrize(("make", "wanted"), UNETS.values(), ids=UNETS)
def test_which_network_it_is(make, wanted):
    assert takes_sd15_loras(make()) is wanted


def test_all_listed_names_are_different_modules():
    assert len(set(MODULES)) == 530 and len(SPATIAL) == 278 and len(TEMPORAL) == 252
