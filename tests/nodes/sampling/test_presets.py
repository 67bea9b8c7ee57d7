"""Presets of VideoLCM Model Sampling on core's Stable Diffusion 1.5 MODEL, whose frames are the batch.

The sharp test is a network in closed form (golden file sampler_lcm): its eight frames are sampled by core's own `lcm`
and by ours, and by the plain sampler of the core package, which is held to what the authors' scheduler gave.
"""

from pathlib import Path

import pytest
import torch
from precision import assert_differ, assert_recorded, assert_rounded, distance
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "animatediff" / "sampler_lcm.safetensors"
BY_HAND = {
    "prediction": "v",
    "zsnr": True,
    "original_steps": 50,
    "beta_schedule": "scaled_linear",
    "timestep_scaling": 10.0,
}
BETA_END = {"animatelcm-50": 0.012, "animatelcm": 0.012, "animatelcm-i2v": 0.014}
GRIDS = {"animatelcm-50": 50, "animatelcm": 100, "animatelcm-i2v": 200}


def frames(video):
    """``[1, C, F, H, W]`` to frames as the batch."""
    return video[0].movedim(1, 0).contiguous()


@pytest.fixture(scope="module")
def data():
    return {name: frames(value) for name, value in load_file(GOLDEN).items()}


class ClosedForm(torch.nn.Module):
    """The noise in ``a mu + s eps`` around ``mu`` of spread 0.6, and a ripple; of the schedule it is given."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.dtype = torch.float32
        self.mu = self.schedule = None

    def forward(self, x, timesteps, context=None, **kwargs):
        t = timesteps.long()
        a, s = (table(t).to(x.dtype)[:, None, None, None] for table in (self.schedule.alpha_t, self.schedule.sigma_t))
        around = s * (x - a * self.mu) / (a**2 * 0.36 + s**2)
        return around + 0.1 * torch.sin(2 * x + timesteps.to(x.dtype)[:, None, None, None] / 200)


@pytest.fixture(scope="module")
def sd15(host):
    """Core's SD1.5 MODEL around another network: ``sd15(network)``, or a new ClosedForm."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    def build(kind="EPS", latent_model=ClosedForm):
        config = comfy.supported_models.SD15(
            {"context_dim": 8, "model_channels": 8, "use_linear_in_transformer": False}
        )
        config.set_inference_dtype(torch.float32, None)
        model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType[kind], unet_model=latent_model)
        return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

    return build


@pytest.fixture
def preset(host):
    def run(model, name, **options):
        return host.run("VideoLCMSampling", model=model, **{**BY_HAND, **options}, preset=name)[0]

    return run


TEXT = [[torch.zeros(1, 4, 8), {}]]


def through_host(model, sampler, sigmas, noise):
    import comfy.sample

    zeros = torch.zeros_like(noise)
    out = comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, TEXT, TEXT, zeros, disable_pbar=True, seed=0)
    return model.model.process_latent_in(out)


@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("sampler", ["core", "ours"])
def test_closed_form_network_is_sampled_as_by_the_authors(host, sd15, preset, data, monkeypatch, name, steps, sampler):
    import comfy.k_diffusion.sampling
    import comfy.samplers

    core = {part: host.pack(f"videolcm_core.diffusion.{part}") for part in ("schedule", "samplers")}
    ours = host.pack("nodes.sampling.sigmas")
    model = sd15()
    network = model.model.diffusion_model
    network.mu = data["mu"]
    step_noise = torch.stack([data[f"noise_{index}"] for index in range(7)])

    def schedule(dtype):
        return core["schedule"].Schedule.create("linear", False, dtype, beta_end=BETA_END[name])

    def plain():
        """As the authors: float32 tables."""
        network.schedule = schedule(torch.float32)
        timesteps = core["schedule"].lcm_timesteps(steps, GRIDS[name])
        return core["samplers"].sample_lcm(
            network, data["start"], timesteps, network.schedule, prediction="eps", step_noise=step_noise
        )

    def native():
        network.schedule = schedule(torch.float64)
        patched = preset(model, name)
        sampling = patched.get_model_object("model_sampling")
        recorded = iter(step_noise)
        if sampler == "core":
            sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
            options = {"noise_sampler": lambda *_: next(recorded)}
            lcm = comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_lcm, options)
        else:
            mode = {"mode": "lcm", "original_steps": 0, "strength": 1.0}
            sigmas = host.run("VideoLCMScheduler", model=patched, steps=steps, mode=mode)[0]
            monkeypatch.setattr(ours, "step_noise", lambda *_: lambda *_: next(recorded))
            lcm = ours.make_sampler()
        return through_host(patched, lcm, sigmas, data["start"])

    reference = assert_recorded(plain, data[f"final_{GRIDS[name]}_{steps}"], copies=4, tables=True)
    exact = assert_rounded(native, copies=4, tables=True)
    # The host hands noise levels on in float32, in float64 runs too.
    assert distance(exact.values[""], reference.values[""]) <= exact.bound()


