"""The rendered corpus and its list: what counts as done, what is rendered again, what the trainer reads of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from training.data.corpus import INDEX, Corpus
from training.mini import corpus, world

SMALL = replace(
    world.MINI,
    objects={"snowman": world.OBJECTS["snowman"]},
    places={name: world.PLACES[name] for name in ("grass", "sand")},
    held_out_rule=lambda i, j, k: j == 3,
)


def render_fake(renderer, model, combination, floors, count):
    rng = np.random.default_rng(count)
    clips = rng.integers(0, 255, (count, 2, 8, 8, 3), dtype=np.uint8)
    layers = {name: np.zeros((count, 2, 8, 8), np.float16) for name in corpus.LAYERS}
    return {"clips": clips, **layers}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with a fast renderer; gives the shards that it rendered."""
    rendered = []

    def draw(*arguments, **looks):
        rendered.append(arguments[2])
        return render_fake(*arguments)

    monkeypatch.setattr(corpus, "world_named", lambda name: SMALL)
    monkeypatch.setattr(corpus, "render_combination", draw)
    monkeypatch.setattr(corpus, "load_models", lambda folder, of: dict.fromkeys(of.objects))
    monkeypatch.setattr(corpus, "write_credits", lambda models, path, of: None)
    monkeypatch.setattr(corpus, "Renderer", lambda size: None)

    def run(*more):
        rendered.clear()
        corpus.main(["--furniture", "x", "--out", str(tmp_path), "--clips", "3", "--held-out-clips", "2", *more])
        return list(rendered)

    return run


def shard(tmp_path, number):
    return corpus.shard_path(tmp_path, SMALL.combinations()[number])


def test_what_is_whole_is_kept(command, tmp_path):
    assert len(command()) == 8 and command() == []
    listed = Corpus.open(tmp_path)
    assert [s.clips for s in listed.shards] == [3] * 6 + [2, 2]
    assert listed.training == list(range(6)) and listed.held_out == [6, 7]
    clips, shown = listed.clips(listed.held_out)
    assert clips.shape == (4, 2, 8, 8, 3) and shown == [6, 6, 7, 7]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "one layer short"])
def test_a_damaged_shard_is_rendered_again(command, tmp_path, damage):
    """Before, a truncated shard counted as done, with exit code 0."""
    command()
    path, before = shard(tmp_path, 1), Corpus.open(tmp_path).shards[1].digest
    data = path.read_bytes()
    if damage == "one layer short":
        with np.load(path) as arrays:
            kept = dict(arrays)
        np.savez(path, **{**kept, "depth": kept["depth"][:1]})
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        path.write_bytes({"truncated": data[:middle], "flipped": flipped, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"damaged|clips in"):
        Corpus.open(tmp_path).layers([1], ("clips", "depth"))
    assert command() == [SMALL.combinations()[1]]
    assert Corpus.open(tmp_path).shards[1].digest == before


def test_another_number_of_clips_is_rendered_again(command, tmp_path):
    command()
    assert len(command("--clips", "4")) == 6, "of the training shards only"
    assert [s.clips for s in Corpus.open(tmp_path).shards] == [4] * 6 + [2, 2]


def test_a_folder_of_before_gets_its_list_without_rendering(command, tmp_path):
    command()
    (tmp_path / INDEX).unlink()
    with pytest.raises(FileNotFoundError, match=r"corpus.json is missing.*keeps shards"):
        Corpus.open(tmp_path)
    assert command() == [] and (tmp_path / INDEX).is_file()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "shards": [{}]}', "\x00"])
def test_a_damaged_list_says_what_to_do(tmp_path, content):
    (tmp_path / INDEX).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="corpus.json cannot be read .*Repeat that command"):
        Corpus.open(tmp_path)


def test_the_list_says_what_judges_and_mirrors_need(command, tmp_path):
    command()
    listed = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    assert listed["judges"] == "mini" and listed["shards"][0]["labels"]["thing"] == "snowman"
    twins = [Corpus.open(tmp_path).mirrored(i) for i in range(8)]
    assert [twins[t] for t in twins] == list(range(8)), "a mirror image of a mirror image is the clip"
