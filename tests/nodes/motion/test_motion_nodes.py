"""Load and Apply Motion Module, and Apply AnimateLCM First Frame: what they set, what they say, what they refuse."""

import pytest
import torch
from precision import assert_differ
from windows import context_windows

RUN = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "lcm", "scheduler": "simple", "denoise": 1.0}


@pytest.fixture
def told(host, monkeypatch):
    """What the nodes tell the page."""
    messages = []
    monkeypatch.setattr(host.pack("nodes.host"), "tell", lambda *texts: messages.extend(texts))
    return messages


@pytest.fixture
def text():
    return [[torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(1)), {}]]


@pytest.fixture
def queue(host, text):
    """``queue(model, frames=8)``: core's KSampler on an empty latent."""

    def run(model, frames=8, latent=None, positive=text, **options):
        samples = torch.zeros(frames, 4, 8, 8) if latent is None else latent
        inputs = {"positive": positive, "negative": positive, "latent_image": {"samples": samples}}
        return host.run("KSampler", model=model, **{**inputs, **RUN, **options})[0]["samples"]

    return run


@pytest.mark.parametrize(
    ("sampling", "distilled", "beta_schedule", "original_steps"),
    [
        ("auto", True, "linear", 100),
        ("animatelcm", True, "linear", 100),
        ("animatelcm-50", True, "linear", 50),
        ("animatelcm-i2v", True, "linear", 200),
        ("animatediff-evolved", True, "scaled_linear", 50),
        ("mcm-animatediff", True, "linear", 50),
        ("animatediff", False, "linear", None),
    ],
)
def test_presets(animate, sampling, distilled, beta_schedule, original_steps):
    options = animate(sampling=sampling).get_model_object("model_sampling").options
    assert (options.prediction, options.zero_terminal_snr, options.distilled) == ("eps", False, distilled)
    assert options.beta_schedule == beta_schedule and original_steps in (None, options.original_steps)


def test_keeping_the_models_own_sampling(animate, sd15):
    assert "model_sampling" not in set(animate(sampling="keep the MODEL's").object_patches) - set(sd15.object_patches)


def test_plain_animatediff_is_a_teacher(host, animate, golden_weights, write_model):
    """AnimateDiff's files bring positions along."""
    name = write_model("mm_sd_v15_v2.safetensors", with_positions(golden_weights("motion"), 32), None)
    module = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="default")[0]
    assert not animate(motion_module=module).get_model_object("model_sampling").options.distilled


def test_adapters_that_do_not_tell_what_they_are(host, animate, golden_weights, write_model, told):
    keymaps = host.pack("videolcm_core.families.animatediff.keymaps")
    tensors = keymaps.motion_to_diffusers(golden_weights("motion"))
    name = write_model("diffusion_pytorch_model.safetensors", tensors, None)
    module = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="default")[0]
    model = animate(motion_module=module)
    assert model.get_model_object("model_sampling").options.original_steps == 100
    assert "does not tell whether it is AnimateLCM or AnimateDiff v2" in told[0]
    assert host.pack("nodes.motion.patch").motion_of(model).group_norm == "video"


def with_positions(tensors, count):
    tables = {}
    for key, value in tensors.items():
        if key.endswith("to_q.weight"):
            name = key.replace("to_q.weight", "pos_encoder.pe")
            tables[name] = torch.randn(1, count, value.shape[1], generator=torch.Generator().manual_seed(1)) / 10
    return {**tensors, **tables}


@pytest.mark.parametrize("folder", ["animatediff_models", "videolcm"])
def test_files_are_found_where_users_have_them(host, golden_weights, write_model, folder):
    name = write_model(f"in-{folder}.safetensors", golden_weights("motion"), None, folder=folder)
    schema = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMMotionLoader"].define_schema()
    assert name in next(i for i in schema.inputs if i.id == "motion_name").options
    assert host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="default")


