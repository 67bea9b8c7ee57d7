"""What core's features make of a MODEL with motion modules: each keeps working."""

import pytest
import torch
from precision import UNIT, assert_differ, assert_same, assert_within, without_rounding
from safetensors.torch import load_file
from videos import frames_first
from windows import context_windows

ALL = 21


@pytest.fixture
def run(sample):
    """``run(model, inputs, **options)``: one or two steps of core's sampler."""

    def one(model, inputs, **options):
        given = {"steps": 1, **inputs, **options}
        return sample(model, **{key: value for key, value in given.items() if key != "negative" or "cfg" in given})

    return one


def test_models_of_one_checkpoint_do_not_touch_each_other(animate, sd15, run, video, host, golden_weights, write_model):
    inputs = video()
    other_weights = {
        key: value.flip(0) if value.ndim == 2 else value for key, value in golden_weights("motion").items()
    }
    name = write_model("other-motion.safetensors", other_weights, None)
    other = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype="fp32")[0]
    plain, first, second = (run(model, inputs) for model in (sd15, animate(), animate(motion_module=other)))
    assert not torch.equal(first, second) and not torch.equal(first, plain)
    a, b = animate(), animate(motion_module=other)
    for model, expected in ((a, first), (b, second), (a.clone().clone(), first), (sd15, plain), (a, first)):
        assert torch.equal(run(model, inputs), expected)


def test_the_checkpoint_is_as_before_once_another_model_is_loaded(animate, sd15, load):
    keys = list(sd15.model.diffusion_model.state_dict())
    model = animate()
    load(model)
    blocks = sd15.model.diffusion_model
    assert list(blocks.state_dict()) == keys  # slots have no weights and rename nothing
    assert any("videolcm_motion" in dict(block.named_children()) for block in blocks.input_blocks)
    load(sd15)
    assert not any("videolcm_motion" in dict(block.named_children()) for block in blocks.input_blocks)


@pytest.mark.parametrize("order", ["before", "after"])
def test_lora_of_the_checkpoint(host, animate, sd15, run, video, order, write_lora):
    """Core's own LoRA loader, before or after the motion modules, changes the same weights."""
    import nodes

    name, inputs = write_lora(), video()
    loader = nodes.LoraLoaderModelOnly()
    if order == "before":
        model = animate(model=loader.load_lora_model_only(sd15, name, 0.8)[0])
    else:
        model = loader.load_lora_model_only(animate(), name, 0.8)[0]
    assert len(model.patches) == 278
    with_lora = run(model, inputs)
    assert not torch.equal(with_lora, run(animate(), inputs))
    assert torch.equal(with_lora, run(animate(model=loader.load_lora_model_only(sd15, name, 0.8)[0]), inputs))


@pytest.fixture
def write_lora(golden_weights, write_model):
    """AnimateLCM's spatial LoRA in kohya's names, for every layer of the UNet that core knows."""
    return lambda: write_model("narrow-lora.safetensors", golden_weights("lcm_lora"), None, folder="loras")


