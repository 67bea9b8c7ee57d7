import math

import pytest
import torch
from precision import UNIT, UNIT_64, UNITS, distance

from videolcm_core.diffusion.schedule import (
    Schedule,
    ddim_timesteps,
    distillation_grid,
    lcm_timesteps,
    make_betas,
    rescale_zero_terminal_snr,
)


@pytest.mark.parametrize(("name", "middle"), [("linear", (0.00085 + 0.012) / 2), ("scaled_linear", None)])
def test_betas_ends_and_middle(name, middle):
    betas = make_betas(name, num_timesteps=1001)
    middle = middle or ((0.00085**0.5 + 0.012**0.5) / 2) ** 2
    assert betas[[0, 500, -1]].tolist() == pytest.approx([0.00085, middle, 0.012], rel=8 * UNIT_64)


def test_unknown_betas_are_named():
    with pytest.raises(ValueError, match="'cosine'.*scaled_linear, linear"):
        make_betas("cosine")


def test_zero_terminal_snr_closed_form():
    """Signal is shifted to 0 at the end and scaled to stay where it was at the start."""
    betas = make_betas()
    root = torch.cumprod(1 - betas, 0).sqrt()
    rescaled = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0).sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    # Each factor of a product of 1000 is rounded twice, and taken from 1: alphas near 1 lose nothing else.
    assert distance(rescaled, expected) <= 2 * 1000 * UNIT_64
    assert rescaled[-1] == 0 and abs(rescaled[0] - root[0]) <= 4 * UNIT_64


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_preserving(zero, dtype):
    schedule = Schedule.create(zero_terminal_snr=zero, dtype=dtype)
    t = torch.arange(1000)
    total = schedule.alpha_t(t) ** 2 + schedule.sigma_t(t) ** 2
    # Two roots, two squares, a difference and a sum of numbers up to 1.
    assert total.dtype == dtype and distance(total, torch.ones_like(total)) <= 8 * UNITS[dtype]
    assert (schedule.alphas_cumprod.diff() < 0).all()
    assert (schedule.alpha_t(t[-1]) == 0) == zero


def test_add_noise_keeps_shape_and_dtype_and_ends():
    schedule = Schedule.create(dtype=torch.float64)
    x_0, eps = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    noised = schedule.add_noise(x_0, eps, torch.tensor([999, 0]))
    assert noised.dtype == torch.float32
    assert torch.equal(noised[0], eps[0])
    # Computed in float64, stored in float32; the product of one factor is 1 - 0.00085.
    expected = x_0[1].double() * 0.99915**0.5 + eps[1].double() * (1 - 0.99915) ** 0.5
    assert distance(noised[1], expected) <= 2 * UNIT * expected.abs().max()


def test_gathers_any_shape_and_moves():
    schedule = Schedule.create().to(dtype=torch.float64)
    t = torch.tensor([[3, 4], [5, 6]])
    assert schedule.alpha_t(t).shape == (2, 2) and schedule.alpha_t(t).dtype == torch.float64


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [999]),
        (2, [999, 499]),
        (3, [999, 679, 339]),
        (4, [999, 759, 499, 259]),
        (5, [999, 799, 599, 399, 199]),
        (6, [999, 839, 679, 499, 339, 179]),
        (8, [999, 879, 759, 639, 499, 379, 259, 139]),
    ],
)
def test_lcm_timesteps(steps, expected):
    assert lcm_timesteps(steps).tolist() == expected


@pytest.mark.parametrize("original", [25, 40, 50, 100])
@pytest.mark.parametrize("strength", [1.0, 0.8, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_lcm_timesteps_equal_diffusers(original, strength, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.LCMScheduler(original_inference_steps=original)
    scheduler.set_timesteps(steps, original_inference_steps=original, strength=strength)
    assert lcm_timesteps(steps, original, strength).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("original", [1, 25, 29, 50, 58, 100, 200, 1000])
def test_a_strength_leaves_the_share_that_is_written(original):
    """In whole hundredths: products such as 50 * 0.58 = 28.999... are not cut to the step below."""
    for hundredths in range(1, 101):
        length = original * hundredths // 100
        if length:
            assert len(lcm_timesteps(length, original, hundredths / 100)) == length
            with pytest.raises(ValueError, match=f"steps is {length + 1}; allowed: 1 to {length} "):
                lcm_timesteps(length + 1, original, hundredths / 100)
        else:
            with pytest.raises(ValueError, match=f"leaves none of {original} original steps; allowed: 0?[.1]"):
                lcm_timesteps(1, original, hundredths / 100)


@pytest.mark.parametrize("original", [1, 3, 7, 50, 999])
def test_the_lowest_strength_that_an_error_allows_works(original):
    with pytest.raises(ValueError, match="allowed: ") as raised:
        lcm_timesteps(1, original, 0.5 / original)
    lowest = float(str(raised.value).split("allowed: ")[1].split(" ")[0])
    assert len(lcm_timesteps(1, original, lowest)) == 1


def test_ddim_timesteps_are_the_authors():
    steps = ddim_timesteps(50)
    assert steps[:3].tolist() == [981, 961, 941] and steps[-2:].tolist() == [21, 1]
    assert ddim_timesteps(1).tolist() == [1] and len(ddim_timesteps(7)) == 7


def test_distillation_grid():
    t, t_prev = distillation_grid(50)
    assert t[[0, 1, -1]].tolist() == [19, 39, 999] and t_prev[[0, 1, -1]].tolist() == [0, 19, 979]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lcm_timesteps(0), "steps is 0; allowed: 1 to 50"),
        (lambda: lcm_timesteps(51), "steps is 51; allowed: 1 to 50"),
        (lambda: lcm_timesteps(30, strength=0.5), "steps is 30; allowed: 1 to 25"),
        (lambda: lcm_timesteps(4, strength=0.0), "strength is 0.0; allowed"),
        (lambda: lcm_timesteps(4, strength=1.5), "strength is 1.5; allowed"),
        (lambda: lcm_timesteps(4, strength=math.nan), "strength is nan; allowed"),
        (lambda: lcm_timesteps(4, original_steps=0), "original_steps is 0; allowed: 1 to 1000"),
        (lambda: ddim_timesteps(0), "steps is 0; allowed: 1 to 999"),
        (lambda: ddim_timesteps(1000), "steps is 1000; allowed: 1 to 999"),
        (lambda: distillation_grid(0), "steps is 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
