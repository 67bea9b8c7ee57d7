"""Load VideoLCM LoRA on core's SD1.5 MODEL, with motion modules and without: AnimateLCM's, MCM's and AnimateDiff's."""

import json
import logging

import broken_files
import pytest
import sd15_loras
import torch
from broken_files import TENSOR_KINDS
from limits import limited
from precision import assert_within, without_rounding
from sd15_loras import SPATIAL, TEMPORAL, animatediff_tensors, kohya_tensors, peft_tensors


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: " ".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


@pytest.fixture
def lora(host, write_model, request):
    """``lora(tensors)`` -> the name of a file in a folder of this test's own; ``alpha`` writes peft's settings."""
    folder = request.node.name.replace("/", "-").replace(" ", "_")

    def write(tensors, name="lora.safetensors", metadata=None, alpha=None, rank=4):
        name = write_model(f"{folder}/{name}", tensors, metadata, "loras")
        if alpha is not None:
            settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
            (host.base / "models" / "loras" / folder / "adapter_config.json").write_text(json.dumps(settings))
        return name

    return write


@pytest.fixture
def apply(host):
    def run(model, name, strength=1.0):
        return host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=strength)[0]

    return run


@pytest.fixture
def motion_of(host):
    return host.pack("nodes.motion.patch").motion_of


@pytest.fixture
def weights_of(motion_of):
    """Weights of the UNet and of the motion modules of a MODEL, as a run has them."""

    def load(model):
        from comfy import model_management

        motion = motion_of(model)
        model_management.load_models_gpu([model, *([motion.patcher] if motion else [])], force_full_load=True)
        found = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
        if motion is not None:
            found |= {k: v.clone() for k, v in motion.network.state_dict().items()}
        return found

    return load


@pytest.fixture(scope="module")
def base():
    """Weights of both networks."""
    return sd15_loras.unet_weights() | sd15_loras.motion_weights()


def changed(weights, base):
    return {key for key, value in weights.items() if not torch.equal(value, base[key])}


def forward(model, values):
    """The recorded step through core's UNet, as core's samplers call it."""
    from comfy import model_management

    model_management.load_models_gpu([model])
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [1, 0]}
    x = values["x"].expand(2, *values["x"].shape[1:])
    frames = x.shape[2]
    out = model.model.diffusion_model(
        x.movedim(2, 1).flatten(0, 1),
        torch.full((2 * frames,), float(sd15_loras.T)),
        values["context"].repeat_interleave(frames, 0),
        transformer_options=options,
    )
    return out.unflatten(0, (2, frames)).movedim(2, 1)


def exact(weights, values, across_frames):
    """The recorded step of our own networks, without rounding, with the weights that the host has."""
    unet = {k: v for k, v in weights.items() if "motion_modules" not in k}
    modules = {k: v for k, v in weights.items() if "motion_modules" in k}
    net, motion = sd15_loras.networks(unet, modules)
    return without_rounding(lambda: sd15_loras.forward(net, motion, values, across_frames))


def test_mcms_lora_gives_peft_and_diffusers_forward(host, animate, apply, lora, weights_of, motion_of, base, warnings):
    values = sd15_loras.recorded("animatediff/mcm_lora_forward")
    model = animate()
    patched = apply(model, lora(peft_tensors(), "adapter_model.safetensors", alpha=4))
    assert motion_of(model).group_norm == "frame" and motion_of(patched).group_norm == "video"
    assert "trained with group norms over all frames of a video" in warnings() and "left out" not in warnings()
    merged = weights_of(patched)
    assert len(changed(merged, base)) == 530
    step = exact(merged, values, across_frames=True)
    assert_within(forward(patched, values), step, what="the host's step")
    assert_within(values[f"y_{sd15_loras.T}"], step, what="the recorded value")
    assert changed(weights_of(model), base) == set()


def test_animatelcms_lora_without_alpha_is_the_one_with_alpha(animate, apply, lora, weights_of, base, warnings):
    wanted = weights_of(apply(animate(), lora(kohya_tensors(), "alpha.safetensors"), 0.8))
    assert len(changed(wanted, base)) == 278 and warnings() == ""
    found = weights_of(apply(animate(), lora(kohya_tensors(alpha=None, rank=64), "none.safetensors"), 0.8))
    assert "none.safetensors carries no alpha" in warnings() and "strength_model 8 undoes that" in warnings()
    for key, value in wanted.items():  # a longer sum of zeros may round otherwise
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=key)


