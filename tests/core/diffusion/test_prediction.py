import pytest
import torch
from precision import UNIT, UNIT_64, distance

from videolcm_core.diffusion.prediction import PREDICTIONS, from_eps, from_x_0, to_eps, to_x_0, velocity
from videolcm_core.diffusion.schedule import Schedule

SCHEDULE = Schedule.create(zero_terminal_snr=False, dtype=torch.float64)


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(3, 4, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([1, 400, 990])
    return x_0, eps, SCHEDULE.add_noise(x_0, eps, t), SCHEDULE.alpha_t(t), SCHEDULE.sigma_t(t)


def rounding(sample):
    """Of about eight operations in float64, divided by alpha or sigma there and back."""
    x_0, eps, x_t, alpha, sigma = sample
    largest = max(value.abs().max().item() for value in (x_0, eps, x_t))
    return 8 * UNIT_64 * largest / min(alpha.min().item(), sigma.min().item()) ** 2


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_right_output_gives_back_data_and_noise(prediction, sample):
    x_0, eps, x_t, alpha, sigma = sample
    output = {"v": velocity(x_0, eps, alpha, sigma), "eps": eps, "x_0": x_0}[prediction]
    assert distance(to_x_0(prediction, output, x_t, alpha, sigma), x_0) <= rounding(sample)
    assert distance(to_eps(prediction, output, x_t, alpha, sigma), eps) <= rounding(sample)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_inverse_pairs(prediction, sample):
    output, _, x_t, alpha, sigma = sample
    x_0 = to_x_0(prediction, output, x_t, alpha, sigma)
    assert distance(from_x_0(prediction, x_0, x_t, alpha, sigma), output) <= rounding(sample)
    eps = to_eps(prediction, output, x_t, alpha, sigma)
    assert distance(from_eps(prediction, eps, x_t, alpha, sigma), output) <= rounding(sample)


def test_velocity_survives_pure_noise():
    """At the last timestep of a zero terminal SNR schedule the data is minus the velocity."""
    zero = Schedule.create(dtype=torch.float64)
    t = torch.tensor([999])
    x_t, v = torch.randn(1, 4, 1, 2, 2), torch.randn(1, 4, 1, 2, 2)
    assert torch.equal(to_x_0("v", v, x_t, zero.alpha_t(t), zero.sigma_t(t)), -v.double())


def test_scalars_and_low_precision():
    x_t, v = torch.randn(2, 4, 2, 2).half(), torch.randn(2, 4, 2, 2).half()
    schedule, t = Schedule.create(), torch.tensor([500, 500])
    per_sample = to_x_0("v", v, x_t, schedule.alpha_t(t), schedule.sigma_t(t))
    assert per_sample.dtype == torch.float32
    scalar = to_x_0("v", v.float(), x_t.float(), schedule.alpha_t(t[0]), schedule.sigma_t(t[0]))
    # The same operations on the same numbers: float16 is widened without rounding, and products are rounded once.
    assert distance(per_sample, scalar) <= 2 * UNIT * scalar.abs().max()


@pytest.mark.parametrize("convert", [to_x_0, to_eps, from_x_0, from_eps])
def test_unknown_prediction_is_named(convert):
    with pytest.raises(ValueError, match="'noise'; allowed: v, eps, x_0"):
        convert("noise", torch.zeros(1), torch.zeros(1), 0.5, 0.5)
