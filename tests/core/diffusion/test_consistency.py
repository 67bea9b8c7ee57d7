import pytest
import torch
from precision import UNIT, UNIT_64, assert_rounded, assert_same, distance

from videolcm_core.diffusion.consistency import boundary_scalings, consistency_function, loss_weights, pseudo_huber
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.diffusion.solvers import ddim_step, guided_teacher_step, teacher_free_step


def test_boundary():
    """f(x, 0) = x, whatever the network says."""
    x, pred = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    assert torch.equal(consistency_function(pred, x, torch.tensor([0, 0])), x)


@pytest.mark.parametrize(("scaling", "sigma_data"), [(10.0, 0.5), (4.0, 0.5), (1.0, 2.0)])
def test_scalings_closed_form(scaling, sigma_data):
    t = torch.tensor([0, 1, 19, 999])
    c_skip, c_out = boundary_scalings(t, sigma_data, scaling)
    # Numbers in [0, 1] after at most eight operations in float64.
    assert distance(c_skip + c_out**2, torch.ones(4, dtype=torch.float64)) <= 8 * UNIT_64
    expected = sigma_data**2 / ((19 * scaling) ** 2 + sigma_data**2)
    assert abs(c_skip[2].item() - expected) <= 8 * UNIT_64 * expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_consistency_function_keeps_dtype(dtype):
    x = torch.randn(2, 4, 1, 2, 2).to(dtype)
    assert consistency_function(x, x, torch.tensor([999, 0])).dtype == dtype


def test_pseudo_huber_limits():
    zeros = torch.zeros(2, 3)
    losses = pseudo_huber(torch.tensor([[10.0, 10, 10], [1e-5, 1e-5, 1e-5]]), zeros)
    # Absolute far away: sqrt(a^2 + c^2) = a + c^2 / 2a - ..., and six roundings of numbers up to a^2.
    a, c = 10.0, 0.001
    assert abs(losses[0].item() - (a - c)) <= c**2 / (2 * a) + 6 * UNIT * a
    # Quadratic close by: a^2 / 2c less at most (a / 2c)^2 of it, and the difference of two numbers near c is rounded.
    a = 1e-5
    assert abs(losses[1].item() - a**2 / (2 * c)) <= (a / (2 * c)) ** 2 * a**2 / (2 * c) + 2 * UNIT * c
    assert losses.shape == (2,)


@pytest.mark.parametrize("prediction", ["v", "eps", "x_0"])
def test_ddim_with_a_perfect_network_stays_on_the_trajectory(prediction):
    schedule = Schedule.create(dtype=torch.float64)
    x_0, eps = torch.randn(3, 4, 2, 2, 2, dtype=torch.float64), torch.randn(3, 4, 2, 2, 2, dtype=torch.float64)
    t, t_prev = torch.tensor([999, 519, 19]), torch.tensor([979, 499, 0])
    if prediction == "eps":
        t = torch.tensor([979, 519, 19])  # noise does not tell the data where there is only noise
    alpha, sigma = (v.view(-1, 1, 1, 1, 1) for v in (schedule.alpha_t(t), schedule.sigma_t(t)))
    x_t = schedule.add_noise(x_0, eps, t)
    output = {"v": alpha * eps - sigma * x_0, "eps": eps, "x_0": x_0}[prediction]
    step = guided_teacher_step(output, output, x_t, t, t_prev, schedule, w=9.0, prediction=prediction)
    # Rounding of float64 in x_t, divided by the smaller of alpha and sigma where the prediction asks for it.
    largest = max(x_0.abs().max(), eps.abs().max()).item()
    smallest = {"v": 1.0, "eps": alpha.min().item(), "x_0": sigma.min().item()}[prediction]
    assert distance(step.x_prev, schedule.add_noise(x_0, eps, t_prev)) <= 16 * UNIT_64 * largest / smallest
    assert distance(step.cond_pred_x_0, x_0) <= 16 * UNIT_64 * largest / smallest


