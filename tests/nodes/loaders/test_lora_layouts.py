"""Load VideoLCM LoRA on the layouts that trainers write: each gives the weights that the trainer samples with."""

import copy
import json
import logging

import lora_writers
import pytest
import torch
from safetensors.torch import load_file, save_file

from videolcm_core.families.vgen.keymaps import diffusers_to_vgen, vgen_to_diffusers

SHAPE = {
    "model_channels": 64,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_scales": (1.0,),
    "context_dim": 32,
    "num_heads": 8,
    "head_dim": 8,
    "concat_channels": 0,
}
METADATA = {"videolcm.head_dim": "8", "videolcm.prediction": "v", "videolcm.sampling": "lcm"}


@pytest.fixture(scope="module")
def weights(host, recipe_weights):
    unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
    return recipe_weights(unet3d.UNet3D(unet3d.UNetConfig(**SHAPE)), 13)


@pytest.fixture(scope="module")
def model(host, weights, write_model):
    """The same network, from a file in the authors' names."""
    name = write_model("lora-base.safetensors", weights, METADATA)
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


@pytest.fixture(scope="module")
def diffusers_unet(weights):
    from diffusers import UNet3DConditionModel

    from training.students.diffusers_folder import diffusers_config
    from videolcm_core.networks.vgen.unet3d import UNetConfig

    with torch.inference_mode(False):
        unet = UNet3DConditionModel(**diffusers_config(UNetConfig(**SHAPE), "the test's"))
        names = vgen_to_diffusers(weights)
        # Not made under inference mode: these are weights that a trainer changes.
        unet.load_state_dict({names[k]: (v.squeeze(-1) if v.ndim == 3 else v).clone() for k, v in weights.items()})
    return unet.requires_grad_(False)


@pytest.fixture
def unet(diffusers_unet):
    """A copy to train; outside inference mode, as a trainer is."""
    with torch.inference_mode(False):
        return copy.deepcopy(diffusers_unet)


@pytest.fixture
def loras(host, request):
    folder = host.base / "models" / "loras" / request.node.name.replace("/", "-")
    folder.mkdir(parents=True)
    return folder


def run(host, model, path, strength=1.0):
    name = str(path.relative_to(host.base / "models" / "loras"))
    return host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=strength)[0]


def weights_of(model):
    from comfy import model_management

    model_management.load_models_gpu([model], force_full_load=True)
    return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}


def check(host, model, base, path, expected, tolerance=1e-5):
    """Every weight of the patched MODEL is the trainer's, and as many are changed."""
    patched = run(host, model, path)
    wanted = diffusers_to_vgen(expected)
    got = weights_of(patched)
    changed = {k for k in base if not torch.equal(wanted[k], base[k])}
    assert {k.removeprefix("diffusion_model.") for k in patched.patches} == changed and len(changed) > 20
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=tolerance, atol=tolerance * float(value.abs().max()), msg=key)
    assert all(torch.equal(v, base[k]) for k, v in weights_of(model).items())


PEFT = {
    "alpha": {},
    "rslora": {"use_rslora": True},
    "patterns": {
        "rank_pattern": {r"attn1.to_q": 2, r"^transformer_in.proj_in": 6},
        "alpha_pattern": {r"conv1": 8, r"temp_convs.0.conv[23].\d": 1},
    },
    "dora": {"use_dora": True},
    "bias": {"lora_bias": True, "target_modules": r".*(resnets\.\d\.conv[12]|ff\.net\.2|to_out\.0)"},
    "all biases": {"bias": "all"},
    "saved whole": {"modules_to_save": ["conv_in"]},
}


@pytest.mark.parametrize("options", PEFT.values(), ids=PEFT)
def test_peft_folder(host, model, weights, unet, loras, options):
    with torch.inference_mode(False):
        expected = lora_writers.peft_folder(unet, loras, **options)
    check(host, model, weights, loras / "adapter_model.safetensors", expected)


@pytest.mark.parametrize("names", ["{}.default.weight", "another"])
def test_peft_names_with_the_adapter_in_them(host, model, weights, unet, loras, names):
    with torch.inference_mode(False):
        expected = lora_writers.peft_folder(unet, loras, use_dora=True)
    tensors = load_file(loras / "adapter_model.safetensors")
    if names == "another":
        tensors = {f"module.{k.replace('.weight', '.style.weight')}": v for k, v in tensors.items()}
    else:
        tensors = {k.replace(".weight", ".default.weight"): v for k, v in tensors.items()}
    save_file(tensors, loras / "adapter_model.safetensors")
    check(host, model, weights, loras / "adapter_model.safetensors", expected)


@pytest.mark.parametrize("writer", [lora_writers.diffusers_adapter, lora_writers.diffusers_pipeline])
def test_diffusers_file_with_settings_inside(host, model, weights, unet, loras, writer):
    with torch.inference_mode(False):
        expected = writer(unet, loras)
    check(host, model, weights, loras / "pytorch_lora_weights.safetensors", expected)


def test_diffusers_file_of_processors(host, model, weights, unet, loras):
    with torch.inference_mode(False):
        expected = lora_writers.old_diffusers(unet, loras / "old.safetensors")
    check(host, model, weights, loras / "old.safetensors", expected)


