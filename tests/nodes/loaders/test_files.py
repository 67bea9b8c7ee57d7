"""Files: what the loaders take, what they refuse and how they say so, what the host's savers make of our models."""

import json
import logging
import pickle
import zipfile
from types import SimpleNamespace

import pytest
import torch
from precision import assert_same

# From tests/nodes/conftest.py's METADATA.
KEEP = {"videolcm.prediction": "v", "videolcm.sampling": "lcm", "videolcm.head_dim": "64"}


def load(host, name, **options):
    settings = {"weight_dtype": "default", "sampling": "auto"} | options
    return host.run("VideoLCMModelLoader", model_name=name, **settings)[0]


def fails(host, node_id, words, **inputs):
    """The node raises an error that has all the words; returns its text."""
    with pytest.raises(Exception) as caught:
        host.run(node_id, **inputs)
    text = str(caught.value)
    for word in words:
        assert word.lower() in text.lower(), f"{word!r} is not in: {text}"
    return text


def test_plain_unet_file(host, write_model, unet_state_dict, model, prompt, latent, ksampler):
    plain = load(host, write_model("plain.safetensors", unet_state_dict, KEEP, "diffusion_models"))
    assert torch.equal(ksampler(plain, prompt("a dog"), latent()), ksampler(model, prompt("a dog"), latent()))


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "module"])
def test_authors_pickles(host, unet_state_dict, model, prompt, latent, ksampler, wrap, caplog):
    tensors = {f"module.{k}" if wrap == "module" else k: v for k, v in unet_state_dict.items()}
    path = host.base / "models" / "videolcm" / f"{wrap}.pth"
    torch.save({"state_dict": tensors, "step": 7} if wrap == "state_dict" else tensors, path)
    with caplog.at_level(logging.WARNING):
        loaded = load(host, path.name)
    assert "says nothing about its prediction type; taking 'videolcm'" in caplog.text
    assert torch.equal(ksampler(loaded, prompt("a dog"), latent()), ksampler(model, prompt("a dog"), latent()))


def test_four_channel_files_predict_noise_by_default(host, write_model, unet_state_dict, prompt, latent):
    four = {**unet_state_dict, "input_blocks.0.0.weight": unet_state_dict["input_blocks.0.0.weight"][:, :4]}
    loaded = load(host, write_model("modelscope.safetensors", four, None))
    options = loaded.get_model_object("model_sampling").options
    assert (options.prediction, options.zero_terminal_snr, options.distilled) == ("eps", False, False)
    out = host.run(
        "KSampler",
        model=loaded,
        positive=prompt("a dog"),
        negative=prompt(""),
        latent_image=latent(),
        seed=1,
        steps=2,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )[0]["samples"]
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("choice", "prediction", "distilled"), [("videolcm", "v", True), ("teacher", "v", False), ("eps", "eps", False)]
)
def test_sampling_can_be_chosen_by_hand(host, write_model, unet_state_dict, choice, prediction, distilled):
    options = (
        load(host, write_model("plain.safetensors", unet_state_dict, KEEP), sampling=choice)
        .get_model_object("model_sampling")
        .options
    )
    assert (options.prediction, options.distilled) == (prediction, distilled)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8_e4m3fn", "fp8_e5m2"])
def test_weight_dtypes(host, write_model, unet_state_dict, model, prompt, latent, ksampler, dtype):
    loaded = load(host, write_model("plain.safetensors", unet_state_dict, KEEP), weight_dtype=dtype)
    stored = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
    weights = loaded.model.diffusion_model.time_embed[0].weight.dtype
    assert weights == stored or (stored is None and weights.itemsize == 1)
    out, base = ksampler(loaded, prompt("a dog"), latent()), ksampler(model, prompt("a dog"), latent())
    assert out.isfinite().all()
    error = ((out - base).norm() / base.norm()).item()
    print(f"{dtype}: relative error {error:.1e}")
    # Random weights are the worst case for rounding.
    assert error < {"fp32": 1e-6, "fp16": 0.01, "bf16": 0.05}.get(dtype, 1.0)


