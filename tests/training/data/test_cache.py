"""The cache of latents and text embeddings."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_clips import ROOT, START, batches, make_folder, rng, whole, write_clip

from training.data import cache, latents
from training.data.cache_files import CachedClips, IndexWriter, write_atomically
from training.data.clip_folder import ClipFolder
from training.data.decode import FrameSampling
from training.data.mixing import Ratio, SingleFrames
from training.data.shards import ShardSet

SMALL = FrameSampling(frames=2, fps=8, width=16, height=16)


def build(clips, out, encoders, sampling=SMALL, **options):
    return cache.build(ClipFolder.scan(clips, sampling), sampling, encoders, out, **options)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_cached_latents_are_those_of_the_clips(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 3, 1), tmp_path / "out"
    report = build(clips, out, encoders)
    assert (report.encoded, report.kept) == (4, 0)
    cached = CachedClips.open(out, encoders.identity)
    sampling = replace(SMALL, start="first")
    assert build(clips, tmp_path / "first", encoders, sampling).encoded == 4
    fixed, folder = CachedClips.open(tmp_path / "first"), ClipFolder.scan(clips, sampling)
    for i in range(4):
        pixels = folder.read(i, rng()).values
        sample = fixed.read(i, rng())
        expected = latents.encode_clips(encoders.autoencoder, pixels[None].numpy())[0]
        assert sample.values.shape == (4, len(pixels), 2, 2) and sample.values.dtype == torch.float16
        assert torch.equal(sample.values, expected)
        assert sample.caption == folder.caption(i) and torch.equal(sample.text, encoders.text(sample.caption))
    assert torch.equal(cached.empty_text, encoders.text(""))
    joint = batches(cached, batch=3, image_batch=2)
    assert whole(joint, 0).latents.shape == (3, 4, 2, 2, 2) and whole(joint, 3).latents.shape == (2, 4, 1, 2, 2)
    assert whole(joint, 0).context.shape == (3, 77, 128)
    assert SingleFrames(cached.only("video")).read(0, rng()).values.shape == (4, 1, 2, 2)


def test_the_same_command_again_encodes_only_what_changed(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 4), tmp_path / "out"
    build(clips, out, encoders)
    before = content(out)
    report = build(clips, out, encoders)
    assert (report.encoded, report.kept) == (0, 4) and content(out) == before
    (clips / "clip_00.mp4").touch()  # another time, the same content
    assert build(clips, out, encoders).encoded == 0
    write_clip(clips / "clip_01.mp4", 8, shift=77)
    (clips / "clip_02.txt").write_text("another caption")
    report = build(clips, out, encoders)
    assert (report.encoded, report.kept, report.anew) == (2, 2, "")
    assert CachedClips.open(out).read(2, rng()).caption == "another caption"
    (clips / "clip_03.mp4").unlink(), (clips / "clip_03.txt").unlink()
    report = build(clips, out, encoders)
    assert report.removed == 1 and len(CachedClips.open(out)) == 3 and len(content(out)) == 4


def test_another_encoder_or_sampling_begins_anew(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 2), tmp_path / "out"
    build(clips, out, encoders)
    report = build(clips, out, encoders, replace(SMALL, fps=4.0))
    assert report.encoded == 2 and report.anew == "the sampling changed"
    changed = cache.Encoders.load(START)
    with torch.no_grad():
        next(changed.autoencoder.parameters()).add_(0.1)
    other = replace(changed, identity={**changed.identity, "autoencoder": latents.fingerprint(changed.autoencoder)})
    with pytest.raises(ValueError, match=r"other encoders.*Repeat the cache command"):
        CachedClips.open(out, other.identity)
    report = build(clips, out, other, replace(SMALL, fps=4.0))
    assert report.encoded == 2 and report.anew == "the encoders' weights changed"
    assert len(CachedClips.open(out, other.identity)) == 2


def test_a_damaged_file_is_named_skipped_and_made_again(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 3), tmp_path / "out"
    build(clips, out, encoders)
    before = content(out)
    cached = CachedClips.open(out)
    victim = out / cached.entries[1]["file"]
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)
    (out / cached.entries[2]["file"]).unlink()
    joint = batches(cached, batch=9, ratio=Ratio(images=0))
    assert set(whole(joint, 0).extra["names"]) == {"clip_00.mp4#0"}
    reasons = joint.skipped.reasons
    assert "another checksum" in reasons["clip_01.mp4#0"] and victim.name in reasons["clip_01.mp4#0"]
    assert "missing" in reasons["clip_02.mp4#0"]
    made = build(clips, out, encoders)
    assert made.encoded == 2 and any(victim.name in line for line in made.remade)
    assert f"Damaged, made again: {victim.name}" in made.summary(3)
    assert content(out) == before


def test_a_damaged_index_begins_anew(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 1), tmp_path / "out"
    build(clips, out, encoders)
    (out / "index.json").write_text("{")
    with pytest.raises(ValueError, match="index.json is damaged"):
        CachedClips.open(out)
    report = build(clips, out, encoders)
    assert report.encoded == 1 and "damaged" in report.anew


def test_takes_are_other_parts_of_a_clip(tmp_path, encoders):
    clips, out = tmp_path / "c", tmp_path / "out"
    make_folder(clips, 1, 1)
    write_clip(clips / "clip_00.mp4", 30)
    assert build(clips, out, encoders, takes=3).encoded == 4
    cached = CachedClips.open(out).only("video")
    assert cached.names == ("clip_00.mp4#0", "clip_00.mp4#1", "clip_00.mp4#2")
    values = [cached.read(i, rng()).values for i in range(3)]
    assert not torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])


def test_a_cache_of_other_clips_is_not_overwritten(tmp_path, encoders):
    out = tmp_path / "out"
    build(make_folder(tmp_path / "a", 1), out, encoders)
    before = content(out)
    with pytest.raises(ValueError, match="cache of other clips"):
        build(make_folder(tmp_path / "b", 1, first=5), out, encoders)
    assert content(out) == before


def test_broken_clips_do_not_stop_the_cache(tmp_path, encoders, broken):
    clips, out = make_folder(tmp_path / "c", 2), tmp_path / "out"
    for name in ("truncated.mp4", "empty.mp4", "text.mp4"):
        (clips / name).write_bytes((broken / name).read_bytes())
        (clips / name).with_suffix(".txt").write_text("x")
    report = build(clips, out, encoders)
    assert report.encoded == 2
    text = report.summary(5)
    assert "3 of 5 samples were left out" in text and "truncated.mp4: cannot be decoded" in text
    for path in clips.glob("clip_*"):
        path.unlink()
    with pytest.raises(ValueError, match="no clip can be used. 3 of 3 samples were left out"):
        build(clips, tmp_path / "none", encoders)


def test_shards_are_cached_too(shards, tmp_path, encoders):
    out = tmp_path / "out"
    report = cache.build(ShardSet.scan(str(shards), SMALL), SMALL, encoders, out)
    assert report.encoded == 15 and len(CachedClips.open(out).only("image")) == 3
    report = cache.build(ShardSet.scan(str(shards), SMALL), SMALL, encoders, out)
    assert (report.encoded, report.kept) == (0, 15)


def test_a_full_disk_keeps_the_old_file_and_is_named(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    write_atomically(b"old", path)

    def full(self, data):
        self.open("wb").write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"index.json cannot be written \(No space left on device\).*Make room"):
        write_atomically(b"new", path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_killed_command_resumes_and_ends_the_same(tmp_path, encoders):
    clips, out = make_folder(tmp_path / "c", 60), tmp_path / "out"
    words = ["-m", "training.data.cache", "--clips", clips, "--start", START, "--out", out, "--frames", "4"]
    command = [sys.executable, *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while process.poll() is None and not (out / "index.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    listed = json.loads((out / "index.json").read_text())["entries"]
    assert process.returncode == -signal.SIGKILL and 0 < len(listed) < 60
    (out / ("0" * 24 + ".safetensors.part")).write_bytes(b"half")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{60 - len(listed)} encoded, {len(listed)} were there" in done.stdout
    assert "of the captions' words are unknown to the text encoder" in done.stdout
    assert "encode: 100%" in done.stderr
    sampling = replace(SMALL, frames=4, width=64, height=64)
    build(clips, tmp_path / "whole", encoders, sampling)
    assert content(out) == content(tmp_path / "whole")
    assert not list(out.glob("*.part"))


def test_the_index_is_written_rarely_when_writing_takes_long(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    writer = IndexWriter(tmp_path, {})
    written = []
    monkeypatch.setattr(
        "training.data.cache_files.write_atomically",
        lambda *a: (written.append(now[0]), now.__setitem__(0, now[0] + 2)),
    )
    while now[0] < 100:
        now[0] += 0.5
        writer.save()
    assert len(written) <= 4
