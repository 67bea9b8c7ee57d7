from pathlib import Path

import pytest
import torch
from precision import assert_recorded, assert_rounded
from safetensors.torch import load_file

from videolcm_core.diffusion.consistency import pseudo_huber
from videolcm_core.diffusion.edm import EDMGrid, inference_indices

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "animatelcm" / "svd_solver.safetensors"


@pytest.fixture(scope="module")
def data():
    return load_file(GOLDEN)


def grid():
    """The tables in float32, as the authors compute them."""
    return EDMGrid.create(dtype=torch.float32)


@pytest.mark.parametrize("table", ["sigmas", "timesteps", "c_skip", "c_out", "c_in", "weights"])
def test_tables_equal_the_authors(data, table):
    assert_recorded(lambda: getattr(grid(), table), data[table], copies=8, tables=True)


def test_denoised_equals_the_authors(data):
    index = data["indices"]
    assert_recorded(lambda: grid().denoised(data["model_output"], data["sample"], index), data["denoised"])


def test_step_equals_the_authors(data):
    index = data["indices"]
    assert_recorded(lambda: grid().euler_step(data["denoised"], data["sample"], index, index + 1), data["x_next"])


def test_loss_equals_the_authors(data):
    def loss():
        weights = grid().weights[data["indices"]]
        return (weights * pseudo_huber(data["denoised"], data["target"])).mean()

    assert_recorded(loss, data["loss"], copies=8)


def test_defaults_are_more_exact_than_the_authors_tables(data):
    """Tables are computed in float64; a sample keeps its own dtype."""
    assert EDMGrid.create().sigmas.dtype == torch.float64
    index = data["indices"]
    assert_rounded(lambda: EDMGrid.create().denoised(data["model_output"], data["sample"], index))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = data["sample"].to(dtype)
        assert EDMGrid.create().denoised(x, x, index).dtype == dtype
        assert EDMGrid.create().euler_step(x, x, index, index + 1).dtype == dtype


def test_no_noise_is_the_boundary(data):
    """f(x, 0) = x, whatever the network says, and the step to no noise arrives at the prediction."""
    whole = EDMGrid.create()
    x, output = data["sample"], data["model_output"]
    assert torch.equal(whole.denoised(output, x, torch.full((5,), whole.num)), x)
    assert whole.timesteps.isfinite().all()
    last = torch.full((5,), whole.num - 1)
    clean = whole.denoised(output, x, last)
    assert_recorded(lambda: whole.euler_step(clean, x, last, last + 1), clean)


@pytest.mark.parametrize("prediction_error", [0.0, 0.3])
def test_step_is_exact_for_straight_paths(prediction_error):
    """Where the prediction does not depend on the level, the ODE's paths are straight lines through it."""
    whole = EDMGrid.create()
    clean, eps = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    target = clean + prediction_error
    index, index_next = torch.tensor([0, 7, 39]), torch.tensor([3, 39, 40])
    sigma, sigma_next = (whole.sigmas[i][:, None, None, None] for i in (index, index_next))
    step = whole.euler_step(target, target + sigma * eps, index, index_next)
    assert torch.allclose(step, target + sigma_next * eps, rtol=1e-12, atol=1e-12 * 700)


@pytest.mark.parametrize(
    ("steps", "indices"),
    [
        (1, [0]),
        (2, [0, 20]),
        (3, [0, 13, 26]),
        (4, [0, 10, 20, 30]),
        (6, [0, 6, 12, 18, 24, 30]),
        (8, [0, 5, 10, 15, 20, 25, 30, 35]),
    ],
)
def test_indices_are_the_authors(steps, indices):
    assert inference_indices(steps).tolist() == indices


def test_strength_keeps_the_lower_levels():
    assert inference_indices(4, strength=0.5).tolist() == [20, 25, 30, 35]
    assert inference_indices(1, strength=0.025).tolist() == [39]
    assert inference_indices(40).tolist() == list(range(40))


@pytest.mark.parametrize(
    ("steps", "strength", "words"),
    [
        (0, 1.0, "steps is 0; allowed: 1 to 40"),
        (41, 1.0, "steps is 41; allowed: 1 to 40"),
        (4, 0.05, "steps is 4; allowed: 1 to 2 of the 40 noise levels at strength 0.05"),
        (1, 0.01, "higher strength"),
        (4, 0.0, "strength is 0.0"),
        (4, 1.5, "strength is 1.5"),
    ],
)
def test_impossible_steps_are_refused(steps, strength, words):
    with pytest.raises(ValueError, match=words):
        inference_indices(steps, strength=strength)