def test_the_hosts_own_loader_gives_the_same_weights(host, sd15, apply, lora, weights_of, base):
    name = lora(kohya_tensors())
    ours = weights_of(apply(sd15, name, 0.7))
    theirs = weights_of(host.run("LoraLoaderModelOnly", model=sd15, lora_name=name, strength_model=0.7)[0])
    assert len(changed(ours, base)) == 278
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_before_and_after_the_motion_modules_is_the_same(animate, sd15, apply, lora, weights_of, base):
    name = lora(kohya_tensors())
    before, after = weights_of(animate(model=apply(sd15, name))), weights_of(apply(animate(), name))
    assert len(changed(after, base)) == 278 and all(torch.equal(before[key], after[key]) for key in after)


def test_two_models_of_one_base(animate, apply, lora, weights_of, base):
    """Each keeps its own LoRA on the motion modules that they share, whatever ran in between."""
    plain = animate()
    first = apply(plain, lora(peft_tensors(TEMPORAL), "first.safetensors"))
    second = apply(plain, lora(animatediff_tensors(), "second.safetensors"))
    both = apply(first, lora(animatediff_tensors(), "second.safetensors"))
    counts = [len(changed(weights_of(model), base)) for model in (first, second, plain, both, first)]
    assert counts == [252, 168, 0, 252, 252]
    assert changed(weights_of(first), weights_of(both)) == changed(weights_of(second), base)


def test_counts_are_told(animate, apply, lora, caplog):
    caplog.set_level(logging.INFO)
    apply(animate(), lora(peft_tensors(), "adapter_model.safetensors", alpha=4))
    assert "changes 278 weights of the UNet and 252 of the motion modules, scale from adapter_config" in caplog.text


def test_alpha_and_strength_of_motion_layers(animate, apply, lora, weights_of, base):
    tensors = peft_tensors(TEMPORAL[:1])
    patched = apply(animate(), lora(tensors, "adapter_model.safetensors", alpha=8), 0.5)
    (key,) = changed(weights_of(patched), base)
    up, down = tensors.values()
    torch.testing.assert_close(weights_of(patched)[key], base[key] + 0.5 * 2 * up @ down)


def test_animatediffs_motion_lora(animate, apply, lora, weights_of, motion_of, base, warnings):
    tensors = animatediff_tensors()
    patched = apply(animate(), lora(tensors), 0.5)
    weights = weights_of(patched)
    assert motion_of(patched).group_norm == "frame" and warnings() == ""
    found = changed(weights, base)
    assert len(found) == 168
    for key in found:
        name = key.removesuffix(".weight").removesuffix(".0").replace(".to_", ".processor.to_")
        delta = tensors[f"{name}_lora.up.weight"] @ tensors[f"{name}_lora.down.weight"]
        torch.testing.assert_close(weights[key], base[key] + 0.5 * delta, msg=key)


def test_animatediffs_pickle(host, animate, apply, weights_of, base):
    """In AnimateDiff-Evolved's folder: a state dict, with the prefix of data-parallel training, beside settings."""
    folder = host.base / "models" / "animatediff_motion_lora"
    folder.mkdir(exist_ok=True)
    path = folder / "v2_lora_ZoomIn.ckpt"
    weights = {f"module.{key}": value for key, value in animatediff_tensors().items()}
    torch.save({"state_dict": weights, "animatediff_config": {"steps": 3}}, path)
    assert path.name in host.pack("nodes.host").model_files(*host.pack("nodes.loaders.lora").FOLDERS)
    assert len(changed(weights_of(apply(animate(), path.name)), base)) == 168


@pytest.mark.parametrize("chosen", ["frame", "video"])
def test_a_chosen_group_norm_stays(animate, apply, lora, motion_of, warnings, chosen):
    patched = apply(animate(group_norm=chosen), lora(peft_tensors(TEMPORAL[:2]), "adapter_model.safetensors", alpha=4))
    assert motion_of(patched).group_norm == chosen
    assert ("group_norm of Apply Motion Module is frame" in warnings()) is (chosen == "frame")


def test_spatial_layers_leave_the_group_norm(animate, apply, lora, motion_of, warnings):
    model = animate()
    patched = apply(model, lora(peft_tensors(SPATIAL[:4]), "adapter_model.safetensors", alpha=4))
    assert motion_of(patched) is motion_of(model) and warnings() == ""


def test_the_files_own_group_norm(animate, apply, lora, motion_of):
    name = lora(peft_tensors(TEMPORAL[:2]), metadata={"videolcm.group_norm": "frame"})
    assert motion_of(apply(animate(), name)).group_norm == "frame"


