"""Compare Videos: a grid of videos with labels."""

import pytest
import torch


@pytest.fixture
def compare(host):
    def run(*videos, labels="", columns=0, size=64):
        images = {f"images_{index}": video for index, video in enumerate(videos, 1) if video is not None}
        return host.run("VideoLCMCompare", **images, labels=labels, columns=columns, size=size)[0]

    return run


def plain(value, frames=3, height=32, width=32):
    return torch.full((frames, height, width, 3), float(value))


def places(grid, value):
    """Where a frame has a value: rows and columns of its corners."""
    rows, columns = torch.where((grid - value).abs().amax(-1) < 1e-3)
    return rows.min().item(), columns.min().item(), rows.max().item() + 1, columns.max().item() + 1


def test_videos_stand_side_by_side_in_their_order(compare):
    values = (0.2, 0.4, 0.6, 0.8, 1.0)
    grid = compare(*(plain(value) for value in values))
    assert grid.shape[0] == 3 and grid.shape[1] % 2 == 0 and grid.shape[2] % 2 == 0
    boxes = [places(grid[0], value) for value in values]
    assert all((bottom - top, right - left) == (64, 64) for top, left, bottom, right in boxes)
    assert boxes[0][0] == boxes[1][0] == boxes[2][0] < boxes[3][0] == boxes[4][0]
    assert boxes[0][1] == boxes[3][1] < boxes[1][1] == boxes[4][1] < boxes[2][1]


@pytest.mark.parametrize(("columns", "rows"), [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1)])
def test_columns(compare, columns, rows):
    grid = compare(*(plain(0.5) for _ in range(4)), columns=columns)
    assert grid.shape[1:3] == (rows * 72 + 8, min(columns, 4) * 72 + 8)


def test_inputs_that_are_not_connected_leave_no_gap(compare):
    one, other = plain(0.3), plain(0.7)
    assert torch.equal(compare(one, other), compare(None, one, None, other))


def test_shorter_videos_hold_their_last_frame(compare):
    short = torch.stack([plain(value, 1)[0] for value in (0.2, 0.4)])
    grid = compare(plain(0.9, frames=5), short)
    assert len(grid) == 5
    assert [places(frame, 0.4)[0] for frame in grid[1:]] == [8] * 4
    assert places(grid[0], 0.2)[0] == 8


def test_shapes_keep_their_proportions(compare):
    grid = compare(plain(0.3, height=32, width=64), plain(0.7, height=256, width=128))
    top, left, bottom, right = places(grid[0], 0.3)
    assert (bottom - top, right - left) == (32, 64)
    top, left, bottom, right = places(grid[0], 0.7)
    assert (bottom - top, right - left) == (64, 32)


def test_labels_are_drawn_above_their_video(compare):
    videos = [plain(0.0), plain(0.0)]
    grid, without = compare(*videos, labels="one", columns=2), compare(*videos, columns=2)
    assert grid.shape[1] == without.shape[1] + 18
    strip = grid[0, 8:26]
    assert strip[:, 8:72].max() > 0.5 and strip[:, 80:144].max() < 0.1


def test_long_labels_stay_above_their_video(compare):
    grid = compare(plain(0.0), plain(0.0), labels="a label that is far too long for it\n", columns=2)
    assert grid[0, 8:26, 74:].max() < 0.1


def test_inputs_stay_as_they_are(compare):
    video = torch.rand(2, 8, 8, 3)
    before = video.clone()
    compare(video, labels="x")
    assert torch.equal(video, before)


def test_alpha_is_left_out(compare):
    assert compare(torch.ones(2, 8, 8, 4)).shape[-1] == 3


def test_nothing_connected(compare):
    with pytest.raises(ValueError, match="no video is connected; allowed: 1 to 8"):
        compare()


def test_more_labels_than_videos(compare):
    with pytest.raises(ValueError, match="3 labels for 1 videos"):
        compare(plain(0), labels="1\n2\n3")