def test_positions_limit_the_frames(host, animate, golden_weights, write_model, queue):
    name = write_model("short-positions.safetensors", with_positions(golden_weights("motion"), 12), None)
    module = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="default")[0]
    model = animate(motion_module=module, sampling="animatelcm")
    assert queue(model, 12).shape[0] == 12
    windowed = context_windows(host, model, 8, 2)
    assert queue(windowed, 20).shape[0] == 20
    with pytest.raises(ValueError, match="13 frames at once, but short-positions.* has positions for 12.*Context Wind"):
        queue(model, 13)


@pytest.mark.parametrize(
    ("latent", "expected"),
    [
        (torch.ones(8, 16, 8, 8), "allowed with motion modules"),
        (torch.zeros(1, 4, 8, 8, 8), "allowed with motion modules"),
        (torch.zeros(0, 4, 8, 8), "each at least 1"),
    ],
)
def test_latents_of_other_models(animate, queue, latent, expected):
    with pytest.raises(ValueError, match=expected):
        queue(animate(), latent=latent)


def test_text_of_another_model(animate, queue):
    with pytest.raises(ValueError, match="prompt is 2048 wide; allowed: 48.*use the CLIP of this checkpoint"):
        queue(animate(), positive=[[torch.zeros(1, 7, 2048), {}]])


def test_models_that_are_not_sd15(host, animate, model, sd15, motion_module, golden_weights, write_model):
    with pytest.raises(ValueError, match="got a VideoLCMModel MODEL; allowed: Stable Diffusion 1.5"):
        animate(model=model)
    wide = {key: torch.cat([value] * 2) for key, value in golden_weights("motion").items()}
    wide = {key: torch.cat([value] * 2, 1) if value.ndim == 2 else value for key, value in wide.items()}
    name = write_model("wider-motion.safetensors", wide, None)
    module = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="default")[0]
    with pytest.raises(
        ValueError, match=r"levels of \[32, 64, 128, 128\] channels, the file has \[64, 128, 256, 256\]"
    ):
        animate(motion_module=module)


def test_files_of_the_other_loader(host, golden_weights, write_model):
    motion = write_model("motion-as-checkpoint.safetensors", golden_weights("motion"), None)
    with pytest.raises(ValueError, match="an AnimateDiff or AnimateLCM motion module"):
        host.run("VideoLCMCheckpointLoader", ckpt_name=motion)
    with pytest.raises(ValueError, match="a UNet of images; allowed: motion modules"):
        host.run("VideoLCMMotionLoader", motion_name="sd15-narrow.safetensors", weight_dtype="default")


def test_inpainting_checkpoints(host, animate, golden_weights, write_model, queue):
    """Nine channels: core's own inpainting conditions go on working."""
    weights = golden_weights("unet")
    stem = "model.diffusion_model.input_blocks.0.0.weight"
    weights[stem] = torch.cat([weights[stem], weights[stem], weights[stem][:, :1]], 1)
    name = write_model("sd15-inpainting.safetensors", weights, None)
    model = host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]
    out = queue(animate(model=model))
    assert out.shape == (8, 4, 8, 8) and out.isfinite().all()


@pytest.mark.parametrize(
    ("frames", "options", "expected"),
    [
        (1, {}, "one frame"),
        (5, {}, "the latent has 5 frames; motion modules need about 16"),
        (8, {"sampler_name": "euler"}, "needs lcm"),
        (8, {"scheduler": "karras", "steps": 4}, "leaves the grid"),
        (8, {"cfg": 7.0}, "cfg is 7"),
        (8, {}, "without a LoRA on the MODEL"),
    ],
)
def test_doubts_are_told(animate, queue, told, frames, options, expected):
    assert queue(animate(), frames, **options).isfinite().all()
    assert len(told) == 1 and expected in told[0]


