"""Order, mixing and replacement: which sample a step gets."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from own_clips import FOUR, batches, make_folder, numbers, rng, whole

from training.data.batches import BatchOptions, SourceBatches
from training.data.clip_folder import ClipFolder
from training.data.mixing import Ratio, SingleFrames
from training.data.source import Order


def test_broken_clips_are_counted_named_and_replaced(tmp_path, broken, encoders):
    make_folder(tmp_path / "c", 4)
    for name in ("truncated.mp4", "empty.mp4", "text.mp4"):
        (tmp_path / "c" / name).write_bytes((broken / name).read_bytes())
        (tmp_path / "c" / name).with_suffix(".txt").write_text("broken")
    source = ClipFolder.scan(tmp_path / "c", FOUR)
    joint, again = (batches(source, encoders, batch=7, ratio=Ratio(images=0)) for _ in range(2))
    drawn = [whole(joint, step) for step in range(2)]
    assert all(b.latents.shape == (7, 4, 4, 2, 2) and "broken" not in b.extra["captions"] for b in drawn)
    assert set(joint.skipped.reasons) == {"truncated.mp4", "empty.mp4", "text.mp4"}
    text = joint.skipped.summary(len(source))
    assert "3 of 7 samples were left out" in text and "  empty.mp4: cannot be decoded" in text
    late = whole(again, 1)
    assert late.extra["names"] == drawn[1].extra["names"] and torch.equal(late.latents, drawn[1].latents)


def test_nothing_left_is_an_error_that_names_the_clips(broken):
    for path in broken.glob("*.mp4"):
        path.with_suffix(".txt").write_text("x")
    for path in (*broken.glob("*.png"), *broken.glob("*.jpg")):
        path.unlink()
    source = ClipFolder.scan(broken, replace(FOUR, frames=32))
    joint = SourceBatches(source, source, BatchOptions(batch=1))
    with pytest.raises(ValueError, match=r"none of the 4 samples can be used(.|\n)*empty.mp4: cannot be decoded"):
        joint.batch(0, range(1))


def test_a_ratio_says_each_steps_kind_and_how_many_came_before():
    assert [Ratio().kind(s) for s in range(8)] == ["video", "video", "video", "image"] * 2
    assert [Ratio(images=2, clips=1).kind(s) for s in range(4)] == ["video", "image", "image", "video"]
    counted = Counter()
    for step in range(40):
        ratio = Ratio(images=2, clips=3)
        assert ratio.before(step) == counted[ratio.kind(step)]
        counted[ratio.kind(step)] += 1


def test_ratios_that_cannot_be_are_refused(tmp_path):
    source = ClipFolder.scan(make_folder(tmp_path / "c", 1), FOUR)
    with pytest.raises(ValueError, match="no image to draw from"):
        batches(source)
    with pytest.raises(ValueError, match="ratio is 0 : 0"):
        Ratio(images=0, clips=0)
    with pytest.raises(ValueError, match="no sample to draw from"):
        Order([0], seed=0)


def test_clips_serve_as_images_frame_by_frame(tmp_path):
    frames = SingleFrames(ClipFolder.scan(make_folder(tmp_path / "c", 1), FOUR))
    drawn = torch.stack([frames.read(0, rng(seed)).values for seed in range(16)])
    assert drawn.shape == (16, 1, 16, 16, 3) and len(frames) == 1
    assert set(numbers(drawn[:, 0])) == {0, 1, 2, 3}


def test_order_is_a_seeded_shuffle_within_windows_of_files():
    order = Order([10] * 8, seed=1, window=2)
    first = order.epoch(0).copy()
    assert sorted(first) == list(range(80)) and (first != order.epoch(1)).any()
    assert [i // 10 for i in first[::20]] != sorted(i // 10 for i in first[::20])
    for window in first.reshape(4, 20):
        assert len({i // 10 for i in window}) == 2 and (np.diff(window) < 0).any()
    assert [order[p] for p in range(160)] == [*order.epoch(0), *order.epoch(1)]
    assert (Order([10] * 8, seed=1, window=2).epoch(0) == first).all()
    assert (Order([10] * 8, seed=2, window=2).epoch(0) != first).any()
