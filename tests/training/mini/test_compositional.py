"""Conditions of the corpus, their dropout, and one step of the compositional teacher and student."""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from training.data import conditions
from training.data.corpus import Corpus, CorpusClips, Shard
from training.data.latents import LatentClips
from training.engine.files import save_atomically
from training.engine.loop import step_generator
from training.engine.processes import open_accelerator
from training.methods.parts.condition_dropout import keep_conditions
from training.mini import captions, compositional, pretrain
from training.mini import depth as train_depth
from training.mini import family as mini
from training.networks.vgen import encode_conditions
from training.recipes.videolcm import mini as small_recipe
from training.teachers import Teacher
from videolcm_core.networks.autoencoder import TinyAutoencoder

COUNT, FRAMES, SIDE = 4, 3, 16


@pytest.fixture(scope="module")
def clips():
    torch.manual_seed(0)
    shape = (COUNT, 1, FRAMES, SIDE, SIDE)
    silhouette = torch.zeros(shape, dtype=torch.uint8)
    silhouette[..., 4:9, 2:7] = 255
    return conditions.ConditionClips(
        rgb=torch.randint(256, (COUNT, 3, FRAMES, SIDE, SIDE), dtype=torch.uint8),
        depth=torch.rand(shape).half(),
        motion=torch.randn(COUNT, 2, FRAMES, SIDE, SIDE).half(),
        silhouette=silhouette,
        canny=torch.randint(2, shape, dtype=torch.uint8) * 255,
        pencil=torch.randint(256, shape, dtype=torch.uint8),
    )


@pytest.fixture(scope="module")
def data():
    return LatentClips(latents=torch.randn(2 * COUNT, 4, FRAMES, 2, 2).half(), labels=torch.arange(2 * COUNT))


def test_a_mirror_image_is_flipped_and_moves_the_other_way(clips):
    straight, mirrored = clips.take(torch.arange(COUNT)), clips.take(torch.arange(COUNT, 2 * COUNT))
    for name in ("rgb", "depth", "silhouette", "canny", "pencil"):
        assert torch.equal(getattr(mirrored, name), getattr(straight, name).flip(-1))
    assert torch.equal(mirrored.motion[:, 0], -straight.motion[:, 0].flip(-1))
    assert torch.equal(mirrored.motion[:, 1], straight.motion[:, 1].flip(-1))
    both = clips.take(torch.tensor([1, COUNT + 1]))
    assert torch.equal(both.rgb[0], straight.rgb[1]) and torch.equal(both.rgb[1], mirrored.rgb[1])


@pytest.mark.parametrize("name", conditions.NAMES)
def test_conditions_have_the_networks_channels_and_ranges(clips, name):
    from videolcm_core.networks.vgen.conditions import CONDITION_CHANNELS

    some = clips.take(torch.arange(COUNT))
    for value in (
        conditions.condition_of(name, some, torch.Generator().manual_seed(1)),
        conditions.exact_condition(name, some),
    ):
        assert value.shape == (COUNT, CONDITION_CHANNELS[name], FRAMES, SIDE, SIDE)
        if name in ("sketch", "single_sketch", "local_image"):
            assert 0 <= value.min() and value.max() <= 1
        if name in ("single_sketch", "local_image"):
            assert (value == value[:, :, :1]).all()
        if name == "masked":
            assert set(value[:, 3].unique().tolist()) == {0.0, 1.0} and value[:, :3].abs().max() <= 1
            assert not value[:, :3][(value[:, 3:] == 0).expand(-1, 3, -1, -1, -1)].any()


def test_holes_cover_the_object_or_stand_still(clips):
    silhouette = clips.take(torch.arange(COUNT)).silhouette
    assert (conditions.object_holes(silhouette)[silhouette > 0] == 1).all()
    holes = [conditions.random_holes(silhouette, torch.Generator().manual_seed(i)) for i in range(20)]
    shares = torch.cat(holes).mean((1, 2, 3, 4))
    assert 0.02 < shares.min() and shares.max() < 0.95 and shares.std() > 0.05


def test_block_motion_keeps_the_mean(clips):
    motion = clips.take(torch.arange(COUNT)).motion
    blocks = conditions.blocky(motion)
    torch.testing.assert_close(blocks.mean((-1, -2)), motion.mean((-1, -2)))
    assert (blocks[..., :8, :8] == blocks[..., :1, :1]).all()