def test_motion_layers_wait_for_motion_modules(sd15, apply, lora, weights_of, base, warnings):
    patched = apply(sd15, lora(peft_tensors(), "adapter_model.safetensors", alpha=4))
    assert len(changed(weights_of(patched), base)) == 278
    said = "278 weights changed, left out: 252 for motion modules, which this MODEL does not have"
    assert said in warnings() and "after Apply Motion Module" in warnings()


@pytest.mark.parametrize("tensors", [lambda: peft_tensors(TEMPORAL), animatediff_tensors], ids=["mcm", "animatediff"])
def test_motion_layers_alone_without_motion_modules(sd15, apply, lora, tensors):
    with pytest.raises(ValueError, match="for motion modules, which this MODEL does not have") as error:
        apply(sd15, lora(tensors()))
    assert "For a LoRA of motion modules put Load VideoLCM LoRA after Apply Motion Module" in str(error.value)


def test_a_part_is_counted(animate, apply, lora, warnings):
    wide = f"lora_unet_{SPATIAL[0].replace('.', '_')}.lora_down.weight"
    tensors = kohya_tensors() | {wide: torch.zeros(4, 96, 1, 1)}
    for name in ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", "lora_unet_nowhere"):
        tensors |= {f"{name}.lora_up.weight": torch.ones(8, 2), f"{name}.lora_down.weight": torch.ones(2, 8)}
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    apply(animate(), lora(tensors))
    said = warnings()
    assert "277 weights of the UNet and 0 of the motion modules changed, left out: 1 of another shape" in said
    assert "1 not in this model (first lora_unet_nowhere)" in said and "1 for a text encoder" in said


def test_other_files_without_alpha_are_told(sd15, apply, lora, warnings):
    apply(sd15, lora(kohya_tensors(SPATIAL[:3], alpha=None)))
    assert "does not say its alpha, so alpha was taken to be the rank" in warnings()
    assert "adapter_config" not in warnings() and "1/8" not in warnings()


def test_strength_zero_is_the_model(animate, apply, lora):
    model = animate()
    assert apply(model, lora(peft_tensors()), 0.0) is model


@pytest.mark.parametrize("name", [SPATIAL[2], TEMPORAL[1]], ids=["unet", "motion"])
def test_dora_and_loha(animate, apply, lora, weights_of, base, name):
    """DoRA is our arithmetic, LoHa the host's: both act on motion modules as on the UNet."""
    out, inner = sd15_loras.narrow(name)
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    key = f"lora_unet_{name.replace('.', '_')}"
    parts = {f"{key}.hada_{w}_a": random(out, 3) for w in ("w1", "w2")}
    parts |= {f"{key}.hada_{w}_b": random(3, inner[0]) for w in ("w1", "w2")} | {f"{key}.alpha": torch.tensor(3.0)}
    weights = weights_of(apply(animate(), lora(parts, "loha.safetensors")))
    (own,) = changed(weights, base)
    a, b = (parts[f"{key}.hada_{w}_a"] @ parts[f"{key}.hada_{w}_b"] for w in ("w1", "w2"))
    torch.testing.assert_close(weights[own], base[own] + a * b)

    up, down, length = random(out, 4), random(4, inner[0]), random(out).abs()
    factors = {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down, f"{name}.lora_magnitude_vector": length}
    weights = weights_of(apply(animate(), lora(factors, "dora.safetensors")))
    direction = base[own] + up @ down
    torch.testing.assert_close(weights[own], length[:, None] * direction / direction.norm(dim=1, keepdim=True))


def attention_of(text, blocks, base="lora_unet_{}"):
    """Attention layers as kohya names them, of full width."""
    tensors = {}
    for block, width in blocks:
        for layer, inner in (("attn1_to_q", width), ("attn2_to_k", text), ("attn2_to_v", text)):
            name = base.format(f"{block}_transformer_blocks_0_{layer}")
            tensors |= {
                f"{name}.lora_up.weight": torch.ones(width, 2),
                f"{name}.lora_down.weight": torch.ones(2, inner),
            }
    return tensors


def loha_of(tensors):
    """The same layers as LoHa."""
    parts = {"lora_up.weight": "hada_w{}_a", "lora_down.weight": "hada_w{}_b"}
    names = {key: key.split(".", 1) for key in tensors}
    return {f"{m}.{parts[p].format(w)}": tensors[k].clone() for k, (m, p) in names.items() for w in (1, 2)}