def test_guidance_is_the_papers_combination():
    """(1 + w) Psi(cond) - w Psi(uncond), equation 5 of the paper."""
    schedule = Schedule.create(dtype=torch.float64)
    x_t, cond, uncond = (torch.randn(2, 4, 1, 2, 2, dtype=torch.float64) for _ in range(3))
    t, t_prev = torch.tensor([999, 259]), torch.tensor([979, 239])
    w = torch.tensor([9.0, 3.0], dtype=torch.float64)
    got = guided_teacher_step(cond, uncond, x_t, t, t_prev, schedule, w).x_prev
    psi_c, psi_u = (guided_teacher_step(o, o, x_t, t, t_prev, schedule, 0.0).x_prev for o in (cond, uncond))
    w = w.view(-1, 1, 1, 1, 1)
    # Both sides round numbers up to (1 + 2 w) times the largest, in about sixteen operations of float64.
    largest = torch.stack([x_t, cond, uncond]).abs().max().item()
    assert distance(got, (1 + w) * psi_c - w * psi_u) <= 16 * UNIT_64 * (1 + 2 * 9.0) * largest


def test_ddim_step_takes_scalars_and_vectors():
    x, e = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    sixth, eighth = torch.full((2,), 0.6, dtype=torch.float64), torch.full((2,), 0.8, dtype=torch.float64)
    assert_same(lambda: ddim_step(x, e, 0.6, 0.8), lambda: ddim_step(x, e, sixth, eighth))


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_without_a_teacher_the_noise_stays(beta_schedule):
    """AnimateLCM, equation 12: the pair is the same clean latents with the same noise."""
    schedule = Schedule.create(beta_schedule, zero_terminal_snr=False)
    x_0, eps = torch.randn(3, 4, 2, 3, 3), torch.randn(3, 4, 2, 3, 3)
    t, t_prev = torch.tensor([19, 499, 999]), torch.tensor([0, 479, 979])
    x_t = schedule.add_noise(x_0, eps, t)

    def true_score():
        """A teacher that predicts noise, and predicts this one, guided towards nothing."""
        found = (x_t - schedule.alpha_t(t).view(-1, 1, 1, 1, 1) * x_0) / schedule.sigma_t(t).view(-1, 1, 1, 1, 1)
        return guided_teacher_step(found, found, x_t, t, t_prev, schedule, 0.0, "eps").x_prev

    exact = assert_rounded(lambda: teacher_free_step(x_t, x_0, t, t_prev, schedule))
    assert distance(schedule.add_noise(x_0, eps, t_prev), exact.values[""]) <= exact.bound()
    assert_same(true_score, lambda: teacher_free_step(x_t, x_0, t, t_prev, schedule))


def test_weights_of_the_loss():
    """AnimateLCM, equation 10: all of it without noise, (1 - delta)^gamma at the most."""
    n = torch.arange(51)
    weights = loss_weights(n, 50, 0.5, 2.0)
    assert weights.dtype == torch.float32 and weights[0] == 1 and weights[50] == 0.25
    assert (weights.diff() < 0).all()
    assert loss_weights(n, 50, 0.0, 3.0).eq(1).all() and loss_weights(n, 50, 0.9, 0.0).eq(1).all()
    assert loss_weights(n, 50, 1.0, 1.0)[-1] == 0
    assert loss_weights(n.view(3, 17), 50, 0.5, 2.0).equal(weights.view(3, 17))


@pytest.mark.parametrize(
    ("delta", "gamma", "message"),
    [
        (-0.1, 1.0, "delta is -0.1; allowed: 0 to 1"),
        (1.1, 1.0, "delta is 1.1"),
        (float("nan"), 1.0, "delta is nan"),
        (0.5, -1.0, "gamma is -1.0; allowed: 0 and above"),
        (0.5, float("nan"), "gamma is nan"),
    ],
)
def test_weights_outside_their_range_are_refused(delta, gamma, message):
    with pytest.raises(ValueError, match=message):
        loss_weights(torch.arange(3), 2, delta, gamma)