@pytest.mark.parametrize("options", [{}, {"dora_axis": 0}, {"dora_axis": 1}, {"mid": True}])
def test_kohya(host, model, weights, unet, loras, options):
    with torch.inference_mode(False):
        expected = lora_writers.kohya(unet, loras / "kohya.safetensors", **options)
    check(host, model, weights, loras / "kohya.safetensors", expected)


@pytest.mark.parametrize("web", [False, True], ids=["trainer", "web page"])
def test_stable_lora(host, model, weights, unet, loras, web):
    names = {theirs: own for own, theirs in vgen_to_diffusers(weights).items()} if web else None
    with torch.inference_mode(False):
        expected = lora_writers.stable_lora(unet, loras / "stable.safetensors", names)
    # The factors of the file for the web page are rounded to half precision, 2^-11 each.
    check(host, model, weights, loras / "stable.safetensors", expected, 2**-10 if web else 1e-5)


TARGETS = [
    ("UNet3DConditionModel",),
    ("Attention", "GEGLU"),
    ("ResnetBlock2D", "Attention", "GEGLU"),
    ("TransformerTemporalModel", "TemporalConvLayer"),
    ("Transformer2DModel", "Attention"),
]


@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
@pytest.mark.parametrize(("suffix", "old_order"), [(".pt", False), (".pt", True), (".safetensors", True)])
def test_cloneofsimo(host, model, weights, unet, loras, targets, suffix, old_order):
    with torch.inference_mode(False):
        expected = lora_writers.cloneofsimo(unet, loras / f"unet{suffix}", targets, old_order)
    check(host, model, weights, loras / f"unet{suffix}", expected)


@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_strength_moves_between_the_model_and_the_trained_one(host, model, weights, unet, loras, strength):
    with torch.inference_mode(False):
        expected = diffusers_to_vgen(lora_writers.peft_folder(unet, loras, use_dora=True, bias="all"))
    got = weights_of(run(host, model, loras / "adapter_model.safetensors", strength))
    for key, base in weights.items():
        wanted = base + strength * (expected[key] - base)
        torch.testing.assert_close(got[key], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()), msg=key)


def test_a_lora_of_another_kind_is_the_hosts(host, model, weights, loras):
    """LoHa: the host's own arithmetic; a layer of another size is left out and counted."""
    r, key = 4, "middle_block.1.transformer_blocks.0.attn1.to_q"
    tensors = {}
    for name, width in ((key, 128), (key.replace("to_q", "to_k"), 96)):
        base = f"lora_unet_{name.replace('.', '_')}"
        for index, part in enumerate(("hada_w1_a", "hada_w2_a")):
            tensors[f"{base}.{part}"] = lora_writers.seeded((width, r), index)
        for index, part in enumerate(("hada_w1_b", "hada_w2_b")):
            tensors[f"{base}.{part}"] = lora_writers.seeded((r, width), index + 2)
        tensors[f"{base}.alpha"] = torch.tensor(2.0)
    save_file(tensors, loras / "loha.safetensors")
    patched = run(host, model, loras / "loha.safetensors")
    assert set(patched.patches) == {f"diffusion_model.{key}.weight"}
    base = f"lora_unet_{key.replace('.', '_')}"
    parts = {k.removeprefix(f"{base}."): v for k, v in tensors.items() if k.startswith(base)}
    delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"]) * 0.5
    torch.testing.assert_close(weights_of(patched)[f"{key}.weight"], weights[f"{key}.weight"] + delta)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_partial_fit_is_counted(host, model, unet, loras, warnings):
    with torch.inference_mode(False):
        lora_writers.kohya(unet, loras / "kohya.safetensors")
    tensors = load_file(loras / "kohya.safetensors")
    total = sum(k.endswith(".alpha") for k in tensors)
    wide = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    tensors[wide] = torch.zeros(4, 768)
    for part, value in (("lora_up.weight", (8, 2)), ("lora_down.weight", (2, 8))):
        tensors[f"lora_te_text_model_encoder_layers_0_self_attn_q_proj.{part}"] = torch.zeros(value)
        tensors[f"lora_unet_nowhere.{part}"] = torch.zeros(value)
    save_file(tensors, loras / "kohya.safetensors")
    patched = run(host, model, loras / "kohya.safetensors")
    assert len(patched.patches) == total - 1
    said = " ".join(warnings())
    assert f"kohya.safetensors: {total - 1} weights changed" in said
    assert "1 of another shape" in said and "[4, 768]" in said and "attn2_to_k" in said
    assert "1 not in this model" in said and "lora_unet_nowhere" in said and "1 for a text encoder" in said