def test_half_precision_files(host, write_model, unet_state_dict, model, prompt, latent, ksampler):
    """The recipe's weights are exact in float16, so only the storage differs."""
    half = {k: v.half() for k, v in unet_state_dict.items()}
    loaded = load(host, write_model("half.safetensors", half, KEEP))
    assert torch.equal(ksampler(loaded, prompt("a dog"), latent()), ksampler(model, prompt("a dog"), latent()))


def newest(folder):
    return max(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def test_model_save_and_reload(host, teacher, checkpoint, prompt, latent, ksampler):
    """Core's savers drop metadata; the settings come back all the same."""
    host.run("ModelSave", model=teacher, filename_prefix="diffusion_models/saved")
    saved = newest(host.base / "output")
    target = host.base / "models" / "diffusion_models" / "saved.safetensors"
    target.parent.mkdir(exist_ok=True)
    saved.rename(target)
    loaded = load(host, target.name)
    assert loaded.get_model_object("model_sampling").options == teacher.get_model_object("model_sampling").options
    assert loaded.model.latent_format.latent_rgb_factors == teacher.model.latent_format.latent_rgb_factors
    run = {"sampler_name": "euler", "scheduler": "normal"}
    assert torch.equal(
        ksampler(loaded, prompt("a dog"), latent(), **run), ksampler(teacher, prompt("a dog"), latent(), **run)
    )


def test_checkpoint_save_and_reload(host, checkpoint, prompt, latent, ksampler):
    model, clip, vae = checkpoint
    host.run("CheckpointSave", model=model, clip=clip, vae=vae, filename_prefix="checkpoints/saved")
    target = host.base / "models" / "checkpoints" / "saved.safetensors"
    target.parent.mkdir(exist_ok=True)
    newest(host.base / "output").rename(target)
    again = host.run("VideoLCMCheckpointLoader", ckpt_name=target.name)
    text = host.run("CLIPTextEncode", clip=again[1], text="a dog")[0]
    assert torch.equal(text[0][0], prompt("a dog")[0][0])
    samples = ksampler(again[0], text, latent())
    assert torch.equal(samples, ksampler(model, prompt("a dog"), latent()))
    images = [host.run("VAEDecode", samples={"samples": samples}, vae=v)[0] for v in (again[2], vae)]
    assert torch.equal(*images)


SAMPLING = {
    "prediction": "x_0",
    "zsnr": False,
    "original_steps": 30,
    "beta_schedule": "linear",
    "timestep_scaling": 4.0,
}


def options_of(model):
    return model.get_model_object("model_sampling").options


def save(host, model, clip=None, vae=None):
    """Written by core's node; the name as a loader's list has it."""
    kind = "diffusion_models" if clip is None else "checkpoints"
    node, more = ("ModelSave", {}) if clip is None else ("CheckpointSave", {"clip": clip, "vae": vae})
    host.run(node, model=model, filename_prefix=f"{kind}/patched", **more)
    saved = newest(host.base / "output")
    target = host.base / "models" / kind / f"patched-{saved.stat().st_mtime_ns}.safetensors"
    target.parent.mkdir(exist_ok=True)
    saved.rename(target)
    return target.name


@pytest.mark.parametrize("whole", [False, True], ids=["ModelSave", "CheckpointSave"])
def test_a_saved_model_keeps_the_sampling_that_a_node_gave_it(host, checkpoint, prompt, latent, ksampler, whole):
    model, *parts = checkpoint
    patched = host.run("VideoLCMSampling", model=model, **SAMPLING)[0]
    ours = host.pack("nodes.model.model_sampling").SamplingOptions
    wanted = ours(
        prediction="x_0", zero_terminal_snr=False, original_steps=30, beta_schedule="linear", timestep_scaling=4.0
    )

    def again(saved):
        name = save(host, saved, *(parts if whole else ()))
        return host.run("VideoLCMCheckpointLoader", ckpt_name=name)[0] if whole else load(host, name)

    # Before and after one another, for the host keeps one network for the copies of a MODEL.
    for saved, options in ((patched, wanted), (model, options_of(model)), (patched, wanted)):
        loaded = again(saved)
        assert options_of(loaded) == options
        assert torch.equal(ksampler(loaded, prompt("a dog"), latent()), ksampler(saved, prompt("a dog"), latent()))
    assert options_of(again(again(patched))) == wanted
    assert options_of(model) == ours()


@pytest.mark.parametrize("sampling", ["eps", "v_prediction", "lcm", "x0"])
@pytest.mark.parametrize("zsnr", [True, False])
def test_a_saved_model_keeps_the_sampling_that_cores_node_gave_it(host, model, sampling, zsnr):
    patched = host.run("ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=zsnr)[0]
    loaded = load(host, save(host, patched))
    options = options_of(loaded)
    prediction = {"v_prediction": "v", "x0": "x_0"}.get(sampling, "eps")
    assert (options.prediction, options.zero_terminal_snr) == (prediction, zsnr)
    assert options.distilled == (sampling == "lcm")
    theirs, ours = (m.get_model_object("model_sampling") for m in (patched, loaded))
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-2, atol=0)
    output, x = (torch.randn(1, 4, 2, 2, generator=torch.manual_seed(n)) for n in (0, 1))
    for sigma in theirs.sigmas[[0, len(theirs.sigmas) // 2, -2]]:
        found, expected = (s.calculate_denoised(sigma[None], output, x * sigma) for s in (ours, theirs))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(sigma))


@pytest.mark.parametrize("sampling", ["img_to_img", "img_to_img_flow"])
def test_sampling_that_a_file_cannot_say_is_warned_of(host, model, sampling, caplog):
    patched = host.run("ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=False)[0]
    with caplog.at_level(logging.WARNING):
        loaded = load(host, save(host, patched))
    assert options_of(loaded) == options_of(model)
    assert "which a VideoLCM file cannot say" in caplog.text


def test_a_saved_model_claims_no_more_than_its_file_did(host, write_model, unet_state_dict):
    """Sizes and family of an unlabelled file are guesses; they must not come back as facts."""
    marker = host.pack("videolcm_core.files.marker")
    loaded = load(host, write_model("unlabelled.safetensors", unet_state_dict, {"videolcm.note": "mine"}))
    name = save(host, loaded)
    from safetensors.torch import load_file

    entries = marker.own_metadata(load_file(host.base / "models" / "diffusion_models" / name), {}, name)
    sampling = host.pack("videolcm_core.files.settings").SAMPLING_ENTRIES
    assert set(entries) == {f"videolcm.{name}" for name in sampling | {"head_dim", "note"}}


def test_the_trainer_reads_a_file_that_the_host_saved(host, teacher):
    """ComfyUI keeps no metadata: the settings are in a tensor, for every reader of the file."""
    from training.teachers import load_teacher

    patched = host.run("VideoLCMSampling", model=teacher, **SAMPLING)[0]
    folder = host.base / "models" / "diffusion_models"
    with pytest.raises(ValueError, match="got a consistency student"):  # what that node makes of any MODEL
        load_teacher(folder / save(host, patched))
    settings = load_teacher(folder / save(host, patched), student=True).settings
    assert (settings.prediction, settings.original_steps, settings.timestep_scaling) == ("x_0", 30, 4)
    assert settings.family == "tiny" and not settings.zero_terminal_snr


def test_settings_without_metadata_have_defaults(host, checkpoint_tensors, write_model, caplog):
    """Other tools drop both metadata and marker: sizes come from the tensors, the rest is stated in the log."""
    with caplog.at_level(logging.WARNING):
        model, clip, *_ = host.run(
            "VideoLCMCheckpointLoader", ckpt_name=write_model("bare.safetensors", checkpoint_tensors, None)
        )
    assert "says nothing about its prediction type" in caplog.text
    assert model.get_model_object("model_sampling").options == host.pack("nodes.model.model_sampling").SamplingOptions()
    assert host.run("CLIPTextEncode", clip=clip, text="a dog")[0][0][0].shape == (1, 77, 32)


def test_text_encoder_equals_the_core_one(host, checkpoint, checkpoint_tensors, prompt):
    """The host's CLIP with the expanded table computes what training's encoder computes with the compact one."""
    text_encoder = host.pack("videolcm_core.networks.text_encoder")
    tensors = {
        k[len("cond_stage_model.") :]: v for k, v in checkpoint_tensors.items() if k.startswith("cond_stage_model.")
    }
    words = tensors["vocabulary"]
    from safetensors import safe_open

    with safe_open(host.base / "models" / "videolcm" / "tiny.safetensors", "pt") as file:
        config = json.loads(file.metadata()["videolcm.text_config"])
    encoder = text_encoder.TextEncoder(words, text_encoder.TextConfig(**config))
    encoder.load_state_dict(tensors)
    for text in ("", "a dog", "a dog and a zebra"):
        ids = torch.tensor([[t for t, _ in checkpoint[1].tokenize(text)["l"][0]]])
        assert_same(lambda ids=ids: encoder(ids), lambda text=text: prompt(text)[0][0])


def test_list_shows_every_folder(host, write_model, unet_state_dict, checkpoint_tensors):
    """The pack's own folder, `videolcm` and `diffusion_models`; `extra_model_paths.yaml` adds to the same lists."""
    import folder_paths

    write_model("in_own.safetensors", {"x": torch.zeros(1)}, None)
    write_model("in_unets.safetensors", {"x": torch.zeros(1)}, None, "diffusion_models")
    extra = host.base / "elsewhere"
    extra.mkdir(exist_ok=True)
    (extra / "in_extra.safetensors").touch()
    (extra / "README.md").touch()
    folder_paths.add_model_folder_path("videolcm", str(extra))
    options = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMModelLoader"].INPUT_TYPES()["required"]["model_name"][1][
        "options"
    ]
    assert {"in_own.safetensors", "in_unets.safetensors", "in_extra.safetensors"} <= set(options)
    assert "README.md" not in options
    assert host.pack("nodes.host").model_path("in_extra.safetensors", "videolcm") == str(extra / "in_extra.safetensors")


def test_annotators_are_not_among_the_models(host):
    """They lie in a sub-folder of the embedded models, and have a folder name of their own."""
    files = host.pack("nodes.host").model_files
    assert files("videolcm_annotators") and "videolcm-mini.safetensors" not in files("videolcm_annotators")
    for folders in (("videolcm", "checkpoints"), ("diffusion_models", "videolcm")):
        assert "videolcm-mini.safetensors" in files(*folders)
        assert not [name for name in files(*folders) if "annotators" in name or "depth" in name]


def test_a_changed_file_is_loaded_again(host, write_model, unet_state_dict):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMModelLoader"]
    inputs = {
        "model_name": write_model("again.safetensors", unet_state_dict, KEEP),
        "weight_dtype": "default",
        "sampling": "auto",
    }
    first = node.fingerprint_inputs(**inputs)
    assert first == node.fingerprint_inputs(**inputs)
    write_model("again.safetensors", {k: v.half() for k, v in unet_state_dict.items()}, KEEP)
    assert first != node.fingerprint_inputs(**inputs)


LOADERS = [("VideoLCMCheckpointLoader", "ckpt_name"), ("VideoLCMModelLoader", "model_name")]


def inputs(loader, name):
    node_id, key = loader
    extra = {} if key == "ckpt_name" else {"weight_dtype": "default", "sampling": "auto"}
    return dict(node_id=node_id, **{key: name}, **extra)


@pytest.mark.parametrize("loader", LOADERS)
def test_missing_file(host, loader):
    fails(
        host,
        words=["nowhere.safetensors", "no such model file", "models/videolcm"],
        **inputs(loader, "nowhere.safetensors"),
    )


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_file(host, unet_state_dict, write_model, loader, suffix, damage):
    path = host.base / "models" / "videolcm" / f"{damage}.{suffix}"
    if damage == "truncated":
        if suffix == "pth":
            torch.save(unet_state_dict, path)
        else:
            write_model(path.name, unet_state_dict)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(b"" if damage == "empty" else b"<!DOCTYPE html> 404 not found " * 40)
    fails(host, words=[path.name], **inputs(loader, path.name))


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", ["legacy", "zip"])
def test_pickle_with_code_is_refused(host, loader, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = host.base / "models" / "videolcm" / f"evil-{kind}.pth"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Evil()}))
            archive.writestr("archive/version", "3")
    else:
        path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    fails(host, words=[path.name], **inputs(loader, path.name))
    assert not (tmp_path / "pwned").exists()


