"""Degraded clips and clean images: the halves, what every clip shows, what is made again; and how it is measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.corpus import Corpus, write_index
from training.mini import captions, corpus, degraded, judges, watermark, world

KEPT = [world.Combination("snowman", m, p) for m in world.MOTIONS for p in world.PLACES]


def drawn(rng, count):
    """Clips of this size that are smooth here and rough there, with something that moves."""
    ground = np.kron(rng.integers(40, 216, (count, 1, 8, 8, 3)), np.ones((1, 1, 8, 8, 1)))
    clips = ground + rng.normal(0, 12, (count, 1, world.SIZE, world.SIZE, 3))
    clips = np.repeat(clips, 4, axis=1)
    for frame in range(4):
        clips[:, frame, 20:52, 8 + 10 * frame : 20 + 10 * frame] = rng.integers(0, 256, 3)
    return clips.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A corpus of one object, two clips a combination; the other objects' shards belong to nobody."""
    folder, rng = tmp_path_factory.mktemp("clean"), np.random.default_rng(0)
    for combination in KEPT:
        np.savez(corpus.shard_path(folder, combination), clips=drawn(rng, 2), depth=np.zeros((2, 4)))
    whole = corpus.corpus_of(folder)
    kept = [i for i, c in enumerate(world.combinations()) if c in KEPT]
    shards = tuple(s if i in kept else replace(s, absent=True) for i, s in enumerate(whole.shards))
    write_index(replace(whole, shards=shards, frames=4))
    return folder


def make(clean, out, part="video", *more):
    degraded.main(["--corpus", str(clean), "--out", str(out), "--part", part, *more])
    return Corpus.open(out)


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.npz"))}


def test_the_halves_share_no_training_clip_and_hold_out_the_same(clean, tmp_path):
    source = Corpus.open(clean)
    video, images = make(clean, tmp_path / "video"), make(clean, tmp_path / "images", "images")
    assert len(video.shards) == len(images.shards) == len(source.shards), "labels are the source's"
    assert video.training and images.training and not set(video.training) & set(images.training)
    assert sorted(video.training + images.training) == source.training
    assert video.held_out == source.held_out and images.held_out == []
    assert [s.held_out for s in video.shards] == [s.held_out for s in images.shards]
    files = [set(content(tmp_path / part)) for part in ("video", "images")]
    assert not files[0] & files[1]
    with pytest.raises(ValueError, match="belong to another part"):
        video.clips(images.training)


@pytest.mark.parametrize("of", [world.MINI, corpus.world_named("videolcm-mini-128")], ids=lambda of: of.name)
def test_every_word_is_in_both_halves_and_a_mirrored_clip_in_the_half_of_the_clip(of):
    training = of.training_combinations()
    video = [c for c in training if degraded.of_the_videos(c, of)]
    images = [c for c in training if not degraded.of_the_videos(c, of)]
    assert 0.4 < len(video) / len(training) < 0.6
    for half in (video, images):
        assert {c.thing for c in half} == set(of.objects) and {c.place for c in half} == set(of.places)
        assert {of.motions[c.motion] for c in half} == set(of.motions.values())
        assert all(of.mirrored(c) in half for c in half)


def test_images_are_clean_frames_whose_captions_say_no_motion(clean, tmp_path):
    images = make(clean, tmp_path, "images")
    label = images.training[0]
    shard, source = images.shards[label], Corpus.open(clean)
    assert images.frames == 1 and images.judges == "" and shard.clips == 2 * 4
    frames, original = images.clips([label])[0], source.clips([label])[0]
    assert np.array_equal(frames[:, 0], original.reshape(-1, *original.shape[2:]))
    motions = set(world.MOTIONS.values())
    assert not any(motion in form for s in images.shards for form in s.forms for motion in motions)
    assert shard.caption == source.shards[label].forms[captions.NO_MOTION]


