"""Measures of control in cases whose value is known."""

import math

import pytest
import torch

from training.metrics import control


def test_rank_correlation_knows_order_only():
    depth = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(control.rank_correlation(depth, depth.exp() * 5), torch.ones(2).double())
    torch.testing.assert_close(control.rank_correlation(depth, -depth), -torch.ones(2).double())
    assert float(control.rank_correlation(torch.ones(1, 4), torch.rand(1, 4))) == 0.0


def test_rank_correlation_with_ties_equals_scipy():
    stats = pytest.importorskip("scipy.stats", reason="the second implementation needs SciPy")
    torch.manual_seed(0)
    first, second = torch.randint(0, 5, (3, 60)), torch.randint(0, 4, (3, 60))
    expected = [stats.spearmanr(a.numpy(), b.numpy()).statistic for a, b in zip(first, second, strict=True)]
    assert control.rank_correlation(first, second).tolist() == pytest.approx(expected)


def test_depth_error_of_a_factor():
    given = torch.full((1, 2, 1, 4, 4), 0.5)
    relative, absolute = control.depth_error(2 * given, given)
    assert float(relative) == pytest.approx(math.log(2)) and float(absolute) == pytest.approx(0.5)
    relative, absolute = control.depth_error(torch.zeros(1, 4), torch.full((1, 4), control.FARTHEST))
    assert float(relative) == pytest.approx(0.0, abs=1e-6) and float(absolute) == pytest.approx(control.FARTHEST)


def test_silhouette_iou():
    first, second = torch.zeros(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    first[0, :, :2], second[0, :, 1:3] = 1, 1  # half of each is shared: a third of the union
    first[1, :, :2] = 1
    assert control.silhouette_iou(first, second).tolist() == pytest.approx([1 / 3, 0.0, 1.0])


@pytest.mark.parametrize(("distance", "tolerance", "expected"), [(0, 0, 1.0), (1, 0, 0.0), (1, 1, 1.0), (2, 1, 0.0)])
def test_edge_f1_of_a_shifted_line(distance, tolerance, expected):
    line = torch.zeros(1, 1, 8, 8)
    line[..., 3] = 1
    assert float(control.edge_f1(line, line.roll(distance, -1), tolerance)) == expected


def test_edge_f1_of_half_the_edges_and_of_none():
    one, both, none = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    one[..., 2], both[..., 2], both[..., 6] = 1, 1, 1
    assert float(control.edge_f1(one, both)) == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert float(control.edge_f1(none, both)) == 0.0 and float(control.edge_f1(none, none)) == 1.0


def test_end_point_error_inside_a_mask():
    first, second = torch.zeros(2, 1, 2, 4, 4), torch.zeros(2, 1, 2, 4, 4)
    second[:, :, 0, :2], second[:, :, 1, :2] = 3, 4
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    assert control.end_point_error(first, second).tolist() == [2.5, 2.5]
    inside = control.end_point_error(first, second, mask).tolist()
    assert inside[0] == 5.0 and math.isnan(inside[1])


def test_hole_errors():
    original, generated, hole = torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4), torch.zeros(1, 2, 1, 4, 4)
    hole[..., :2] = 1
    generated[..., :2] = 0.5
    generated[..., 3] = 0.2
    outside, inside = control.hole_errors(generated, original, hole)
    assert float(outside) == pytest.approx(0.1) and float(inside) == pytest.approx(0.5)
    assert math.isnan(float(control.hole_errors(generated, original, torch.ones_like(hole))[0]))


def test_interval_of_the_mean():
    torch.manual_seed(0)
    values = torch.randn(400)
    mean, low, high = control.mean_interval(values)
    assert mean == pytest.approx(float(values.double().mean()))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(mean - half, abs=0.02) and high == pytest.approx(mean + half, abs=0.02)
    assert control.mean_interval(values) == (mean, low, high)
    assert control.mean_interval(torch.tensor([2.0, float("nan")])) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no number"):
        control.mean_interval(torch.tensor([float("nan")]))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(1, 5\)"):
        control.depth_error(torch.zeros(1, 4), torch.zeros(1, 5))
