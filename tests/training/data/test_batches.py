"""One entry for all data; the batch of a step does not depend on who asks for which part of it."""

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from training.data import opening
from training.data.batches import BatchOptions, SourceBatches
from training.data.cache_files import CachedClips
from training.data.corpus import Corpus, CorpusClips, Shard
from training.data.decode import FrameSampling
from training.data.encoders import Encoders, chosen_encoders
from training.data.latents import LatentClips
from training.data.mixing import Ratio
from training.data.opening import DataSpec, caption_vocabulary, open_batches
from training.data.tokens import tokenize
from training.mini import captions, world
from videolcm_core.networks.autoencoder import TinyAutoencoder

ROOT = Path(__file__).resolve().parents[3]
SAMPLING = FrameSampling(frames=3, fps=8, width=16, height=16)


def write_clip(path, shift=0, frames=8):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "4"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for n in range(frames):
            picture = np.full((32, 32, 3), 16 * n + shift, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips, one that is broken, two images."""
    folder = tmp_path_factory.mktemp("clips")
    for n in range(3):
        write_clip(folder / f"{n}.mp4", 20 * n)
    (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:300])
    for n in range(2):
        Image.new("RGB", (20, 20), (50 * n, 0, 99)).save(folder / f"{n}.png")
    names = sorted(p.name for p in folder.iterdir())
    (folder / "captions.json").write_text(json.dumps({name: f"a horse number {name[0]}" for name in names}))
    return folder


@pytest.fixture(scope="module")
def corpus():
    generator = torch.Generator().manual_seed(1)
    return LatentClips(latents=torch.randn(10, 4, 3, 2, 2, generator=generator).half(), labels=torch.arange(10))


def whole(batches, step):
    return batches.batch(step, range(batches.size(step)))


def equal(first, second):
    same = torch.equal(first.latents, second.latents) and torch.equal(first.context, second.context)
    return same and first.images == second.images and first.extra["names"] == second.extra["names"]


def corpus_batches(corpus, teacher, **options):
    options = BatchOptions(**({"batch": 4, "image_batch": 6} | options))
    shards = tuple(Shard(file="", forms=captions.caption_forms(c), clips=1, digest="") for c in world.combinations())
    listed = Corpus(folder=Path(), shards=shards, world="", width=64, height=64, frames=16, fps=8)
    videos = CorpusClips(corpus=listed, latents=corpus.latents, labels=corpus.labels)
    return SourceBatches(videos, replace(videos, single=True), options, Encoders.of_teacher(teacher))


def test_parts_of_a_step_make_the_whole_in_any_order(corpus, teacher, clips):
    spec = DataSpec(clips=clips)
    makers = (
        lambda **o: corpus_batches(corpus, teacher, **o),
        lambda **o: open_batches(spec, BatchOptions(**({"batch": 4, "image_batch": 6} | o)), teacher),
    )
    for make in makers:
        one, ranks = make(workers=0), [make(workers=2), make(workers=1, read_ahead=3)]
        for step in (0, 3, 4, 2, 9):
            size = one.size(step)
            expected = whole(one, step)
            parts = [b.batch(step, range(r * size // 2, (r + 1) * size // 2)) for r, b in enumerate(ranks)]
            assert torch.equal(torch.cat([p.latents for p in parts]), expected.latents)
            assert torch.equal(torch.cat([p.context for p in parts]), expected.context)
            assert expected.images == (step % 4 == 3) and len(expected.latents) == (6 if step % 4 == 3 else 4)
            assert (
                expected.latents.shape[2] == (1 if expected.images else 3) and expected.latents.dtype == torch.float32
            )
        assert not equal(expected, whole(make(workers=0, seed=1), 9))


def test_an_epoch_shows_every_clip_once(corpus, teacher):
    batches = corpus_batches(corpus, teacher, batch=5, ratio=Ratio(images=0))
    seen = torch.cat([whole(batches, step).extra["index"] for step in (0, 1)])
    assert sorted(seen.tolist()) == list(range(10))
    batch = whole(batches, 0)
    rows = corpus.latents[batch.extra["index"]].float()
    assert torch.equal(batch.latents, rows)
    embedded = teacher.text(tokenize([batch.extra["captions"][2]]))[0]
    assert torch.allclose(batch.context[2], embedded, atol=2e-3)
    with pytest.raises(ValueError, match=r"samples range\(0, 6\) of step 0; allowed: 0 to 4"):
        batches.batch(0, range(6))


def test_token_ids_with_words_and_texts_left_out(corpus, teacher):
    batches = corpus_batches(corpus, teacher, ids=True, batch=200, ratio=Ratio(images=0))
    assert torch.equal(whole(batches, 0).context, tokenize(list(whole(batches, 0).extra["captions"])))
    assert torch.equal(batches.uncond_context(), tokenize([""]))
    batches = corpus_batches(
        corpus, teacher, ids=True, batch=200, ratio=Ratio(images=0), drop_text=0.3, unknown_words=0.2
    )
    batch = whole(batches, 0)
    dropped = (batch.context == tokenize([""])[0]).all(1)
    assert 40 <= int(dropped.sum()) <= 80
    words = tokenize([c for c in batch.extra["captions"] if c]) < 49406
    hidden = (batch.context[~dropped] == 0) & words
    assert 0.15 < float(hidden.sum() / words.sum()) < 0.25
    assert equal(batch, whole(batches, 0))


def test_broken_clips_are_named_and_replaced(clips, teacher):
    batches = open_batches(DataSpec(clips=clips), BatchOptions(batch=8), teacher)
    names = {name for step in range(3) for name in whole(batches, step).extra["names"]}
    assert names == {"0.mp4", "1.mp4", "2.mp4"} and "cannot be decoded" in batches.skipped.reasons["broken.mp4"]


def test_a_cache_gives_what_encoding_on_the_fly_gives(clips, teacher, tmp_path):
    options = BatchOptions(batch=3, image_batch=2)
    sampling = replace(SAMPLING, start="first")
    spec = DataSpec(clips=clips, sampling=sampling)
    live, cached = (
        open_batches(spec, options, teacher),
        open_batches(replace(spec, cache=tmp_path / "c"), options, teacher),
    )

    def by_name(batches, step):
        found = whole(batches, step)
        return {
            n.split("#")[0]: (v, c) for n, v, c in zip(found.extra["names"], found.latents, found.context, strict=True)
        }

    images, same = by_name(live, 3), by_name(cached, 3)
    assert images.keys() == same.keys() == {"0.png", "1.png"}
    assert all(torch.equal(a, b) for name in images for a, b in zip(images[name], same[name], strict=True))
    assert torch.equal(live.uncond_context(), cached.uncond_context())
    alone = open_batches(DataSpec(cache=tmp_path / "c"), options, teacher)
    assert equal(whole(alone, 0), whole(cached, 0))
    without = open_batches(DataSpec(cache=tmp_path / "c"), options)
    assert equal(whole(without, 3), whole(cached, 3)) and torch.equal(without.uncond_context(), live.uncond_context())
    with pytest.raises(ValueError, match="no text encoder for the negative prompt 'blur'"):
        without.uncond_context("blur")


def test_shards_of_clips(clips, teacher, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for n in range(2):
            archive.add(clips / f"{n}.mp4", f"{n}.mp4")
            (tmp_path / "t.json").write_text(json.dumps({"caption": f"horse {n}"}))
            archive.add(tmp_path / "t.json", f"{n}.json")
    batches = open_batches(DataSpec(shards=str(tmp_path)), BatchOptions(batch=2, image_batch=3), teacher)
    assert set(whole(batches, 0).extra["captions"]) == {"horse 0", "horse 1"}
    assert whole(batches, 3).latents.shape == (3, 4, 1, 2, 2)  # no images: single frames of the clips


def test_own_captions_without_a_text_encoder(clips, tmp_path):
    words = caption_vocabulary(DataSpec(clips=clips))
    assert set(words.tolist()) >= set(tokenize(["a horse number 1"]).flatten().tolist())
    spec = DataSpec(clips=clips, sampling=SAMPLING, cache=tmp_path / "c")
    encoder = TinyAutoencoder().train(False)
    batches = open_batches(spec, BatchOptions(ids=True, batch=2, image_batch=2), autoencoder=encoder)
    assert whole(batches, 0).context.shape == (2, 77) and whole(batches, 0).latents.shape == (2, 4, 3, 2, 2)
    usable = set(caption_vocabulary(DataSpec(cache=tmp_path / "c")).tolist())
    assert set(words.tolist()) - usable == {int(tokenize(["b"])[0, 1])}  # the broken clip's


TWO = """
import sys, time
from pathlib import Path
import torch
from training.engine.processes import by_one_process
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
store = torch.distributed.FileStore(str(folder / "store"), 2)
torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
def make():
    time.sleep(1)
    with (folder / "made").open("a") as file:
        file.write(f"by {rank}")
by_one_process(make)
print((folder / "made").read_text())
"""


def test_one_process_makes_the_files_and_the_others_wait(tmp_path):
    command = [sys.executable, "-c", TWO]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in (1, 0)
    ]
    assert [p.communicate(timeout=300)[0].strip() for p in started] == ["by 0", "by 0"]


def test_what_is_missing_is_said(clips, teacher, tmp_path):
    bare = replace(teacher, text=None, autoencoder=None)
    (tmp_path / "empty").mkdir()
    options = BatchOptions(batch=2)
    cases = (
        (lambda: DataSpec(), "got none; allowed: one of --corpus"),
        (lambda: DataSpec(clips=clips, corpus=clips), "got --corpus and --clips"),
        (lambda: DataSpec(clips=clips, vae=clips), "belong together"),
        (lambda: open_batches(DataSpec(clips=clips), options, bare), "came without encoders.*Give Stable Diffusion"),
        (lambda: open_batches(DataSpec(clips=tmp_path / "empty"), options, teacher), "no clip and no image"),
        (lambda: open_batches(DataSpec(corpus=tmp_path / "empty"), options, teacher), "no rendered corpus"),
        (lambda: open_batches(DataSpec(cache=tmp_path / "empty"), options, teacher), "is missing. Make the cache"),
        (lambda: chosen_encoders(None, clips, None), "got --vae; allowed: --start"),
        (lambda: BatchOptions(batch=0), "allowed: 1 or more"),
    )
    for make, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make()
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (20, 20)).save(images / "a.png")
    (images / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="holds images only"):
        open_batches(DataSpec(clips=images), options, teacher)
    made = open_batches(DataSpec(clips=clips, cache=tmp_path / "c"), options, teacher)
    wide = replace(bare, config=replace(bare.config, context_dim=64))
    with pytest.raises(ValueError, match="its text is 32 wide; t.safetensors takes 64"):
        open_batches(DataSpec(cache=tmp_path / "c"), options, wide)
    assert isinstance(made.sources["video"], CachedClips) and opening.teacher_sampling(teacher) == SAMPLING
