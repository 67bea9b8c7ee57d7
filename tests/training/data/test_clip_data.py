"""Own clips as training data: decoding, folders, shards, batches, the cache of latents."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from training.data import cache, latents
from training.data.batches import BatchOptions, SourceBatches
from training.data.cache_files import CachedClips, IndexWriter, write_atomically
from training.data.clip_folder import ClipFolder
from training.data.decode import FrameSampling, decode_image, decode_video
from training.data.mixing import Ratio, SingleFrames
from training.data.shards import ShardSet, expand
from training.data.source import BrokenSampleError, Order

ROOT = Path(__file__).resolve().parents[3]
START = ROOT / "models" / "videolcm-mini-teacher.safetensors"
FOUR = FrameSampling(frames=4, fps=8, width=16, height=16, start="first")
LEVELS = 8  # grey levels from one frame to the next: far more than coding changes them


def write_clip(path, frames=16, fps=8, size=(32, 32), shift=0, **options):
    """A clip whose n-th frame is grey of level 8 n (+ shift)."""
    codec = {".gif": "gif", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "10", "crf": "4", **options})
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for n in range(frames):
            picture = np.full((size[1], size[0], 3), (LEVELS * n + shift) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(decoded):
    """Which frames these are, by their level."""
    return [round(float(level) / LEVELS) for level in np.asarray(decoded).astype(float).mean((1, 2, 3))]


def rng(seed=0):
    return np.random.default_rng(seed)


# Decoding


@pytest.mark.parametrize(
    ("fps", "wanted"), [(24, [0, 3, 6, 9]), (8, [0, 1, 2, 3]), (4, [0, 0, 1, 1]), (30, [0, 4, 7, 11])]
)
def test_frames_are_the_nearest_to_the_sampling_instants(tmp_path, fps, wanted):
    clip = write_clip(tmp_path / "a.mp4", 20, fps)
    decoded = decode_video(clip, FOUR, rng())
    assert decoded.shape == (4, 16, 16, 3) and decoded.dtype == np.uint8
    assert numbers(decoded) == wanted
    assert numbers(decode_video(clip.read_bytes(), FOUR, rng())) == wanted


@pytest.mark.parametrize("ending", [".mkv", ".avi", ".mov", ".gif", ".webm"])
def test_other_containers_give_the_same_frames(tmp_path, ending):
    options = {"container": {}} if ending != ".webm" else {}
    path = tmp_path / f"a{ending}"
    if ending == ".webm":  # WebM takes no H.264: the content decides, not the name
        write_clip(tmp_path / "a.mkv").rename(path)
    else:
        write_clip(path, 16, 10 if ending == ".gif" else 8, **options)
    sampling = replace(FOUR, fps=5.0 if ending == ".gif" else 4.0, start="middle")
    decoded = decode_video(path, sampling, rng())
    if ending == ".gif":  # eight levels only
        assert decoded.shape == (4, 16, 16, 3) and (np.diff(decoded.mean((1, 2, 3))) >= 0).all()
    else:
        assert numbers(decoded) == [4, 6, 8, 10] or numbers(decoded) == [5, 7, 9, 11]


def test_a_clip_of_exactly_the_length_has_one_start(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 16)
    sampling = replace(FOUR, frames=16, start="random")
    for seed in range(5):
        assert numbers(decode_video(clip, sampling, rng(seed))) == list(range(16))


def test_random_starts_reach_the_whole_clip_and_repeat_with_their_seed(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 24)
    sampling = replace(FOUR, start="random")
    starts = [numbers(decode_video(clip, sampling, rng(seed))) for seed in range(60)]
    assert all(np.diff(frames).tolist() == [1, 1, 1] for frames in starts)
    assert {frames[0] for frames in starts} >= {1, 10, 19, 20} and min(f[0] for f in starts) >= 0
    assert max(frames[-1] for frames in starts) == 23
    again = [numbers(decode_video(clip, sampling, rng(seed))) for seed in range(60)]
    assert starts == again


def test_a_clip_with_damage_inside_is_noticed(tmp_path):
    path = write_clip(tmp_path / "a.mkv", 16, 8, (64, 64), crf="0")
    data = bytearray(path.read_bytes())
    picture = np.random.default_rng(0).bytes(len(data) // 3)
    data[len(data) // 2 : len(data) // 2 + len(picture)] = picture
    with pytest.raises(BrokenSampleError, match="damaged|cannot be decoded|too short|cut off"):
        decode_video(bytes(data), replace(FOUR, frames=16), rng())


def test_short_clips_are_skipped_or_held_and_never_grey(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 3, shift=100)
    with pytest.raises(BrokenSampleError, match="too short: it has 3 of 4 frames at 8 per second"):
        decode_video(clip, FOUR, rng())
    held = decode_video(clip, replace(FOUR, short="hold"), rng())
    expected = [100, 108, 116, 116]
    assert np.abs(held.mean((1, 2, 3)) - expected).max() < 3
    assert (held[2] == held[3]).all()


def test_pictures_are_cut_in_the_middle_or_stretched(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(wide, format="rgb24")))
        container.mux(stream.encode())
    one = replace(FOUR, frames=1)
    for decoded in (
        lambda s: decode_image(tmp_path / "a.png", s),
        lambda s: decode_video(tmp_path / "a.mp4", s, rng()),
    ):
        cut, whole = decoded(one), decoded(replace(one, fit="stretch", width=24))
        assert cut.shape == (1, 16, 16, 3) and cut.mean() > 245
        assert whole.shape == (1, 16, 24, 3) and np.abs(whole[0, :, [0, 12, 23]].mean((1, 2)) - [0, 255, 0]).max() < 12


def test_turned_clips_and_photographs_are_upright(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = 255  # left half white
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 0x10000
    turned = [0, one, 0, -one, 0, 0, 0, 0, 0x40000000]  # as a phone writes it: a quarter turn clockwise
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    upright = decode_video(bytes(data), replace(FOUR, frames=1, width=16, height=32), rng())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    for decoded in (upright, decode_image(tmp_path / "a.jpg", replace(FOUR, frames=1, width=16, height=32))):
        assert decoded.shape == (1, 32, 16, 3)
        assert decoded[0, :12].mean() > 240 and decoded[0, 20:].mean() < 15


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png", replace(FOUR, width=8, height=8)) == 255).all()


@pytest.fixture
def broken(tmp_path):
    """Files that are no usable clips, by what is wrong."""
    folder = tmp_path / "broken"
    folder.mkdir()
    late = write_clip(tmp_path / "late.mp4", 40).read_bytes()
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    contents = {
        "truncated.mp4": late[: len(late) // 2],
        "empty.mp4": b"",
        "text.mp4": b"This is no video.\n" * 50,
        "image.png": (tmp_path / "whole.png").read_bytes()[:2000],
        "empty.jpg": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated.mp4", "cannot be decoded"),
        ("empty.mp4", "cannot be decoded"),
        ("text.mp4", "cannot be decoded"),
        ("sound.mp4", "has no video"),
        ("image.png", "cannot be decoded"),
        ("empty.jpg", "cannot be decoded"),
    ],
)
def test_broken_files_say_what_is_wrong(broken, name, reason):
    sampling = replace(FOUR, frames=32)
    with pytest.raises(BrokenSampleError, match=reason):
        if name.endswith("4"):
            decode_video(broken / name, sampling, rng())
        else:
            decode_image(broken / name, sampling)


@pytest.mark.parametrize("short", ["skip", "hold"])
def test_a_clip_that_was_cut_off_between_two_frames_is_noticed_and_not_held(tmp_path, short):
    path = write_clip(tmp_path / "a.mp4", 40, container={"movflags": "faststart"}, bf="0")
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    data = path.read_bytes()[: packets[20].pos]
    with pytest.raises(BrokenSampleError, match=r"cut off: the file promises 5.00 s and ends after 2[01] of 32 frames"):
        decode_video(data, replace(FOUR, frames=32, short=short), rng())


def test_lists_of_other_files_are_no_clips_whatever_their_name(tmp_path):
    write_clip(tmp_path / "other.mp4")
    path = tmp_path / "a.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with av.open(str(path)) as container:  # FFmpeg itself would follow the list
        assert sum(1 for _ in container.decode(video=0)) == 16
    with pytest.raises(BrokenSampleError, match="cannot be decoded"):
        decode_video(path, FOUR, rng())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": "last"}, "start is 'last'; allowed: random, first, middle"),
        ({"frames": 0}, "frames is 0"),
        ({"fps": 0.0}, "fps is 0"),
        ({"width": 20}, "width is 20; allowed: multiples of 8"),
    ],
)
def test_wrong_sampling_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        FrameSampling(**wrong)


# Folders


def make_folder(folder, count=6, images=0, first=0):
    """Clips ``clip_00.mp4`` and images with captions beside them; the n-th begins at level 2 n."""
    folder.mkdir(exist_ok=True)
    for n in range(first, first + count):
        write_clip(folder / f"clip_{n:02}.mp4", 8, shift=2 * n)
        (folder / f"clip_{n:02}.txt").write_text(f"clip {n}\n")
    for n in range(images):
        Image.new("RGB", (16, 16), (20 * n, 0, 0)).save(folder / f"image_{n:02}.png")
        (folder / f"image_{n:02}.txt").write_text(f"image {n}")
    return folder


def test_a_folder_gives_clips_images_and_captions(tmp_path):
    folder = ClipFolder.scan(make_folder(tmp_path / "c", 2, 2), FOUR)
    samples = [folder.read(i, rng()) for i in range(len(folder))]
    assert [s.caption for s in samples] == ["clip 0", "clip 1", "image 0", "image 1"]
    assert [tuple(s.values.shape) for s in samples] == [(4, 16, 16, 3)] * 2 + [(1, 16, 16, 3)] * 2
    assert len(folder.only("video")) == len(folder.only("image")) == 2
    assert folder.only("image").read(1, rng()).values[0, 0, 0].tolist() == [20, 0, 0]


@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("captions.json", '{"a.mp4": "one", "in/b.mp4": "two, with \\" and ☃"}'),
        ("captions.json", '[{"file": "a.mp4", "caption": "one"}, {"file": "in/b.mp4", "text": "two, with \\" and ☃"}]'),
        ("captions.csv", '\ufefffile_name,caption,more\na.mp4,one,1\n"in\\b.mp4","two, with "" and ☃",2\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.mp4", "text": "one"}\n\n{"path": "in/b.mp4", "text": "two, with \\" and ☃"}',
        ),
    ],
)
def test_tables_of_captions(tmp_path, table, content):
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "a.mp4", 4)
    write_clip(tmp_path / "in" / "b.mp4", 4)
    (tmp_path / table).write_text(content, encoding="utf-8")
    folder = ClipFolder.scan(tmp_path, FOUR)
    assert [(c.name, c.caption) for c in folder.clips] == [("a.mp4", "one"), ("in/b.mp4", 'two, with " and ☃')]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no clip and no image"),
        ({"a.mp4": None, "b.mp4": None}, "2 of 2 clips in .* have no caption: a.mp4, b.mp4"),
        ({"a.mp4": None, "b.mp4": None, "a.txt": "A"}, "1 of 2 clips .* have no caption: b.mp4.*--missing-captions"),
        ({"a.mp4": None, "a.txt": " \n"}, "1 of 1 clips .* have no caption"),
        ({"a.mp4": None, "a.mkv": None, "a.txt": "A"}, "both a.mkv and a.mp4"),
        ({"a.mp4": None, "captions.json": '{"a.mp4": "A", "a.mp4": "B"}'}, "a.mp4 twice"),
        ({"a.mp4": None, "captions.csv": "file,text\na.mp4,A\na.mp4,B\n"}, "a.mp4 twice"),
        ({"a.mp4": None, "captions.csv": "clip,words\na.mp4,A\n"}, "columns clip, words; needed"),
        ({"a.mp4": None, "captions.json": "{"}, "cannot be read"),
        ({"a.mp4": None, "captions.json": '["a.mp4"]'}, "a row 'a.mp4'; allowed: objects"),
        ({"a.mp4": None, "captions.json": '{"a.mp4": 3}'}, "caption of a.mp4 is 3; allowed: a text"),
        ({"a.mp4": None, "a.txt": "A", "captions.json": "{}"}, "captions.json and 1 NAME.txt files; allowed: one"),
        ({"a.mp4": None, "a.txt": b"\xff\xfe\x00"}, "is not UTF-8"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, files, message):
    for name, content in files.items():
        data = content if isinstance(content, bytes) else (content or "").encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        ClipFolder.scan(tmp_path, FOUR)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        ClipFolder.scan(tmp_path / "nowhere", FOUR)


def test_clips_without_caption_can_be_left_out_and_are_named(tmp_path):
    make_folder(tmp_path, 2)
    write_clip(tmp_path / "silent.mp4", 8)
    folder = ClipFolder.scan(tmp_path, FOUR, missing="skip")
    assert len(folder) == 2 and folder.left_out.reasons == {"silent.mp4": "no caption"}
    table = {"clip_00.mp4": "a", "clip_01.mp4": "b", "silent.mp4": "c", "gone.mp4": "d"}
    for text in tmp_path.glob("*.txt"):
        text.unlink()
    (tmp_path / "captions.json").write_text(json.dumps(table))
    assert "no such clip" in ClipFolder.scan(tmp_path, FOUR).left_out.reasons["gone.mp4"]


# Batches


def batches(source, encoders=None, **options):
    return SourceBatches(source.only("video"), source.only("image"), BatchOptions(**options), encoders)


def whole(batches, step):
    return batches.batch(step, range(batches.size(step)))


@pytest.fixture(scope="module")
def encoders():
    return cache.Encoders.load(START)


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


# Shards


def add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    """Three shards ``000`` to ``002``: four clips with JSON, one image with text, in each."""
    make_folder(tmp_path / "c", 12, 3)
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"{shard:03}.tar", "w") as archive:
            for n in range(4 * shard, 4 * shard + 4):
                add(archive, f"part/{n:04}.mp4", (tmp_path / "c" / f"clip_{n:02}.mp4").read_bytes())
                add(archive, f"part/{n:04}.json", json.dumps({"caption": f"clip {n}", "views": 3}).encode())
            add(archive, f"part/i{shard}.png", (tmp_path / "c" / f"image_{shard:02}.png").read_bytes())
            add(archive, f"part/i{shard}.txt", f"image {shard}".encode())
    return folder


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
    assert all("no caption" in joint.skipped.reasons[f"003.tar/{n}"] for n in ("json", "other"))
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


# The cache


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
