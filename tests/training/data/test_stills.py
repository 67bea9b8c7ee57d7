"""Images beside clips: a folder, shards or a corpus, with captions of their own, at the clips' size."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from own_clips import add, make_folder, whole
from PIL import Image

from training.data.batches import BatchOptions
from training.data.corpus import Corpus, Shard, write_index
from training.data.decode import FrameSampling
from training.data.mixing import Ratio
from training.data.opening import DataSpec, open_batches
from training.data.stills import open_images

SMALL = FrameSampling(frames=4, fps=8, width=16, height=16)
CLIPS_ONLY = Ratio(images=0, clips=1)


def image_folder(folder, count=5, size=(40, 24)):
    """Images whose red is 10 times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.new("RGB", size, (10 * n, 0, 255)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"image number {n}")
    return folder


def image_shards(folder, count=5):
    images = image_folder(folder / "files", count)
    with tarfile.open(folder / "0.tar", "w") as archive:
        for n in range(count):
            add(archive, f"{n}.png", (images / f"{n}.png").read_bytes())
            add(archive, f"{n}.txt", f"image number {n}".encode())
    return folder / "0.tar"


def image_corpus(folder, count=5):
    """A corpus whose n-th clip has red 10 n on each frame; the last shard is held out."""
    folder.mkdir()
    shards = []
    for n in range(count + 1):
        clips = np.zeros((1, 3, 24, 40, 3), np.uint8)
        clips[..., 0], clips[..., 2] = 10 * n, 255
        np.savez(folder / f"{n}.npz", clips=clips)
        forms = (f"clip {n} moves", f"clip {n}", f"image number {n}", f"{n}", "")
        shards.append(Shard(file=f"{n}.npz", forms=forms, clips=1, digest=str(n), held_out=n == count))
    write_index(Corpus(folder=folder, shards=tuple(shards), world="w", width=40, height=24, frames=3, fps=8.0))
    return folder


@pytest.fixture(params=["folder", "shards", "corpus"])
def images(request, tmp_path):
    return {"folder": image_folder, "shards": image_shards, "corpus": image_corpus}[request.param](tmp_path / "images")


def batches_of(tmp_path, images, teacher, **options):
    clips = make_folder(tmp_path / "clips", 4)
    spec = DataSpec(clips=clips, image_set=str(images), sampling=SMALL)
    given = {"batch": 4, "ratio": CLIPS_ONLY, "stills": 2, "workers": 0}
    return open_batches(spec, BatchOptions(**(given | options)), teacher, quiet=True)


def number_of(pixels):
    """Of an image ``[3, H, W]``, by its red."""
    return round(float(pixels[0].mean()) * 25.5)


def test_each_clip_has_images_with_captions_of_their_own(tmp_path, images, teacher):
    batches = batches_of(tmp_path, images, teacher)
    batch = whole(batches, 0)
    stills = batch.stills
    assert stills.pixels.shape == (4, 2, 3, 16, 16) and stills.pixels.dtype == torch.float32 and batch.pixels is None
    shown = [number_of(image) for image in stills.pixels.flatten(0, 1)]
    assert list(stills.captions) == [f"image number {n}" for n in shown]
    assert stills.text.shape == (4, 2, *batch.context.shape[1:])
    expected = torch.cat([batches.uncond_context(caption) for caption in stills.captions])
    assert torch.equal(stills.text.flatten(0, 1), expected)
    assert all(caption.startswith("clip") for caption in batch.extra["captions"])


def test_every_image_is_drawn_once_in_an_epoch(tmp_path, images, teacher):
    batches = batches_of(tmp_path, images, teacher, batch=5, stills=1)
    for step in (0, 1):
        assert sorted(whole(batches, step).stills.captions) == [f"image number {n}" for n in range(5)]
    assert whole(batches, 0).stills.captions != whole(batches, 1).stills.captions


def test_any_part_of_a_step_has_the_images_of_the_whole(tmp_path, images, teacher):
    one, other = (batches_of(tmp_path, images, teacher, workers=workers) for workers in (0, 2))
    for step in (0, 3):
        expected = whole(one, step).stills
        parts = [other.batch(step, range(r, r + 2)).stills for r in (0, 2)]
        assert torch.equal(torch.cat([p.pixels for p in parts]), expected.pixels)
        assert torch.equal(torch.cat([p.text for p in parts]), expected.text)
        assert parts[0].captions + parts[1].captions == expected.captions


def test_steps_on_images_take_them_too(tmp_path, images, teacher):
    batches = batches_of(tmp_path, images, teacher, ratio=Ratio(images=1, clips=1), image_batch=5, stills=1)
    assert whole(batches, 0).stills is not None and not whole(batches, 0).images
    step = whole(batches, 1)
    assert step.images and step.stills is None and step.latents.shape == (5, 4, 1, 2, 2)
    assert sorted(step.extra["captions"]) == [f"image number {n}" for n in range(5)]


