"""What is trained on clean and degraded clips: a teacher that goes on, judges and a decoder of several corpora."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scripts import setup
from training.data.corpus import Corpus, write_index
from training.mini import corpus, family, pretrain, recognizer, world

START = setup.ROOT / "models" / "videolcm-mini-teacher.safetensors"


def write(folder, seed, clips):
    """A corpus of one training combination; the others belong to nobody."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    kept = world.training_combinations()[0]
    frames = rng.integers(0, 256, (clips, 4, world.SIZE, world.SIZE, 3), dtype=np.uint8)
    np.savez(corpus.shard_path(folder, kept), clips=frames)
    listed = corpus.corpus_of(folder)
    write_index(replace(listed, shards=tuple(replace(s, absent=not s.clips) for s in listed.shards), frames=4))
    return folder


def test_a_teacher_goes_on_with_its_text_encoder_as_it_was(tmp_path):
    made, out = write(tmp_path / "clips", 0, 2), tmp_path / "teacher.safetensors"
    data = ["--corpus", str(made), "--autoencoder", str(START), "--start", str(START), "--frozen-text"]
    numbers = ["--image-steps", "0", "--steps", "2", "--batch", "2", "--image-batch", "2", "--ema", "0.5"]
    pretrain.main([*data, *numbers, "--out", str(tmp_path / "teacher.pt"), "--export", str(out)])
    before, after = family.load_all_in_one(START), family.load_all_in_one(out)
    for part in ("text", "autoencoder"):
        states = [getattr(parts, part).state_dict() for parts in (before, after)]
        assert all(torch.equal(states[0][k], v) for k, v in states[1].items()), part
    moved = [k for k, v in after.unet.state_dict().items() if not torch.equal(before.unet.state_dict()[k], v)]
    assert len(moved) > 50
    with pytest.raises(ValueError, match="--frozen-text keeps .*--start"):
        pretrain.main(["--corpus", "x", "--autoencoder", "x", "--out", "x", "--frozen-text"])


def test_several_corpora_are_learned_alike(tmp_path, monkeypatch):
    folders = [write(tmp_path / name, seed, count) for seed, (name, count) in enumerate((("clean", 2), ("bad", 3)))]
    kept = world.training_combinations()[:1]
    monkeypatch.setattr(world, "training_combinations", lambda: kept)
    clips, shown = recognizer.training_clips(*folders)
    assert len(clips) == len(shown) == 2 * (2 + 3), "clips of both, then their mirror images"
    opened = [Corpus.open(f) for f in folders]
    expected = [recognizer.to_input(torch.from_numpy(c.clips(c.training)[0])) for c in opened]
    torch.testing.assert_close(clips[:5].float() / 255, torch.cat(expected), atol=1 / 255, rtol=0)
    one, both = corpus.corpus_identity(folders[0]), corpus.corpus_identity(*folders)
    assert one["corpus"] == both["corpus"] and set(both) == {"corpus", "corpus 2"}, "runs of one corpus go on"
    assert both["corpus"] != both["corpus 2"]