def test_a_lora_of_another_base_is_an_error(host, model, loras):
    """Names of Stable Diffusion fit this network, shapes do not: nothing is silently left as it was."""
    tensors = {}
    for block, width in (("down_blocks.0.attentions.0", 320), ("mid_block.attentions.0", 1280)):
        for name, inner in (("attn1.to_q", width), ("attn2.to_k", 768)):
            base = f"lora_unet_{block}.transformer_blocks.0.{name}".replace(".", "_")
            tensors |= {
                f"{base}.lora_up.weight": torch.ones(width, 4),
                f"{base}.lora_down.weight": torch.ones(4, inner),
            }
    save_file(tensors, loras / "sd15.safetensors")
    with pytest.raises(ValueError, match="none fits this model") as error:
        run(host, model, loras / "sd15.safetensors")
    text = str(error.value)
    assert text.startswith("sd15.safetensors: got 4 of another shape") and "[4, 320]" in text and "[64, 64]" in text
    assert "Stable Diffusion 1.x" in text and len(text) < 1500
    save_file(tensors, loras / "sd15.safetensors", metadata={"modelspec.architecture": "stable-diffusion-v1/lora"})
    with pytest.raises(ValueError, match="trained for stable-diffusion-v1/lora"):
        run(host, model, loras / "sd15.safetensors")


@pytest.fixture
def small_peft(loras):
    """A peft folder of one layer."""
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 128), f"{name}.lora_B.weight": torch.ones(128, 4)}
    save_file(tensors, loras / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"]}
    (loras / "adapter_config.json").write_text(json.dumps(config))
    return loras


def test_a_missing_alpha_is_said(host, model, small_peft, loras, warnings):
    assert run(host, model, loras / "adapter_model.safetensors").patches and not warnings()
    (loras / "adapter_config.json").unlink()
    run(host, model, loras / "adapter_model.safetensors")
    assert any("does not say its alpha" in text and "adapter_config.json" in text for text in warnings())


def test_settings_beside_the_file_make_the_node_run_again(host, small_peft, loras):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMLoraLoader"]
    name = f"{loras.name}/adapter_model.safetensors"
    before = node.fingerprint_inputs(name, 1.0)
    assert before == node.fingerprint_inputs(name, 1.0)
    config = json.loads((loras / "adapter_config.json").read_text())
    (loras / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 7}))
    assert before != node.fingerprint_inputs(name, 1.0)


CONFIGS = {
    "another rank": ({"r": 5}, "rank 4 for .* rank 5"),
    "LoHa": ({"peft_type": "LOHA"}, "peft_type LOHA"),
    "changed base": ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "other layout": ({"use_qalora": True}, "use_qalora"),
    "alpha as text": ({"lora_alpha": "8"}, "lora_alpha is '8'"),
    "NaN": ({"lora_alpha": float("nan")}, "lora_alpha is 'nan'"),
    "rank 0": ({"r": 0}, "r is 0"),
    "endless pattern": ({"alpha_pattern": {"(a+)+b": 1}}, "alpha_pattern has"),
    "no pattern": ({"rank_pattern": {"(": 1}}, "rank_pattern has"),
    "pattern of a wrong kind": ({"rank_pattern": [1]}, "rank_pattern is a list"),
}


@pytest.mark.parametrize(("entries", "message"), CONFIGS.values(), ids=CONFIGS)
def test_settings_that_cannot_be_used(host, model, small_peft, loras, entries, message):
    config = loras / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | entries))
    with pytest.raises(ValueError, match=message) as error:
        run(host, model, loras / "adapter_model.safetensors")
    assert str(error.value).startswith("adapter_model.safetensors: got") and len(str(error.value)) < 1500


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_settings_that_are_no_settings(host, model, small_peft, loras, text):
    (loras / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="adapter_config.json that cannot be used"):
        run(host, model, loras / "adapter_model.safetensors")


BROKEN = {
    "list of odd length": [torch.ones(4, 2)],
    "list that fits nothing": [torch.ones(7, 2), torch.ones(2, 9)] * 30,
    "vectors": {"lora_unet_conv_in.lora_up.weight": torch.ones(4), "lora_unet_conv_in.lora_down.weight": torch.ones(4)},
    "integers": {
        "lora_unet_conv_in.lora_up.weight": torch.ones(64, 4, dtype=torch.int32),
        "lora_unet_conv_in.lora_down.weight": torch.ones(4, 36, dtype=torch.int32),
    },
    "alpha of two": {
        "lora_unet_conv_in.lora_up.weight": torch.ones(64, 4),
        "lora_unet_conv_in.lora_down.weight": torch.ones(4, 36),
        "lora_unet_conv_in.alpha": torch.ones(2),
    },
    "NaN": {
        "lora_unet_conv_in.lora_up.weight": torch.full((64, 4), float("nan")),
        "lora_unet_conv_in.lora_down.weight": torch.ones(4, 36),
    },
    "two adapters": {f"conv_in.lora_{p}.{a}.weight": torch.ones(4, 4) for p in "AB" for a in ("x", "y")},
    "one half": {"lora_unet_conv_in.lora_up.weight": torch.ones(64, 4)},
    "no LoRA": {"weight": torch.ones(3)},
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_broken_files(host, model, loras, content):
    torch.save(content, loras / "broken.pt")
    with pytest.raises(ValueError, match=r"^broken\.pt: got") as error:
        run(host, model, loras / "broken.pt")
    assert len(str(error.value)) < 1500 and "allowed:" in str(error.value)