def test_dropout_has_the_authors_shares():
    names, generator = list("abcdef"), torch.Generator().manual_seed(0)
    kept = [keep_conditions(names, 50, generator) for _ in range(200)]
    counts = torch.stack([torch.stack(list(k.values())).sum(0) for k in kept]).flatten()
    # 10 % lose all; of the 80 % that are neither, each condition drops half: 1 in 64 of them loses all too.
    assert abs((counts == 0).float().mean() - (0.1 + 0.8 / 64)) < 0.015
    assert abs((counts == 6).float().mean() - (0.1 + 0.8 / 64)) < 0.015
    assert abs(counts.float().mean() - 3) < 0.1


def test_dropout_can_favour_single_conditions():
    generator = torch.Generator().manual_seed(0)
    kept = [keep_conditions(list("abcdef"), 50, generator, single=1.0, all_keep=0.0) for _ in range(50)]
    counts = torch.stack([torch.stack(list(k.values())).sum(0) for k in kept])
    assert set(counts.unique().tolist()) == {0, 1} and abs((counts == 1).float().mean() - 0.9) < 0.03


def start():
    vocabulary = captions.CaptionTokens().vocabulary
    model = mini.TextVideoModel(vocabulary)
    return mini.AllInOne(unet=model.unet, text=model.text, autoencoder=TinyAutoencoder())


def teacher_task(clips, data):
    options = argparse.Namespace(
        image_steps=0, image_batch=0, steps=4, batch=4, learning_rate=1e-3, timestep_power=0.75, ema=0.9
    )
    model = compositional.with_encoders(start())
    return compositional.CompositionalTeacherTask(data, compositional.Conditioner(clips, 0.5), model, options)


def test_a_dropped_condition_adds_nothing(clips, data):
    unet = teacher_task(clips, data).model.unet.train(False)
    given = {"depth": (torch.tensor([2]), torch.rand(1, 1, FRAMES, SIDE, SIDE))}
    concat = encode_conditions(unet, given, data.latents[:COUNT])
    assert concat.shape == (COUNT, 8, FRAMES, 2, 2) and concat[2].any()
    assert not concat[[0, 1, 3]].any()
    alone = unet.encode_conditions((2, 2), FRAMES, depth=given["depth"][1])
    torch.testing.assert_close(concat[2:3], alone)


def test_the_teacher_starts_as_its_text_only_parent_and_learns_its_encoders(clips, data):
    task = teacher_task(clips, data)
    x, t, context = torch.randn(1, 4, FRAMES, 2, 2), torch.tensor([500]), torch.randn(1, 77, 128)
    torch.nn.init.normal_(task.model.unet.out[2].weight)
    with torch.no_grad():
        given = task.model.unet(x, t, context, concat=torch.randn(1, 8, FRAMES, 2, 2))
        torch.testing.assert_close(given, task.model.unet(x, t, context))
    before = copy.deepcopy(task.model.unet.state_dict())
    for index in range(3):
        task.step(index, step_generator(0, index))
    moved = {k for k, v in task.model.unet.state_dict().items() if not torch.equal(before[k], v)}
    assert {"depth_embedding.0.weight", "masked_embedding.0.weight", "input_blocks.0.0.weight"} <= moved


def test_the_teacher_refuses_another_parent():
    parent = start()
    unet = mini.TextVideoModel(parent.text.vocabulary, mini.COMPOSITIONAL).unet
    wrong = mini.AllInOne(unet=unet, text=parent.text, autoencoder=parent.autoencoder)
    with pytest.raises(ValueError, match="allowed: a text-only one"):
        compositional.with_encoders(wrong)


def test_shares_of_the_conditions_are_those_of_one_process(clips):
    conditioner, chosen = compositional.Conditioner(clips, 0.5), torch.tensor([3, 0, 5, 2, 6, 1])
    whole = conditioner.draw(chosen, range(6), 6, seed=4)
    assert len(whole) > 1
    for samples in (range(0, 6, 2), range(1, 6, 2)):
        part = conditioner.draw(chosen[samples.start :: 2], samples, 6, seed=4)
        assert part.keys() <= whole.keys()
        for name, (places, pixels) in whole.items():
            mine = [(s, x) for s, x in zip(places.tolist(), pixels, strict=True) if s in samples]
            found = part.get(name, (torch.empty(0), torch.empty(0)))
            assert [samples[p] for p in found[0].tolist()] == [s for s, _ in mine]
            assert all(torch.equal(a, b) for a, (_, b) in zip(found[1], mine, strict=True))


