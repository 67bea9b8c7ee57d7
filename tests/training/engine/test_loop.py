"""The shared loop: exact resume, atomic files, bad losses."""

import pytest
import torch

from training.engine.files import save_atomically
from training.engine.followers import update_ema
from training.engine.identity import Identity
from training.engine.loop import LoopOptions, run
from training.engine.rates import warmup_stable_decay


class Regression:
    """A linear regression on random data, with momentum to resume."""

    def __init__(self, stop_at=None, bad_at=None):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.stop_at, self.bad_at = stop_at, bad_at

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def step(self, index, generator):
        if index == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float("nan") if index == self.bad_at else float(loss.detach())}


def options(folder, **more):
    return LoopOptions(**({"checkpoint": folder / "state.pt", "identity": Identity(), "steps": 20} | more))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = Regression()
    run(whole, options(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        run(Regression(stop_at=11), options(tmp_path / "b", save_seconds=0.0))
    resumed = Regression()
    run(resumed, options(tmp_path / "b"))
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="step 7.*after 7 steps, all of whose numbers are finite"):
        run(Regression(bad_at=7), options(tmp_path, save_seconds=0.0))
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert saved["step"] == 7
    assert all(v.isfinite().all() for v in saved["task"]["model"].values())


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    save_atomically({"value": 1}, path)
    with pytest.raises(Exception):  # noqa: B017 - whichever error pickling a function gives
        save_atomically({"value": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"value": 1}


def test_ema_is_the_weighted_mean():
    average, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.95 * average.weight.detach() + 0.05 * model.weight.detach()
    update_ema(average, model, 0.95)
    torch.testing.assert_close(average.weight.detach(), expected)


def test_learning_rate_warms_up_stays_and_decays():
    rates = [warmup_stable_decay(i, 1000, peak=1.0, warmup=10, decay=0.5) for i in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:500] == [1.0] * 491
    assert all(a >= b for a, b in zip(rates[500:], rates[501:], strict=False))
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)
