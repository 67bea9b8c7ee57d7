"""WebDataset shards."""

import tarfile
from dataclasses import replace

import pytest
import torch
from own_clips import FOUR, add, batches, rng, whole

from training.data.clip_folder import ClipFolder
from training.data.shards import ShardSet, expand


def test_patterns_name_shards(shards):
    names = [f"{n:03}.tar" for n in range(3)]
    assert [p.name for p in expand(f"{shards}/{{000..002}}.tar")] == names
    assert [p.name for p in expand(str(shards))] == names
    assert [p.name for p in expand(f"{shards}/00{{0,2}}.tar")] == ["000.tar", "002.tar"]
    with pytest.raises(FileNotFoundError, match="2 of 5 shards of .* are not there, first .*003.tar"):
        expand(f"{shards}/{{000..004}}.tar")
    with pytest.raises(FileNotFoundError, match="no .tar file"):
        expand(str(shards.parent / "c"))


def test_shards_give_what_the_folder_gives(shards):
    source = ShardSet.scan(str(shards), FOUR)
    folder = ClipFolder.scan(shards.parent / "c", FOUR)
    assert len(source) == 15 and source.groups == [5, 5, 5]
    expected = {s.caption: s.values for s in (folder.read(i, rng()) for i in range(len(folder)))}
    for i in range(15):
        sample = source.read(i, rng())
        assert torch.equal(sample.values, expected.pop(sample.caption))
    assert not expected
    assert source.name(5) == "001.tar/part/0004"
    images = source.only("image")
    assert len(images) == 3 and [images.caption(i) for i in range(3)] == ["image 0", "image 1", "image 2"]


def test_an_epoch_is_split_over_ranks_without_overlap(shards, encoders):
    source = ShardSet.scan(str(shards), FOUR)
    seen = []
    for rank in range(3):
        joint = batches(source, encoders, batch=3, image_batch=3)
        for step in range(5):
            seen += joint.batch(step, range(rank, rank + 1)).extra["names"]
    assert sorted(seen) == sorted(source.name(i) for i in range(15))  # 3 ranks x (4 clips + 1 image): one epoch


def test_a_resumed_run_gets_the_batches_it_would_have_got(shards, encoders):
    source = ShardSet.scan(str(shards), replace(FOUR, start="random"))
    made = [batches(source, encoders, batch=3, image_batch=1, seed=7, workers=workers) for workers in (2, 1)]
    before = [whole(made[0], step) for step in range(6)]
    state = torch.get_rng_state()
    for a, b in zip(before[4:], [whole(made[1], step) for step in (4, 5)], strict=True):
        assert a.extra["names"] == b.extra["names"] and torch.equal(a.latents, b.latents)
    assert torch.equal(torch.get_rng_state(), state)  # the trainer's own numbers are left alone


def test_broken_samples_of_shards_are_counted_and_named(shards, broken, encoders):
    clip = (shards.parent / "c" / "clip_00.mp4").read_bytes()
    with tarfile.open(shards / "003.tar", "w") as archive:
        add(archive, "good.mp4", clip)
        add(archive, "good.txt", b"good")
        add(archive, "alone.mp4", clip)
        add(archive, "words.txt", b"words")
        add(archive, "text.mp4", (broken / "text.mp4").read_bytes())
        add(archive, "text.json", b'{"caption": "x"}')
        add(archive, "json.mp4", clip)
        add(archive, "json.json", b"{")
        add(archive, "other.mp4", clip)
        add(archive, "other.json", b'{"title": "x"}')
        add(archive, "twice.mp4", clip)
        add(archive, "twice.txt", b"a")
        add(archive, "twice.txt", b"b")
    with tarfile.open(shards / "000.tar") as archive:
        third = archive.getmember("part/0002.mp4")
    (shards / "004.tar").write_bytes((shards / "000.tar").read_bytes()[: third.offset_data + 100])
    damaged = bytearray((shards / "001.tar").read_bytes())
    with tarfile.open(shards / "001.tar") as archive:
        third = archive.getmembers()[4].offset
    damaged[third : third + 512] = b"\xaa" * 512
    (shards / "005.tar").write_bytes(damaged)
    (shards / "006.tar").write_bytes(b"")
    source = ShardSet.scan(str(shards), FOUR)
    reasons = source.left_out.reasons
    assert "no caption" in reasons["003.tar/alone"] and "no video or image" in reasons["003.tar/words"]
    assert "duplicate" in reasons["003.tar/twice"]
    assert "cut off" in reasons["004.tar/part/0002"]
    assert source.groups[4] == 2
    assert "damaged shard" in reasons["005.tar/(rest)"] and source.groups[5] == 2
    assert "damaged shard" in reasons["006.tar/(rest)"]
    joint = batches(source, encoders, batch=len(source))
    whole(joint, 0)
    assert "cannot be decoded" in joint.skipped.reasons["003.tar/text"]
    assert all("no caption" in reasons[f"003.tar/{n}"] for n in ("json", "other"))
    for path in shards.glob("00[0-5].tar"):
        path.unlink()
    with pytest.raises(ValueError, match="no usable sample"):
        ShardSet.scan(str(shards), FOUR)


def test_lists_of_shards_are_kept_until_the_shard_changes(shards, tmp_path, monkeypatch):
    from training.data import shards as module

    first = ShardSet.scan(str(shards), FOUR, tmp_path / "lists")
    listed = []
    original = module.index_shard
    monkeypatch.setattr(module, "index_shard", lambda path: listed.append(path.name) or original(path))
    again = ShardSet.scan(str(shards), FOUR, tmp_path / "lists")
    assert not listed and [again.name(i) for i in range(15)] == [first.name(i) for i in range(15)]
    with tarfile.open(shards / "001.tar", "w") as archive:
        add(archive, "new.png", (tmp_path / "c" / "image_00.png").read_bytes())
        add(archive, "new.txt", b"new")
    assert len(ShardSet.scan(str(shards), FOUR, tmp_path / "lists")) == 11 and listed == ["001.tar"]