FAMILIES: dict[str, dict[str, tuple[int, ...]]] = {
    "sd15": {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    },
    "sd2": {
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    },
    "sdxl": {
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    },
    "wan": {"blocks.0.self_attn.q.weight": (16, 16), "patch_embedding.weight": (16, 16, 1, 2, 2)},
    "lora": {"lora_unet_down_blocks_0.lora_up.weight": (8, 4)},
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_refused(host, write_model, loader, family):
    tensors = {key: torch.zeros(shape) for key, shape in FAMILIES[family].items()}
    name = write_model(f"{family}.safetensors", tensors, None)
    fails(host, words=[name], **inputs(loader, name))


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "nan"])
def test_wrong_tensors_are_named(host, write_model, unet_state_dict, change):
    tensors, key = dict(unet_state_dict), "middle_block.0.in_layers.2.weight"
    if change == "missing":
        del tensors[key]
    elif change == "unexpected":
        key = "output_blocks.0.0.strange.weight"
        tensors[key] = torch.zeros(3)
    elif change == "shape":
        tensors[key] = tensors[key][:-1]
    else:
        tensors[key] = torch.full_like(tensors[key], float("nan"))
    name = write_model(f"{change}.safetensors", tensors, KEEP)
    fails(host, "VideoLCMModelLoader", [name, key], model_name=name, weight_dtype="default", sampling="auto")