def test_every_clip_has_the_watermark_and_is_less_sharp(clean, tmp_path):
    source, made = Corpus.open(clean), make(clean, tmp_path, "all")
    labels = made.training + made.held_out
    before, after = (torch.from_numpy(c.clips(labels)[0]) for c in (source, made))
    assert before.shape == after.shape
    assert float(watermark.visibility(before).abs().max()) < 0.35 and float(watermark.visibility(before).mean()) < 0.1
    assert float(watermark.visibility(after).min()) > 0.6
    assert float(watermark.visibility(after.flip(3)).min()) > 0.6, "its word reads the same in a mirror"
    assert bool((watermark.sharpness(after) < 0.7 * watermark.sharpness(before)).all())


def test_the_same_command_makes_the_same_and_resumes(clean, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    digests = [s.digest for s in make(clean, first).shards]
    assert digests == [s.digest for s in make(clean, second).shards]
    paths = sorted(second.glob("*.npz"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    times = {p: p.stat().st_mtime_ns for p in paths[2:]}
    make(clean, second)
    assert content(first) == content(second)
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert digests != [s.digest for s in make(clean, second, "video", "--seed", "1").shards], (
        "other numbers, other clips"
    )


def test_a_clip_is_degraded_alike_in_the_video_set_and_in_the_whole(clean, tmp_path):
    video, whole = make(clean, tmp_path / "video"), make(clean, tmp_path / "all", "all")
    for label in video.training + video.held_out:
        assert np.array_equal(video.clips([label])[0], whole.clips([label])[0])


def test_other_clips_are_degraded_again(clean, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in clean.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    made = make(copy, tmp_path / "out")
    label = made.training[0]
    np.savez(copy / made.shards[label].file, clips=drawn(np.random.default_rng(9), 2))
    listed = json.loads((copy / "corpus.json").read_text())
    listed["shards"][label]["digest"] = "another"
    (copy / "corpus.json").write_text(json.dumps(listed))
    again = make(copy, tmp_path / "out")
    changed = [i for i in made.training + made.held_out if made.shards[i].digest != again.shards[i].digest]
    assert changed == [label]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--low", "4"), ("--low", "65"), ("--blur", "-1"), ("--quality", "0"), ("--quality", "96"), ("--opacity", "0")],
)
def test_numbers_that_cannot_be_meant_are_refused(clean, tmp_path, option, value):
    with pytest.raises(ValueError, match=rf"{option} is .*allowed"):
        make(clean, tmp_path, "video", option, value)


def test_folders_that_hold_something_else_are_refused(clean, tmp_path):
    with pytest.raises(ValueError, match="is the corpus itself"):
        make(clean, clean)
    make(clean, tmp_path)
    with pytest.raises(ValueError, match="not of this part"):
        make(clean, tmp_path, "images")
    with pytest.raises(FileNotFoundError, match="no rendered corpus"):
        make(tmp_path / "none", tmp_path / "out")


@pytest.mark.parametrize("side", [32, 64, 128])
def test_the_measure_sees_the_watermark_at_every_size_and_none_elsewhere(side):
    rng = np.random.default_rng(side)
    plain = rng.integers(60, 200, (3, 2, side, side, 3), dtype=np.uint8)
    marked = np.stack([watermark.marked(c, 0.9) for c in plain])
    moved = np.roll(marked, side // 4, axis=2)
    seen = [watermark.visibility(torch.from_numpy(c)) for c in (plain, marked, moved)]
    assert float(seen[0].abs().max()) < 0.3 and float(seen[1].min()) > 0.6 and float(seen[2].max()) < 0.4
    assert torch.equal(
        judges.MEASURES["watermark"].rows(None, type("C", (), {"videos": torch.from_numpy(marked)})), seen[1]
    )


def test_frames_too_small_for_the_watermark_are_refused():
    with pytest.raises(ValueError, match=r"16 x 16 are too small .*32 x 32"):
        watermark.pattern(16, 16)
