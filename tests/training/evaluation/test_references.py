"""Distances to several corpora in one table, and a cache that tables share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from training import evaluate
from training.data.corpus import write_index
from training.evaluation import command_line, measures, references, results, tables
from training.mini import world
from training.mini.corpus import corpus_of, shard_path


def write(folder, brightest, single=False):
    """One clip of every held-out combination, or of every training one as single frames."""
    folder.mkdir()
    rng = np.random.default_rng(brightest)
    frames = 1 if single else world.FRAMES
    shown = world.training_combinations()[:9] if single else world.held_out()
    for combination in shown:
        clips = rng.integers(0, brightest, (1, frames, world.SIZE, world.SIZE, 3), dtype=np.uint8)
        np.savez(shard_path(folder, combination), clips=clips)
    listed = corpus_of(folder)
    shards = tuple(replace(s, absent=not s.clips) for s in listed.shards)
    write_index(replace(listed, shards=shards, frames=frames, judges="" if single else "mini"))
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {
        "clean": write(folder / "clean", 256),
        "dark": write(folder / "dark", 64),
        "images": write(folder / "images", 128, single=True),
    }


@pytest.fixture(autouse=True, scope="module")
def _small_networks():
    """In place of I3D and Inception a few of a clip's or a frame's values, and few resamples."""
    threads = torch.get_num_threads()
    fvd = measures.Measure(title="", rows=lambda m, c: c.videos[:, ::5, ::30, ::30].float().flatten(1)[:, :12])
    fid = measures.Measure(title="", rows=lambda m, c: c.videos[:, :4, ::20, ::20].float().flatten(2)[..., :6])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(measures.MEASURES, "fvd", fvd)
        patch.setitem(measures.MEASURES, "fid", fid)
        patch.setattr(results, "RESAMPLES", 20)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(corpora, out, cache, *more, wanted=("clean", "dark", "images")):
    arguments = ["--corpus", str(corpora["clean"]), "--out", str(out), "--cache", str(cache), "--clips", "8"]
    arguments += ["--reference", "8", "--cfg", "1.5", "--metrics", "fvd", "fid", "watermark"]
    arguments += ["--cells", "student:lcm:1", *more]
    named = [f"{name}={corpora[name]}" for name in wanted]
    evaluate.main([*arguments, "--reference-corpus", *named] if named else arguments)
    return json.loads((out / "results.json").read_text())["rows"]


@pytest.fixture(scope="module")
def first(corpora, cache, tmp_path_factory):
    """The folder and the rows of a table with three references."""
    out = tmp_path_factory.mktemp("first")
    return out, run(corpora, out, cache)


def test_each_reference_has_its_columns(first):
    out, rows = first
    assert list(rows) == ["real", "real, dark", "real, autoencoded", "student@1"]
    student = rows["student@1"]["values"]
    assert {"fvd", "fvd_dark", "fvd_latent", "fid", "fid_dark", "fid_images", "fid_latent", "watermark"} == set(student)
    low, high = student["fvd_dark"][1:]
    assert low < student["fvd_dark"][0] < high and student["fvd_dark"] != student["fvd"]
    assert set(rows["real"]["values"]) == {"fvd_dark", "fid_dark", "fid_images", "watermark"}, "not to itself"
    assert {"fvd", "fid", "fid_images"} <= set(rows["real, dark"]["values"])
    assert "fvd_dark" not in rows["real, dark"]["values"]
    assert rows["real"]["values"]["fvd_dark"][0] == pytest.approx(rows["real, dark"]["values"]["fvd"][0], rel=1e-6)
    table = (out / "results.md").read_text()
    head = "| FVD (clean) | FVD (dark) | FVD after the autoencoder | FID of frames (clean) | FID of frames (dark) |"
    assert head in table and "FID of frames (images)" in table
    assert (out / "fvd_dark.svg").stat().st_size > 100


def test_tables_share_clips_through_one_cache(corpora, cache, first, tmp_path):
    """Before, every table sampled and measured its own."""
    times = {p: p.stat().st_mtime_ns for p in cache.rglob("*.pt")}
    again = run(corpora, tmp_path, cache, wanted=("clean", "dark"))
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.pt")} == times and not (tmp_path / "cells").exists()
    assert again["student@1"]["values"]["fvd_dark"] == first[1]["student@1"]["values"]["fvd_dark"]


def test_without_further_references_the_table_is_as_before(corpora, cache, tmp_path):
    rows = run(corpora, tmp_path, cache, wanted=())
    assert list(rows) == ["real", "real, autoencoded", "student@1"]
    assert set(rows["student@1"]["values"]) == {"fvd", "fvd_latent", "fid", "fid_latent", "watermark"}
    assert "| FVD | FVD after the autoencoder | FID of frames |" in (tmp_path / "results.md").read_text()


def test_students_are_compared_with_the_baseline_at_as_many_steps(corpora, cache, tmp_path):
    model = command_line.TEACHER.parent / "videolcm-mini.safetensors"
    more = [
        "--student",
        f"base={model}",
        f"other={model}",
        "--baseline",
        "base",
        "--cells",
        "base:lcm:1",
        "other:lcm:1",
    ]
    run(corpora, tmp_path, cache, *more)
    ratios = json.loads((tmp_path / "results.json").read_text())["ratios"]
    assert ratios["fvd_dark: other@1 / base@1"] == pytest.approx([1.0, 1.0, 1.0])
    assert not any(": base@" in name for name in ratios)
    with pytest.raises(ValueError, match=r"--baseline is 'none'.*allowed"):
        run(corpora, tmp_path, cache, "--baseline", "none")


@pytest.mark.parametrize("words", [["dir"], ["=dir"], ["A b=dir"], ["latent=dir"], ["a=dir", "a=other"]])
def test_references_without_a_name_of_their_own_are_refused(corpora, cache, tmp_path, words):
    with pytest.raises(ValueError, match="--reference-corpus is .*NAME=DIR"):
        run(corpora, tmp_path, cache, "--reference-corpus", *words, wanted=())


def test_references_that_cannot_be_one_are_refused(corpora, tmp_path):
    common = ["--corpus", str(corpora["clean"]), "--out", str(tmp_path), "--cfg", "1.5", "--clips", "8"]
    images = ["--reference-corpus", f"images={corpora['images']}"]
    with pytest.raises(ValueError, match="single frames.*add fid"):
        evaluate.main([*common, "--metrics", "fvd", *images])
    with pytest.raises(FileNotFoundError, match="no rendered corpus"):
        evaluate.main([*common, "--metrics", "fvd", "--reference-corpus", f"none={tmp_path}"])
    (texts := tmp_path / "texts.txt").write_text("a horse\n")
    with pytest.raises(ValueError, match="no --prompts"):
        evaluate.main([*common, "--prompts", str(texts), "--metrics", "flicker", *images])
    listed = corpus_of(corpora["dark"])
    shards = tuple(replace(s, held_out=not s.held_out) for s in listed.shards)
    other = replace(listed, folder=tmp_path, shards=shards)
    write_index(other)
    with pytest.raises(ValueError, match="holds out .*the same held-out prompts"):
        evaluate.main([*common, "--metrics", "fvd", "--reference-corpus", f"other={tmp_path}"])


def test_titles_keep_their_names_without_further_references():
    assert tables.FRECHET["fvd"] == ("FVD", "{:.0f}") and list(references.titles(("dark",), "clean"))[:3] == [
        "fvd",
        "fvd_dark",
        "fvd_latent",
    ]
