import pytest
import torch
from precision import UNIT_64, assert_recorded, distance

from videolcm_core.diffusion.consistency import boundary_scalings
from videolcm_core.diffusion.samplers import sample_ddim, sample_lcm
from videolcm_core.diffusion.schedule import Schedule, lcm_timesteps

SCHEDULE = Schedule.create(dtype=torch.float64)
SHAPE = (2, 4, 3, 2, 2)


def oracle(x_0):
    """A v-network that always knows the data."""

    def network(x, t):
        alpha, sigma = (v.view(-1, 1, 1, 1, 1) for v in (SCHEDULE.alpha_t(t), SCHEDULE.sigma_t(t)))
        return (alpha * x - x_0) / sigma

    return network


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm_finds_what_the_network_knows(steps):
    x_0 = torch.randn(SHAPE, dtype=torch.float64)
    timesteps, seen = lcm_timesteps(steps), []
    noise = torch.randn(SHAPE, dtype=torch.float64)
    out = sample_lcm(lambda x, t: seen.append(x) or oracle(x_0)(x, t), noise, timesteps, SCHEDULE)
    # f = c_skip x + c_out x_0, exactly: a trace of the noise is left.
    c_skip, c_out = boundary_scalings(timesteps[-1])
    assert distance(out, c_skip * seen[-1] + c_out * x_0) <= 16 * UNIT_64 * seen[-1].abs().max()
    assert distance(out, x_0) <= c_skip * seen[-1].abs().max() + (1 - c_out) * x_0.abs().max() + 1e-12


def test_ddim_ends_at_the_level_of_the_first_timestep():
    x_0 = torch.randn(SHAPE, dtype=torch.float64)
    eps = torch.randn(SHAPE, dtype=torch.float64)
    start = SCHEDULE.add_noise(x_0, eps, torch.tensor([981, 981]))
    out = sample_ddim(oracle(x_0), start, 50, SCHEDULE)
    # 50 steps of about sixteen roundings in float64; dividing by sigma of the first timestep multiplies the last ones.
    largest = max(x_0.abs().max(), eps.abs().max()).item()
    bound = 50 * 16 * UNIT_64 * largest / SCHEDULE.sigma_t(torch.tensor(1)).item()
    assert distance(out, SCHEDULE.add_noise(x_0, eps, torch.tensor([0, 0]))) <= bound


def test_lcm_calls_the_network_once_per_step_and_adds_no_noise_at_the_end():
    times, noises, seen = [], [], []

    def network(x, t):
        times.append(t.tolist())
        return torch.zeros_like(x)

    def noise(x, index):
        noises.append(index)
        return torch.ones_like(x)

    sample_lcm(
        network,
        torch.randn(SHAPE),
        lcm_timesteps(4),
        SCHEDULE,
        step_noise=noise,
        callback=lambda index, t, x, denoised: seen.append((index, int(t), x is denoised)),
    )
    assert times == [[t, t] for t in (999, 759, 499, 259)]
    assert noises == [0, 1, 2]
    assert seen == [(0, 999, False), (1, 759, False), (2, 499, False), (3, 259, True)]


@pytest.mark.parametrize("source", ["generator", "tensor"])
def test_step_noise_is_reproducible(source):
    noise, fixed = torch.randn(SHAPE), torch.randn(3, *SHAPE)

    def run():
        drawn = {"generator": torch.Generator().manual_seed(5)} if source == "generator" else {"step_noise": fixed}
        return sample_lcm(lambda x, t: 0.1 * x, noise, lcm_timesteps(4), SCHEDULE, **drawn)

    assert torch.equal(run(), run())


def test_strength_starts_lower_and_keeps_more_of_the_video():
    """Video to video: the noised input enters at the first timestep that is left."""
    x_0, eps = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    kept = []
    for strength in (1.0, 0.6, 0.2):
        timesteps = lcm_timesteps(2, strength=strength)
        start = SCHEDULE.add_noise(x_0, eps, timesteps[0])
        out = sample_lcm(lambda x, t: torch.zeros_like(x), start, timesteps, SCHEDULE, step_noise=eps[None])
        kept.append(torch.nn.functional.cosine_similarity(out.flatten(), x_0.flatten(), dim=0).item())
    assert kept[0] < kept[1] < kept[2]


def test_guidance_needs_the_other_network():
    with pytest.raises(ValueError, match="guidance_scale is 4.0"):
        sample_ddim(lambda x, t: x, torch.randn(SHAPE), 2, SCHEDULE, guidance_scale=4.0)


def test_guidance_of_equal_networks_changes_nothing():
    noise, network = torch.randn(SHAPE, dtype=torch.float64), (lambda x, t: 0.3 * x)
    plain = sample_ddim(network, noise, 5, SCHEDULE)
    assert torch.equal(plain, sample_ddim(network, noise, 5, SCHEDULE, "v", 7.5, network))


@pytest.mark.parametrize("prediction", ["v", "eps", "x_0"])
def test_lcm_equals_diffusers(prediction):
    diffusers = pytest.importorskip("diffusers")
    zero = prediction != "eps"
    kind = {"v": "v_prediction", "eps": "epsilon", "x_0": "sample"}[prediction]
    scheduler = diffusers.LCMScheduler(prediction_type=kind, clip_sample=False, rescale_betas_zero_snr=zero)
    scheduler.set_timesteps(4)
    noise, fresh = torch.randn(SHAPE), torch.randn(3, *SHAPE)
    x = noise
    with pytest.MonkeyPatch.context() as patch:
        module = __import__("importlib").import_module("diffusers.schedulers.scheduling_lcm")
        draws = iter(fresh)
        patch.setattr(module, "randn_tensor", lambda *_, **__: next(draws))
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x), t, x).prev_sample

    def ours():
        schedule = Schedule.create(zero_terminal_snr=zero)
        return sample_lcm(lambda x, t: torch.tanh(x), noise, lcm_timesteps(4), schedule, prediction, fresh)

    # Their noise schedule is float32, and so are its roundings, which high noise multiplies.
    assert_recorded(ours, x, copies=4, tables=True)