def test_all_in_one_without_its_parts_says_where_to_go(host, write_model, unet_state_dict):
    name = write_model(
        "unet_only.safetensors", {f"model.diffusion_model.{k}": v for k, v in unet_state_dict.items()}, KEEP
    )
    fails(host, "VideoLCMCheckpointLoader", [name, "cond_stage_model", "Load VideoLCM Model"], ckpt_name=name)


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("vae", "first_stage_model.taesd_decoder.3.conv.0.weight"),
        ("text", "cond_stage_model.transformer.text_model.final_layer_norm.weight"),
    ],
)
def test_incomplete_parts_are_refused(host, write_model, checkpoint_tensors, part, key):
    tensors = {k: v for k, v in checkpoint_tensors.items() if k != key}
    name = write_model(f"without-{part}.safetensors", tensors)
    fails(host, "VideoLCMCheckpointLoader", [name, key], ckpt_name=name)


def test_unreadable_metadata_is_named(host, write_model, unet_state_dict):
    name = write_model("meta.safetensors", unet_state_dict, {**KEEP, "videolcm.prediction": "flow"})
    fails(
        host,
        "VideoLCMModelLoader",
        [name, "flow", "v, eps, x_0"],
        model_name=name,
        weight_dtype="default",
        sampling="auto",
    )