def test_other_presets_are_other_mathematics(host, sd15, preset, data):
    """What AnimateDiff-Evolved's `lcm` and core's own node take for it is not what the authors' network knows."""
    import comfy.samplers

    schedule = host.pack("videolcm_core.diffusion.schedule").Schedule.create("linear", False, torch.float64)
    model = sd15()
    model.model.diffusion_model.mu, model.model.diffusion_model.schedule = data["mu"], schedule

    def compute(name):
        patched = preset(model, name)
        sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", 1)
        return through_host(patched, comfy.samplers.sampler_object("lcm"), sigmas, data["start"])

    assert_differ(lambda: compute("animatelcm-50"), compute("animatediff-evolved"), compute("animatelcm-i2v"))
    evolved = host.run("ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False)[0]
    theirs, ours = (
        m.get_model_object("model_sampling").sigmas for m in (evolved, preset(model, "animatediff-evolved"))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)  # core's tables are a product of 1000 float32 numbers


def test_our_nodes_sample_as_core_does(host, sd15, preset, data):
    """VideoLCM Sampler on an SD1.5 MODEL is KSampler with `lcm` and `simple`; the scheduler takes the model's grid."""
    schedule = host.pack("videolcm_core.diffusion.schedule").Schedule.create("linear", False, torch.float32)
    model = sd15()
    model.model.diffusion_model.mu, model.model.diffusion_model.schedule = data["mu"], schedule
    patched, latent = preset(model, "animatelcm"), {"samples": torch.zeros(8, 4, 5, 6)}
    common = {"seed": 3, "steps": 4, "cfg": 1.0, "model": patched, "positive": TEXT}
    ours = host.run("VideoLCMSampler", latent=latent, strength=1.0, noise_device="gpu", **common)[0]["samples"]
    settings = {"sampler_name": "lcm", "scheduler": "simple", "denoise": 1.0}
    theirs = host.run("KSampler", latent_image=latent, negative=TEXT, **settings, **common)[0]["samples"]
    assert torch.equal(ours, theirs) and ours.isfinite().all() and ours.std() > 0


@pytest.mark.parametrize(
    ("name", "own", "chosen", "note"),
    [
        ("animatelcm", 100, 50, True),
        ("animatelcm", 100, 0, False),
        ("animatelcm", 100, 100, False),
        ("videolcm", 50, 50, False),
        ("eps", None, 50, False),
    ],
)
def test_scheduler_says_when_the_grid_is_another(host, sd15, preset, caplog, name, own, chosen, note):
    patched = preset(sd15(), name)
    mode = {"mode": "lcm", "original_steps": chosen, "strength": 1.0}
    sigmas = host.run("VideoLCMScheduler", model=patched, steps=4, mode=mode)[0]
    assert len(sigmas) == 5 and sigmas[-1] == 0
    told = [r.getMessage() for r in caplog.records if "original_steps" in r.getMessage()]
    assert bool(told) == note and all(f"is {chosen} and this MODEL was distilled on {own}" in text for text in told)


EXPECTED = {
    "videolcm": ("v", "scaled_linear", 0.012, True, True, 50, 10.0),
    "teacher": ("v", "scaled_linear", 0.012, True, False, 50, 10.0),
    "eps": ("eps", "scaled_linear", 0.012, False, False, 50, 10.0),
    "mcm": ("eps", "scaled_linear", 0.012, False, True, 50, 4.0),
    "mcm-animatediff": ("eps", "linear", 0.012, False, True, 50, 4.0),
    "animatelcm": ("eps", "linear", 0.012, False, True, 100, 10.0),
    "animatelcm-50": ("eps", "linear", 0.012, False, True, 50, 10.0),
    "animatelcm-i2v": ("eps", "linear", 0.014, False, True, 200, 10.0),
    "animatediff-evolved": ("eps", "scaled_linear", 0.012, False, True, 50, 10.0),
    "animatediff": ("eps", "linear", 0.012, False, False, 50, 10.0),
}


def test_table_of_presets(host):
    """Saved graphs name them: none may go, and none may change."""
    presets = host.pack("nodes.model.presets").PRESETS
    assert {name: tuple(vars(options).values()) for name, options in presets.items()} == EXPECTED
    loader = host.pack("nodes.loaders.settings").SAMPLING_PRESETS
    assert set(loader) == {"videolcm", "teacher", "eps"} and loader.items() <= presets.items()
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMSampling"].define_schema()
    choices = next(entry for entry in node.inputs if entry.id == "preset")
    assert choices.options == ["custom", *EXPECTED, "animatelcm-svd"] and choices.default == "custom"


@pytest.mark.parametrize("name", EXPECTED)
def test_preset_sets_everything(host, sd15, preset, caplog, name):
    options = host.pack("nodes.model.presets").PRESETS[name]
    model = sd15()
    by_hand = {"prediction": "x_0", "zsnr": not options.zero_terminal_snr, "original_steps": 7, "beta_end": 0.02}
    assert preset(model, name).get_model_object("model_sampling").options == options
    assert not [r for r in caplog.records if "not used" in r.getMessage()]
    assert preset(model, name, **by_hand).get_model_object("model_sampling").options == options
    told = [r.getMessage() for r in caplog.records if "not used" in r.getMessage()]
    assert len(told) == 1 and all(word in told[0] for word in ("prediction", "original_steps", "beta_end", name))
    assert "beta_schedule" not in told[0] and ("zsnr" in told[0]) == options.zero_terminal_snr


def test_graphs_saved_before_presets_still_run(host, sd15):
    """Without the newer inputs, as an old file of the API has it."""
    patched = host.run("VideoLCMSampling", model=sd15(), **BY_HAND)[0]
    options = host.pack("nodes.model.model_sampling").SamplingOptions()
    assert patched.get_model_object("model_sampling").options == options
    schema = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMSampling"].define_schema()
    assert [entry.id for entry in schema.inputs][:6] == ["model", *BY_HAND]
    assert [entry.id for entry in schema.inputs if entry.optional] == ["beta_end", "preset"]


def test_beta_end_by_hand(host, sd15):
    by_hand = {**BY_HAND, "prediction": "eps", "zsnr": False, "original_steps": 200, "beta_schedule": "linear"}
    patched = host.run("VideoLCMSampling", model=sd15(), **by_hand, beta_end=0.014)[0]
    options = host.pack("nodes.model.presets").PRESETS["animatelcm-i2v"]
    assert patched.get_model_object("model_sampling").options == options
    with pytest.raises(ValueError, match="beta_end is 0.0001; allowed: a number from 0.00085 to 0.5"):
        host.run("VideoLCMSampling", model=sd15(), **by_hand, beta_end=0.0001)


@pytest.mark.parametrize("kind", ["FLOW", "EDM", "STABLE_CASCADE"])
@pytest.mark.parametrize("name", ["custom", "animatelcm", "animatelcm-svd"])
def test_models_of_other_kinds_are_refused(sd15, preset, kind, name):
    with pytest.raises(ValueError, match="allowed: "):
        preset(sd15(kind), name)


@pytest.mark.parametrize("name", ["custom", "animatelcm"])
def test_svd_preset_and_svd_belong_together(sd15, preset, name):
    with pytest.raises(
        ValueError, match="animatelcm-svd and the MODEL is a BaseModel .EPS.; allowed: Stable Video Diff"
    ):
        preset(sd15(), "animatelcm-svd")
    with pytest.raises(ValueError, match=f"preset is {name} and the MODEL is a BaseModel.* allowed: animatelcm-svd"):
        preset(sd15("V_PREDICTION_EDM"), name)


@pytest.mark.parametrize("kind", ["FLOW", "EDM", "V_PREDICTION_EDM"])
@pytest.mark.parametrize("mode", [{"mode": "ddim"}, {"mode": "lcm", "original_steps": 0, "strength": 1.0}])
def test_scheduler_refuses_models_without_timesteps(host, sd15, kind, mode):
    with pytest.raises(ValueError, match="does not have the timesteps 0 to 999; allowed: .*animatelcm-svd"):
        host.run("VideoLCMScheduler", model=sd15(kind), steps=4, mode=mode)