def test_frames_of_the_clips_beside_their_latents(tmp_path, teacher):
    clips = make_folder(tmp_path / "clips", 4)
    options = BatchOptions(batch=4, ratio=CLIPS_ONLY, pixels=True, workers=0)
    batch = whole(open_batches(DataSpec(clips=clips, sampling=SMALL), options, teacher, quiet=True), 0)
    assert batch.pixels.shape == (4, 3, 4, 16, 16) and batch.stills is None
    again = torch.stack([teacher.autoencoder.encode(p.transpose(0, 1)).transpose(0, 1) for p in batch.pixels])
    assert (again - batch.latents).abs().max() < 0.05 * batch.latents.std()  # encoded in bfloat16, kept in float16


def test_frames_of_a_corpus_are_those_of_its_latents_mirrored_or_not(tmp_path, teacher):
    folder = image_corpus(tmp_path / "corpus")
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    for n in range(6):
        clips = np.zeros((1, 3, 24, 40, 3), np.uint8) + np.array([10 * n, 0, 0], np.uint8)
        clips[..., 1] = ramp
        np.savez(folder / f"{n}.npz", clips=clips)
    options = BatchOptions(batch=10, ratio=CLIPS_ONLY, pixels=True, workers=0)
    batch = whole(open_batches(DataSpec(corpus=folder), options, teacher), 0)
    for index, pixels, latents in zip(batch.extra["index"].tolist(), batch.pixels, batch.latents, strict=True):
        assert number_of(pixels[:, 0]) == index % 5
        assert (pixels[1, 0, 0, 0] > pixels[1, 0, 0, -1]) == (index >= 5), "from the middle on they are mirrored"
        again = teacher.autoencoder.encode(pixels.transpose(0, 1)).transpose(0, 1)
        assert (again - latents).abs().max() < 0.05 * latents.std() + 0.01


def test_what_a_stride_cannot_change_is_told(tmp_path, teacher, capsys):
    folder, options = image_corpus(tmp_path / "corpus"), BatchOptions(batch=2, ratio=CLIPS_ONLY, workers=0)
    open_batches(DataSpec(corpus=folder, sampling=replace(SMALL, stride=8)), options, teacher)
    assert "frame stride and crop area have no effect" in capsys.readouterr().out
    open_batches(DataSpec(corpus=folder, sampling=SMALL), options, teacher)
    clips = DataSpec(clips=make_folder(tmp_path / "clips", 2), sampling=replace(SMALL, stride=1))
    open_batches(clips, options, teacher)
    assert "no effect" not in capsys.readouterr().out


def test_a_cache_has_no_frames_and_says_so(tmp_path, teacher):
    clips = make_folder(tmp_path / "clips", 2)
    spec = DataSpec(clips=clips, cache=tmp_path / "cache", sampling=SMALL)
    options = BatchOptions(batch=2, ratio=CLIPS_ONLY, pixels=True, workers=0)
    with pytest.raises(ValueError, match=r"are latents, and real frames are wanted .*--image-set"):
        whole(open_batches(spec, options, teacher, quiet=True), 0)


def test_a_cache_beside_images_is_enough(tmp_path, images, teacher):
    clips = make_folder(tmp_path / "clips", 2)
    spec = DataSpec(clips=clips, cache=tmp_path / "cache", sampling=SMALL, image_set=str(images))
    options = BatchOptions(batch=2, ratio=CLIPS_ONLY, stills=3, workers=0)
    assert whole(open_batches(spec, options, teacher, quiet=True), 0).stills.pixels.shape == (2, 3, 3, 16, 16)


def test_images_smaller_than_the_frames_are_counted_and_refused_where_all_are(tmp_path, teacher):
    folder = image_folder(tmp_path / "images", 4)
    Image.new("RGB", (10, 10)).save(folder / "0.png")
    batches = batches_of(tmp_path, folder, teacher)
    assert all("number 0" not in caption for step in (0, 1) for caption in whole(batches, step).stills.captions)
    assert "0.png: too small: it is 10 x 10 and the frames 16 x 16" in batches.left_out()
    small = image_folder(tmp_path / "small", 3, size=(8, 8))
    with pytest.raises(ValueError, match=r"(?s)none of the 3 samples can be used.*too small: it is 8 x 8.*Mend"):
        whole(batches_of(tmp_path, small, teacher), 0)


@pytest.mark.parametrize("kind", ["absent", "clips only", "empty", "no captions"])
def test_what_holds_no_image_is_refused(tmp_path, kind):
    folder = tmp_path / "images"
    messages = {
        "absent": "--image-set .* is not there; allowed: a folder of images",
        "clips only": r"holds no image \(2 clips\); allowed: still images",
        "empty": "has no clip and no image",
        "no captions": "have no caption",
    }
    if kind == "clips only":
        make_folder(folder, 2)
    elif kind != "absent":
        folder.mkdir()
    if kind == "no captions":
        Image.new("RGB", (32, 32)).save(folder / "a.png")
    with pytest.raises((ValueError, FileNotFoundError), match=messages[kind]):
        open_images(str(folder), SMALL, "error")