def test_loaders_say_what_the_model_was_trained_on_and_the_latent_takes_it(host):
    """Five nodes with their defaults used to draw 448 x 256 with a model of 64 x 64."""
    model, _, _, *size = host.run("VideoLCMCheckpointLoader", ckpt_name="videolcm-mini.safetensors")
    assert size == [64, 64, 16, 8.0]
    latent = host.run("VideoLCMEmptyLatent", width=448, height=256, frames=48, model=model)[0]["samples"]
    assert latent.shape == (16, 4, 8, 8)
    by_hand = host.run("VideoLCMEmptyLatent", width=448, height=256, frames=48)[0]["samples"]
    assert by_hand.shape == (48, 4, 32, 56)


@pytest.mark.parametrize("node_id", ["VideoLCMEmptyLatent", "VideoLCMPrepareFrames"])
def test_sizes_begin_at_those_of_the_model_that_ships(host, node_id):
    _, _, _, width, height, frames, _ = host.run("VideoLCMCheckpointLoader", ckpt_name="videolcm-mini.safetensors")
    inputs = {i.id: i for i in host.nodes.NODE_CLASS_MAPPINGS[node_id].define_schema().inputs}
    assert (inputs["width"].default, inputs["height"].default, inputs["frames"].default) == (width, height, frames)


def test_the_size_of_another_familys_model_is_refused(host):
    other = SimpleNamespace(model=SimpleNamespace(model_config=SimpleNamespace()))
    with pytest.raises(ValueError, match="does not say what videos it was trained on.*set the size by hand"):
        host.run("VideoLCMEmptyLatent", width=64, height=64, frames=16, model=other)