@pytest.fixture(params=["ControlNet"])
def controlnet(host, request):
    """Core's ControlNet or T2I adapter of the narrow UNet's width, with random weights."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops
    import comfy.t2i_adapter.adapter

    if request.param == "T2I adapter":
        network = comfy.t2i_adapter.adapter.Adapter(
            cin=3 * 64, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False
        )
        fill(network)
        return comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device=torch.device("cpu"))
    network = comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=32,
        hint_channels=3,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        context_dim=48,
        operations=comfy.ops.manual_cast,
    )
    fill(network)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def fill(network):
    """Random weights of unit gain: a new ControlNet ends in zeros."""
    generator = torch.Generator().manual_seed(4)
    for value in network.train(False).state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5)


def apply_control(host, control, positive, hints, strength=1.0):
    return host.run(
        "ControlNetApplyAdvanced",
        positive=positive,
        negative=positive,
        control_net=control,
        image=hints,
        strength=strength,
        start_percent=0.0,
        end_percent=1.0,
    )[0]


def hints_of(frames, seed=5):
    return torch.rand(frames, 64, 96, 3, generator=torch.Generator().manual_seed(seed))


def test_control_hints_follow_their_frames(host, animate, controlnet, run, video, ran):
    inputs, hints, model = video(), hints_of(8), animate()
    seen = ran(model)
    with_hints = run(model, {**inputs, "positive": apply_control(host, controlnet, inputs["positive"], hints)})
    assert len(seen) == ALL  # none inside the ControlNet
    other = hints.clone()
    other[3] = 1 - other[3]
    changed = run(model, {**inputs, "positive": apply_control(host, controlnet, inputs["positive"], other)})
    assert not torch.equal(with_hints, changed) and not torch.equal(with_hints, run(model, inputs))


def weights_of(length):
    """Core's pyramid."""
    rise = list(range(1, length // 2 + 1))
    return torch.tensor([*rise, *([] if length % 2 == 0 else [length // 2 + 1]), *reversed(rise)], dtype=torch.float32)


def joined(parts, starts, frames):
    """The weighted mean of windows."""
    total, weight = torch.zeros(frames, *parts[0].shape[1:]), torch.zeros(frames, 1, 1, 1)
    for part, start in zip(parts, starts, strict=True):
        w = weights_of(len(part))[:, None, None, None]
        total[start : start + len(part)] += w * part
        weight[start : start + len(part)] += w
    return total / weight


def cut(inputs, start, length):
    return {
        **inputs,
        "noise": inputs["noise"][:, :, start : start + length],
        "step_noise": [noise[:, :, start : start + length] for noise in inputs["step_noise"]],
    }


@pytest.mark.parametrize(
    ("controlnet", "control"),
    [("ControlNet", False), ("ControlNet", True), ("T2I adapter", True)],
    indirect=["controlnet"],
)
def test_context_windows_are_runs_of_their_frames(host, animate, controlnet, run, video, control):
    """Each window is a video of its own, and a ControlNet in it sees the hints of its frames."""
    model, inputs, hints = animate(), video(16), hints_of(16)

    def positive(start, stop):
        given = inputs["positive"]
        return apply_control(host, controlnet, given, hints[start:stop]) if control else given

    starts = (0, 4, 8)
    parts = [lambda s=s: run(model, {**cut(inputs, s, 8), "positive": positive(s, s + 8)}) for s in starts]
    assert_same(
        lambda: run(context_windows(host, model), {**inputs, "positive": positive(0, 16)}),
        lambda: joined([part() for part in parts], starts, 16),
    )


def test_windows_that_look_back_take_the_hints_of_that_frame_too(host, animate, controlnet, run, video):
    """The host's causal fix puts the frame before a window at its beginning."""
    inputs, hints = video(16), hints_of(16)
    model = context_windows(host, animate(), causal_window_fix=True)
    out = run(model, {**inputs, "positive": apply_control(host, controlnet, inputs["positive"], hints)})
    assert out.shape == (16, 4, 8, 12) and out.isfinite().all()


def test_noise_mask(animate, host, video, prompt_for_sd15):
    """What is not masked stays as it was given."""
    model = animate()
    base = torch.randn(8, 4, 8, 12, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(8, 8, 12)
    mask[:, :, 6:] = 1
    out = host.run(
        "KSampler",
        model=model,
        positive=prompt_for_sd15,
        negative=prompt_for_sd15,
        latent_image={"samples": base, "noise_mask": mask},
        seed=1,
        steps=2,
        cfg=1.0,
        sampler_name="lcm",
        scheduler="simple",
        denoise=1.0,
    )[0]["samples"]
    kept, drawn = (out - base)[..., :5].abs().max(), (out - base)[..., 7:].abs().max()
    assert kept < UNIT * 16 * base.abs().max() and drawn > 0.1  # the host scales, masks, adds and scales back


@pytest.fixture
def prompt_for_sd15(host, sd15_checkpoint):
    return host.run("CLIPTextEncode", clip=sd15_checkpoint[1], text="a dog")[0]


def test_attention_patches_meet_the_same_places(animate, sd15, run, video):
    """IP-Adapter's kind of patch: a replacement of cross-attention in every block."""
    inputs, places = video(), {"plain": [], "motion": []}

    def replaced(kind):
        def attend(q, k, v, options):
            import comfy.ldm.modules.attention as attention

            places[kind].append((options["block"], options["block_index"], options["transformer_index"]))
            return attention.optimized_attention(q, k, v, options["n_heads"])

        return attend

    results = {}
    for kind, model in (("plain", sd15), ("motion", animate())):
        patched = model.clone()
        for block in [("input", 1), ("input", 4), ("middle", 0), ("output", 3), ("output", 8)]:
            patched.set_model_attn2_replace(replaced(kind), *block)
        results[kind] = run(patched, inputs)
    assert places["plain"] == places["motion"] != []
    assert torch.equal(results["motion"], run(animate(), inputs))


def test_saved_models_are_the_checkpoints_own(host, animate, sd15, run, video):
    """Save Model writes the UNet alone, whose file takes the modules as the checkpoint did."""
    model, inputs = animate(), video()
    before = run(model, inputs)
    host.run("ModelSave", model=model, filename_prefix="diffusion_models/animated")
    path = next((host.base / "output" / "diffusion_models").glob("animated*.safetensors"))
    saved = load_file(path)
    own = {key for key in sd15.model_state_dict() if key.startswith("diffusion_model.")}
    assert {key.removeprefix("model.") for key in saved} == own
    (host.base / "models" / "videolcm" / "animated.safetensors").write_bytes(path.read_bytes())
    loaded = {"model_name": "animated.safetensors", "weight_dtype": "fp32", "sampling": "auto"}
    again = host.run("VideoLCMModelLoader", **loaded)[0]
    assert torch.equal(run(animate(model=again), inputs), before)


def test_previews_are_stable_diffusions(animate, monkeypatch):
    import comfy.cli_args
    import comfy.utils
    import latent_preview

    monkeypatch.setattr(comfy.cli_args.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: shown.append(preview))
    latent_preview.prepare_callback(animate(), 2)(0, torch.ones(8, 4, 8, 12), None, 2)
    assert shown[0][1].size == (12, 8)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp8_e4m3fn"])
def test_storage(host, animate, run, video, dtype):
    """Weights by recipe are exact in fp16, so there nothing may change; fewer bits change something."""
    name = "animatelcm-narrow.safetensors"
    stored = host.run("VideoLCMMotionLoader", motion_name=name, weight_dtype=dtype)[0]
    inputs = video()
    out, full = run(animate(motion_module=stored), inputs), run(animate(), inputs)
    kinds = {value.dtype for value in stored.network.parameters()}
    assert kinds == {host.pack("nodes.loaders.loading").WEIGHT_DTYPES[dtype]}
    assert out.isfinite().all() and torch.equal(out, full) == (dtype == "fp16")


def test_a_part_of_the_motion_weights_may_stay_off_the_device(animate, motion_of, predict, golden):
    """With room for a third of them the rest is cast layer by layer, to the same numbers."""
    recorded, model = golden("unet_forward_author"), animate()
    x = recorded["x_8"].repeat(2, 1, 1, 1, 1)
    full = predict(model, x, 999, recorded["context"])
    patcher = motion_of(model).patcher
    patcher.detach()
    patcher.load(torch.device("cpu"), lowvram_model_memory=patcher.model_size() // 3)
    assert patcher.model.model_lowvram and 0 < patcher.loaded_size() < patcher.model_size() / 2
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [0, 1]}
    context = recorded["context"].repeat_interleave(8, 0)
    unet, t = model.model.diffusion_model, torch.full((16,), 999.0)
    out = unet(frames_first(x), t, context, transformer_options=options)
    assert torch.equal(out.unflatten(0, (2, -1)).movedim(2, 1), full)
    patcher.detach()


def test_every_layer_of_the_modules_can_be_cast_on_the_fly(i2v_module):
    holders = [m for m in i2v_module.network.modules() if list(m.parameters(recurse=False))]
    assert len(holders) > 300 and all(hasattr(m, "comfy_cast_weights") for m in holders)


def test_copies_the_host_makes(i2v_module):
    function, arguments = i2v_module.patcher.cached_patcher_init[:2]
    theirs, ours = function(*arguments, disable_dynamic=True).model.state_dict(), i2v_module.network.state_dict()
    assert set(theirs) == set(ours) and all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_the_host_loads_and_counts_the_motion_weights(animate, motion_of, load):
    import comfy.model_management

    model = animate()
    comfy.model_management.unload_all_models()
    load(model)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert motion_of(model).patcher in loaded and model in loaded
    assert motion_of(model).patcher.model_size() > 10e6


def test_compiled(host, animate, run, video):
    """Core's helper compiles the whole UNet; the eager backend runs what was traced."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    inputs, model = video(), animate()
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert_within(run(compiled, inputs), without_rounding(lambda: run(model, inputs)))


def test_interrupt_stops_inside_the_modules(animate, run, video, monkeypatch, motion_of):
    import comfy.model_management

    model = animate()
    network = motion_of(model).network
    module = network.get_submodule(network.names()[2])
    forward = type(module).forward
    count = []

    def stop(self, *args, **kwargs):
        count.append(self)
        if len(count) == 3:
            comfy.model_management.interrupt_current_processing(True)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(module), "forward", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, video())
    assert len(count) == 3


def test_frames_do_see_each_other(animate, run, video):
    inputs = video()
    changed = {**inputs, "noise": inputs["noise"].clone()}
    changed["noise"][:, :, 7] += 1
    first, second = run(animate(), inputs), run(animate(), changed)
    assert not torch.equal(first[0], second[0])
    still = animate(scale=0.0)
    assert torch.equal(run(still, inputs)[0], run(still, changed)[0])


def test_group_norm_and_scale_matter(animate, run, video):
    inputs = video()
    base = run(animate(), inputs)
    for inputs_of_node in ({"group_norm": "video"}, {"scale": 0.5}):
        assert_differ(lambda: run(animate(), inputs), run(animate(**inputs_of_node), inputs))
    assert torch.equal(base, run(animate(group_norm="frame"), inputs))