def test_a_second_leg_begins_at_the_averages_of_the_first(clips, data, tmp_path):
    task = teacher_task(clips, data)
    task.step(0, step_generator(0, 0))
    save_atomically({"step": 1, "task": task.state()}, tmp_path / "first.pt")
    model = pretrain.first_leg(tmp_path / "first.pt", mini.COMPOSITIONAL)
    wanted = task.average.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in model.state_dict().items())


@pytest.fixture(scope="module")
def composer(clips, data):
    model = teacher_task(clips, data).model.train(False).requires_grad_(False)
    torch.nn.init.normal_(model.unet.out[2].weight, std=0.02)
    torch.nn.init.normal_(model.unet.input_blocks[0][0].weight, std=0.05)
    return Teacher(
        network=model.unet,
        config=model.unet.config,
        text=model.text,
        autoencoder=TinyAutoencoder().requires_grad_(False),
    )


def student(clips, data, composer):
    recipe = replace(small_recipe(), batch=4, steps=40, learning_rate=1e-3, warmup=1, precision="no")
    accelerator = open_accelerator("no", cpu=True)
    shards = tuple(Shard(file="", forms=(f"clip {i}",) * 5, clips=1, digest="") for i in range(2 * COUNT))
    corpus = Corpus(folder=Path(), shards=shards, world="", width=SIDE, height=SIDE, frames=FRAMES, fps=8)
    latents = CorpusClips(corpus=corpus, latents=data.latents, labels=data.labels)
    return compositional.student_task(latents, compositional.Conditioner(clips, 0.5), composer, recipe, accelerator)


def test_a_distillation_step_trains_the_students_encoders_only(clips, data, composer):
    task = student(clips, data, composer)
    networks = {name: tiny.network_of(task, name) for name in ("student", "teacher", "target")}
    before = {n: copy.deepcopy(network.state_dict()) for n, network in networks.items()}
    for index in range(3):
        assert task.step(index, step_generator(0, index))["loss"] > 0
    moved = {
        n: {k for k, v in net.state_dict().items() if not torch.equal(before[n][k], v)} for n, net in networks.items()
    }
    assert not moved["teacher"] and {"depth_embedding.0.weight", "motion_embedding.0.weight"} <= moved["student"]
    assert moved["target"] == moved["student"]


def test_a_samples_conditions_are_the_same_however_the_batch_is_split(clips, data, composer):
    batches = student(clips, data, composer).batches
    for step in range(3):
        whole, half = batches.batch(step, range(4)), batches.batch(step, range(2, 4))
        for name, (places, pixels) in half.extra["conditions"].items():
            all_places, all_pixels = whole.extra["conditions"][name]
            late = all_places >= 2
            assert torch.equal(all_places[late] - 2, places) and torch.equal(all_pixels[late], pixels)
        names = {n for n, (p, _) in whole.extra["conditions"].items() if (p >= 2).any()}
        assert names == set(half.extra["conditions"])


def test_the_depth_task_learns_and_resumes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frames = (
        torch.randint(256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8),
        torch.rand(40, 1, 16, 16, generator=generator).half(),
        torch.randint(256, (40, 1, 16, 16), generator=generator, dtype=torch.uint8),
    )
    torch.manual_seed(0)
    task = train_depth.DepthTask(frames, steps=30, batch=8)
    losses = [task.step(index, step_generator(0, index))["loss"] for index in range(30)]
    assert losses[-1] < losses[0]
    torch.save({"task": task.state()}, tmp_path / "depth.pt")
    model = train_depth.load_depth(tmp_path / "depth.pt")
    depth, silhouette = train_depth.estimate(model, torch.zeros(2, 3, 16, 16, 3, dtype=torch.uint8))
    assert depth.shape == silhouette.shape == (2, 3, 16, 16) and silhouette.dtype == torch.bool
