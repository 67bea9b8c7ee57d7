"""One step of each training command on tiny data: what changes, what must not, and what is written."""

import argparse
import json

import numpy as np
import pytest
import torch
from precision import assert_same
from safetensors import safe_open

from training.data.latents import LatentClips, cached_latents, decode_clips, encode_clips
from training.engine.loop import step_generator
from training.mini import autoencoder as train_autoencoder
from training.mini import captions, corpus, pretrain, world
from training.mini import family as mini
from videolcm_core.networks.autoencoder import TinyAutoencoder


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(6, 4, 4, 8, 8, generator=generator).half()
    return LatentClips(latents=latents, labels=torch.arange(6))


def teacher_options(**changes):
    values = {"image_steps": 1, "steps": 4, "batch": 2, "image_batch": 3, "learning_rate": 1e-3}
    values |= {"timestep_power": 0.75, "ema": 0.9}
    return argparse.Namespace(**(values | changes))


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(before, module):
    return {k for k, v in module.state_dict().items() if not torch.equal(before[k], v)}


def test_frames_pass_around_the_temporal_layers(data):
    task = pretrain.TeacherTask(data, teacher_options())
    before = snapshot(task.model.unet)
    task.step(0, step_generator(0, 0))
    moved = changed(before, task.model.unet)
    assert "input_blocks.1.0.in_layers.2.weight" in moved or "out.2.weight" in moved
    assert not any("temopral" in k for k in moved)
    task.step(1, step_generator(0, 1)), task.step(2, step_generator(0, 2))
    assert any("temopral" in k for k in changed(before, task.model.unet))


def test_without_temporal_layers_the_network_is_the_same_at_the_start(data):
    unet = mini.TextVideoModel(captions.CaptionTokens().vocabulary).unet.requires_grad_(False)
    torch.nn.init.normal_(unet.out[2].weight)
    x, t, context = torch.randn(2, 4, 3, 8, 8), torch.tensor([5, 900]), torch.randn(2, 77, 128)
    whole = unet(x, t, context)
    assert_same(lambda: unet(x, t, context, temporal=False), lambda: unet(x, t, context))
    torch.testing.assert_close(unet(x, t, context), whole, atol=0, rtol=0)


def test_timesteps_are_stratified_and_lean_to_noise():
    t = pretrain.stratified_timesteps(1000, torch.Generator().manual_seed(0), power=1.0)
    assert (t - torch.arange(1000)).abs().max() <= 1
    assert pretrain.stratified_timesteps(1000, torch.Generator(), power=0.75).float().mean() > 540


def test_light_blocks_are_no_ops_until_they_grow():
    model = TinyAutoencoder().requires_grad_(False)
    model.start_light()
    pixels = torch.rand(2, 3, 32, 32)
    light = model.decode(model.encode(pixels))
    model.grow(True)
    torch.testing.assert_close(model.decode(model.encode(pixels)), light)
    model.skip_idle_blocks()
    assert model.taesd_encoder[1].bypassed
    model.taesd_encoder[1].conv[-1].weight.fill_(0.1)
    model.skip_idle_blocks()
    assert not model.taesd_encoder[1].bypassed


def test_autoencoder_learns(data):
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 255, (4, 4, 4, 3), dtype=np.uint8), 8, 1), 8, 2)
    options = argparse.Namespace(steps=40, batch=4, learning_rate=1e-3, latent_noise=0.05, light_fraction=0.5)
    task = train_autoencoder.AutoencoderTask(frames, options)
    losses = [task.step(i, step_generator(0, i))["loss"] for i in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_clips_are_encoded_frame_by_frame():
    model = TinyAutoencoder().requires_grad_(False)
    clips = np.random.default_rng(0).integers(0, 255, (3, 2, 16, 16, 3), dtype=np.uint8)
    latents = encode_clips(model, clips, batch=2)
    assert latents.shape == (3, 4, 2, 2, 2)
    single = encode_clips(model, clips[1:2, 1:2])
    torch.testing.assert_close(latents[1:2, :, 1:2].float(), single.float(), atol=0.02, rtol=0)
    assert decode_clips(model, latents).shape == clips.shape


def test_latents_are_cached_per_autoencoder(tmp_path):
    combinations = [world.Combination("horse", "left", "grass")]
    clips = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 16, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "horse_left_grass.npz", clips=clips)
    model = TinyAutoencoder().requires_grad_(False)
    made = corpus.corpus_of(tmp_path)
    labels = corpus.numbers_of(combinations)
    first = cached_latents(made, model, labels)
    assert len(list(tmp_path.glob("latents_*.pt"))) == 1
    shown = [world.combinations()[i] for i in first.labels.tolist()]
    assert [c.motion for c in shown] == ["left", "left", "right", "right"]
    model.taesd_encoder[0].bias.add_(0.1)
    cached_latents(made, model, labels)
    assert len(list(tmp_path.glob("latents_*.pt"))) == 2
    np.savez_compressed(tmp_path / "horse_left_grass.npz", clips=255 - clips)
    again = cached_latents(corpus.corpus_of(tmp_path), model, labels)
    assert len(list(tmp_path.glob("latents_*.pt"))) == 3, "clips rendered again are other latents"
    assert not torch.equal(again.latents, first.latents)


def test_an_exported_file_reads_back_and_describes_itself(tmp_path):
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary).requires_grad_(False)
    path = tmp_path / "mini.safetensors"
    mini.export(path, model.unet, model.text, TinyAutoencoder().requires_grad_(False), "lcm", w=3.0)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["videolcm.prediction"] == "v" and metadata["videolcm.sampling"] == "lcm"
    assert json.loads(metadata["videolcm.text_config"])["hidden_size"] == 128
    loaded = mini.load_all_in_one(path)
    for key, value in model.unet.state_dict().items():
        torch.testing.assert_close(loaded.unet.state_dict()[key], value, atol=2e-3, rtol=1e-3)