OTHER_BASES = {
    "SDXL": (attention_of(2048, [("input_blocks_4_1", 64)]), "2, 2048.*another base model, though 1 .*XL"),
    "SDXL's LoHa": (loha_of(attention_of(2048, [("input_blocks_4_1", 64)])), "another base model, though 1 "),
    "SD2": (attention_of(1024, [("down_blocks_0_attentions_0", 32)]), "2, 1024.*another base model.*2.x"),
    "SD1.5 of full width": (attention_of(768, [("mid_block_attentions_0", 1280)]), "none fits this model.*1.x"),
    "Flux": (
        {f"lora_unet_double_blocks_0_img_attn_qkv.lora_{p}.weight": torch.ones(8, 8) for p in ("up", "down")},
        "none fits this model.*Flux",
    ),
    "ModelScope": (
        {
            f"base_model.model.down_blocks.0.{n}.transformer_blocks.0.attn2.to_k.lora_{p}.weight": torch.ones(s)
            for n, inner in (("attentions.0", 1024), ("temp_attentions.0", 320))
            for p, s in (("A", (4, inner)), ("B", (320, 4)))
        },
        "none fits this model.*ModelScope",
    ),
}


@pytest.mark.parametrize("motion", [False, True], ids=["plain", "motion"])
@pytest.mark.parametrize(("tensors", "message"), OTHER_BASES.values(), ids=OTHER_BASES)
def test_loras_of_another_base(sd15, animate, apply, lora, motion, tensors, message):
    with pytest.raises(ValueError, match=f"(?s)lora.safetensors: got .*{message}") as error:
        apply(animate() if motion else sd15, lora(tensors))
    assert len(str(error.value)) < 1500 and "allowed: a LoRA for Stable Diffusion 1.5" in str(error.value)


def test_settings_of_another_rank(animate, apply, lora):
    with pytest.raises(ValueError, match="rank 4 for .*rank 16 in its adapter_config.json"):
        apply(animate(), lora(peft_tensors(TEMPORAL[:2]), "adapter_model.safetensors", alpha=16, rank=16))


@pytest.mark.parametrize("part", ["up", "down"])
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_broken_motion_layers(host, animate, lora, apply, part, kind):
    tensors = dict(zip(("up", "down"), peft_tensors(TEMPORAL[1:2]).items(), strict=True))
    name = lora(broken_files.broken(dict(tensors.values()), kind, tensors[part][0]), "broken.safetensors")
    error = host.pack("videolcm_core.files.errors").CheckpointError
    assert limited(lambda: apply(animate(), name), error, "broken.safetensors") is not None, "it was loaded"


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{", b"<html>"], ids=["empty", "cut", "a web page"])
def test_files_that_are_none(host, sd15, apply, content):
    (host.base / "models" / "loras" / "none.safetensors").write_bytes(content)
    error = host.pack("videolcm_core.files.errors").CheckpointError
    assert limited(lambda: apply(sd15, "none.safetensors"), error, "none.safetensors") is not None


UNET_CONFIG = {
    **{"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2]},
    **{"channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1},
    **{"transformer_depth_output": [1] * 9 + [0] * 3, "use_spatial_transformer": True, "legacy": False},
    **{"context_dim": 48, "use_linear_in_transformer": True, "use_temporal_attention": False, "adm_in_channels": None},
    **{"num_heads": 8, "num_head_channels": -1},
}
FLUX_CONFIG = {
    **{"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 16, "theta": 10000},
    **{"context_in_dim": 16, "hidden_size": 48, "mlp_ratio": 4.0, "num_heads": 3, "depth": 1, "depth_single_blocks": 1},
    **{"axes_dim": [4, 6, 6], "qkv_bias": True, "guidance_embed": False},
}
OTHER_MODELS = {
    "SD20": (UNET_CONFIG, "SD|BaseModel"),
    "SDXL": ({**UNET_CONFIG, "adm_in_channels": 2816, "num_classes": "sequential"}, "Stable Diffusion XL"),
    "Flux": (FLUX_CONFIG, "Flux"),
}


@pytest.mark.parametrize("family", OTHER_MODELS)
def test_models_of_another_family(host, apply, lora, family):
    import comfy.model_patcher
    from comfy import supported_models
    from comfy.ldm.flux.model import FluxParams

    config, name = OTHER_MODELS[family]
    if family == "Flux" and "txt_ids_dims" in FluxParams.__dataclass_fields__:  # of newer hosts
        config = {**config, "txt_ids_dims": []}
    settings = getattr(supported_models, family)(dict(config))
    settings.unet_config["dtype"] = torch.float32
    cpu = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(settings.get_model({}, device=cpu), cpu, cpu)
    with pytest.raises(ValueError, match=f"got a MODEL of .*{name}.*allowed: a MODEL of VideoLCM's loaders") as error:
        apply(model, lora(kohya_tensors(SPATIAL[:2])))
    assert "Use Load LoRA (Model)" in str(error.value)
