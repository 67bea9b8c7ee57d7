import pytest
import torch

from videolcm_core.diffusion.consistency import boundary_scalings, consistency_function, pseudo_huber
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.diffusion.solvers import ddim_step, guided_teacher_step


def test_boundary():
    """f(x, 0) = x, whatever the network says."""
    x, pred = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    assert torch.equal(consistency_function(pred, x, torch.tensor([0, 0])), x)


@pytest.mark.parametrize(("scaling", "sigma_data"), [(10.0, 0.5), (4.0, 0.5), (1.0, 2.0)])
def test_scalings_closed_form(scaling, sigma_data):
    t = torch.tensor([0, 1, 19, 999])
    c_skip, c_out = boundary_scalings(t, sigma_data, scaling)
    assert torch.allclose(c_skip + c_out**2, torch.ones(4, dtype=torch.float64), atol=1e-12)
    assert c_skip[2].item() == pytest.approx(sigma_data**2 / ((19 * scaling) ** 2 + sigma_data**2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_consistency_function_keeps_dtype(dtype):
    x = torch.randn(2, 4, 1, 2, 2).to(dtype)
    assert consistency_function(x, x, torch.tensor([999, 0])).dtype == dtype


def test_pseudo_huber_limits():
    zeros = torch.zeros(2, 3)
    losses = pseudo_huber(torch.tensor([[10.0, 10, 10], [1e-5, 1e-5, 1e-5]]), zeros)
    assert losses[0].item() == pytest.approx(10 - 0.001, rel=1e-4)  # absolute far away
    assert losses[1].item() == pytest.approx(1e-10 / 0.002, rel=1e-2)  # quadratic close by
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
    assert torch.allclose(step.x_prev, schedule.add_noise(x_0, eps, t_prev), atol=1e-9)
    assert torch.allclose(step.cond_pred_x_0, x_0, atol=1e-9)


def test_guidance_is_the_papers_combination():
    """(1 + w) Psi(cond) - w Psi(uncond), equation 5 of the paper."""
    schedule = Schedule.create(dtype=torch.float64)
    x_t, cond, uncond = (torch.randn(2, 4, 1, 2, 2, dtype=torch.float64) for _ in range(3))
    t, t_prev = torch.tensor([999, 259]), torch.tensor([979, 239])
    w = torch.tensor([9.0, 3.0], dtype=torch.float64)
    got = guided_teacher_step(cond, uncond, x_t, t, t_prev, schedule, w).x_prev
    psi_c, psi_u = (guided_teacher_step(o, o, x_t, t, t_prev, schedule, 0.0).x_prev for o in (cond, uncond))
    w = w.view(-1, 1, 1, 1, 1)
    assert torch.allclose(got, (1 + w) * psi_c - w * psi_u, atol=1e-9)


def test_ddim_step_takes_scalars_and_vectors():
    x, e = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    assert torch.allclose(ddim_step(x, e, 0.6, 0.8), ddim_step(x, e, torch.full((2,), 0.6), torch.full((2,), 0.8)))