def test_a_usual_run_is_told_nothing(host, animate, queue, told, golden_weights, write_model):
    name = write_model("narrow-lora.safetensors", golden_weights("lcm_lora"), None, folder="loras")
    with_lora = host.run("LoraLoaderModelOnly", model=animate(), lora_name=name, strength_model=0.8)[0]
    queue(with_lora, 16, steps=4, cfg=1.5)
    assert told == []


def test_another_module_takes_the_place_of_the_first(animate, told, i2v_module, motion_of):
    twice = animate(model=animate(), motion_module=i2v_module)
    assert motion_of(twice).network is i2v_module.network
    assert "takes its place" in told[0]
    assert len(twice.model_options["transformer_options"]["patches"]["forward_timestep_embed_patch"]) == 1


def test_empty_latent_of_the_modules_size(host, animate):
    latent = host.run("VideoLCMEmptyLatent", model=animate(), width=64, height=64, frames=8)[0]
    assert latent["samples"].shape == (16, 4, 64, 64)


@pytest.fixture
def first_frame(host, animate, i2v_module, sd15_checkpoint):
    """``first_frame(**inputs)`` -> the MODEL with an image."""
    image = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(3))
    usual = {
        "model": animate(motion_module=i2v_module),
        "image": image,
        "vae": sd15_checkpoint[2],
        "latent": {"samples": torch.zeros(8, 4, 8, 8)},
        "strength": 1.0,
        "motion_scale": 0.8,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    return lambda **inputs: host.run("VideoLCMFirstFrame", **usual | inputs)[0]


def test_the_image_its_strength_and_its_drift_matter(animate, i2v_module, first_frame, queue):
    base, without = queue(first_frame()), queue(animate(motion_module=i2v_module))
    assert not torch.equal(base, without)
    assert torch.equal(queue(first_frame(strength=0.0)), without)
    for inputs in ({"strength": 0.5}, {"motion_scale": 0.0}, {"image": torch.zeros(1, 64, 64, 3)}):
        assert_differ(lambda: queue(first_frame()), queue(first_frame(**inputs)))
    assert torch.equal(queue(first_frame()), base)  # nothing is kept from one run to the next


def test_the_image_acts_on_a_part_of_the_run(first_frame, queue, animate, i2v_module):
    options = {"steps": 2}
    whole, none = queue(first_frame(), **options), queue(animate(motion_module=i2v_module), **options)
    early, late = queue(first_frame(end_percent=0.3), **options), queue(first_frame(start_percent=0.3), **options)
    results = [whole, none, early, late]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_the_image_is_encoded_once_a_run(first_frame, queue, monkeypatch, i2v_module):
    model, calls = first_frame(), []
    kind = type(i2v_module.network.img_encoder)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    queue(model, steps=4, cfg=1.5)
    assert calls == [1]


def test_an_image_for_each_frame(first_frame, queue):
    images = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    base = queue(first_frame(image=images))
    assert not torch.equal(base, queue(first_frame(image=images[:1])))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"start_percent": 0.8, "end_percent": 0.2}, "start not after end"),
        ({"latent": {"samples": torch.zeros(0, 4, 8, 8)}}, "each at least 1"),
        ({"image": torch.full((1, 64, 64, 3), float("nan"))}, "not numbers"),
        ({"image": torch.zeros(0, 64, 64, 3)}, "no frame"),
    ],
)
def test_refusals_of_the_first_frame(first_frame, inputs, expected):
    with pytest.raises(ValueError, match=expected):
        first_frame(**inputs)


def test_an_image_needs_an_encoder_and_the_size_of_the_video(animate, sd15, first_frame, queue):
    with pytest.raises(ValueError, match="no image encoder; allowed: AnimateLCM's image-to-video modules"):
        first_frame(model=animate())
    with pytest.raises(ValueError, match="no motion modules; allowed"):
        first_frame(model=sd15)
    with pytest.raises(ValueError, match="encoded for 128 x 64 pixels and the video has 64 x 64"):
        queue(first_frame(latent={"samples": torch.zeros(8, 4, 8, 16)}))
