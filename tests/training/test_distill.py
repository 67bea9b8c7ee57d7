"""The distill command from a teacher's file to an exported student, its pictures, curves and errors."""

import argparse
import importlib.util
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_mcm
import tiny_training as tiny
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import distill
from training.engine import costs
from training.engine.trackers import check_tracker
from training.engine.validation import Validation, contact_sheet
from training.methods.parts import frame_costs
from training.methods.parts.frame_adversary import FrameDecoder
from training.mini import captions, example_clips
from training.mini import family as mini
from training.students import LoraOptions, lora_student, target_names
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.vgen.unet3d import UNetConfig


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary)
    torch.nn.init.normal_(model.unet.out[2].weight, std=0.02)
    colors = {"latent_rgb_factors": [[0.0] * 3] * 4, "latent_rgb_bias": [0.0] * 3}
    mini.export(path, model.unet, model.text, TinyAutoencoder(), "teacher", width=16, height=16, frames=4, **colors)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for index in range(2):
        frames = np.random.default_rng(index).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)
        example_clips.write_video(frames, folder / f"{index}.mp4", "noise")
        (folder / f"{index}.txt").write_text("a horse spins around on grass")
    return folder


def arguments(teacher, clips, out, *more):
    small = ["--batch", "2", "--image-batch", "2", "--steps", "2", "--precision", "no", "--workers", "0"]
    return ["--teacher", str(teacher), "--clips", str(clips), "--out", str(out), *small, *more]


def test_clips_to_a_student_with_curves_and_pictures(tmp_path, teacher, clips):
    out, exported = tmp_path / "run", tmp_path / "student.safetensors"
    watched = ["--validate-every", "1", "--samples", "1", "--teacher-steps", "2", "--log-every", "1"]
    distill.main(arguments(teacher, clips, out, *watched, "--export", str(exported), "--w", "5"))
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2
    assert {p.name for p in (out / "samples").iterdir()} == {
        "step_000001.png",
        "step_000001.webp",
        "step_000002.png",
        "step_000002.webp",
    } | {p.name for p in (out / "samples").glob("teacher_*.pt")}
    events = EventAccumulator(str(out / "events"))
    events.Reload()
    tags = events.Tags()
    assert {"loss", "samples/s", "rate", "grad_norm"} <= set(tags["scalars"]) and tags["images"] == ["samples"]
    assert [e.step for e in events.Scalars("loss")] == [1, 2]
    with safe_open(exported, "pt") as file:
        known = file.metadata()
    assert known["videolcm.sampling"] == "lcm" and float(known["videolcm.w"]) == 5.0
    moved = mini.load_all_in_one(exported).unet.state_dict()["out.2.weight"]
    assert not torch.equal(moved, mini.load_all_in_one(teacher).unet.state_dict()["out.2.weight"])
    loaded = mini.load_student(out / "checkpoint.pt")
    torch.testing.assert_close(loaded.state_dict()["out.2.weight"], moved, atol=1e-3, rtol=1e-3)


def test_lora_trains_adapters_only_and_exports(tmp_path, teacher, clips):
    kohya, exported = tmp_path / "lora.safetensors", tmp_path / "student.safetensors"
    files = ["--export-kohya", str(kohya), "--export", str(exported), "--tracker", "none"]
    distill.main(arguments(teacher, clips, tmp_path / "run", "--lora", "2", "--learning-rate", "0.01", *files))
    with safe_open(kohya, "pt") as file:
        assert any("lora_up" in key for key in file.keys())
        lora = file.metadata()
    with safe_open(exported, "pt") as file:
        whole = file.metadata()
    for entries in (lora, whole):
        entries.pop("modelspec.hash_sha256", None)
    assert lora | whole == lora and lora["videolcm.method"] == "videolcm"
    unet, base = (mini.load_all_in_one(p).unet.state_dict() for p in (exported, teacher))
    changed = {k for k in unet if not torch.equal(unet[k], base[k])}
    assert changed and not any(k.endswith("bias") or "norm" in k or k == "out.2.weight" for k in changed)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n in range(3):
        Image.fromarray(np.random.default_rng(n).integers(256, size=(40, 50, 3), dtype=np.uint8)).save(
            folder / f"{n}.png"
        )
        (folder / f"{n}.txt").write_text("a bus on grass")
    return folder


def mcm_arguments(teacher, clips, out, dino, *more):
    features = ["--features", "dinov2_s14", "--features-file", str(dino), "--feature-size", "28"]
    adversary = ["--method", "mcm", "--lora", "2", *features]
    small = ["--batch", "2", "--disc-group", "2", "--steps", "2", "--precision", "no", "--workers", "0"]
    data = ["--teacher", str(teacher), "--clips", str(clips), "--out", str(out), "--tracker", "none"]
    return [*data, *adversary, *small, *more]


@pytest.mark.parametrize("real", ["frames of the clips", "images beside a cache"])
def test_mcm_trains_from_the_command_line(tmp_path, teacher, clips, images, real):
    dino, exported = tiny_mcm.save_small_dino(tmp_path / "dino"), tmp_path / "lora.safetensors"
    beside = ["--image-set", str(images), "--cache", str(tmp_path / "cache"), "--image-crop-area", "0.5"]
    more = beside if real.startswith("images") else ["--frame-stride", "1", "--crop-area", "0.75"]
    distill.main(mcm_arguments(teacher, clips, tmp_path / "run", dino, *more, "--export-kohya", str(exported)))
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 2 and {"student", "head", "discriminator", "head_ema"} <= set(saved["task"])
    assert ("image_set" in saved["identity"]["data"]) == real.startswith("images")
    with safe_open(exported, "pt") as file:
        assert any("lora_up" in key for key in file.keys())


def test_a_discriminator_goes_on_with_the_features_it_began_with(tmp_path, teacher, clips):
    first = tiny_mcm.save_small_dino(tmp_path / "dino")
    distill.main(mcm_arguments(teacher, clips, tmp_path / "run", first))
    other = shutil.copytree(first, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["layernorm.weight"][0] += 1.0
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"begun with other inputs \(features: dinov2_s14 \w+, now dinov2_s14 \w+\)"):
        distill.main(mcm_arguments(teacher, clips, tmp_path / "run", other, "--steps", "3"))


def test_frames_are_decoded_by_stable_diffusions_autoencoder_where_the_teacher_has_none(tmp_path):
    """With the gradient to the latents, as the frame adversary needs it; nothing of it is exported."""
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    vae.save_pretrained(str(tmp_path / "vae"))
    teacher = tiny.tiny_teacher()
    recipe, options = tiny_mcm.tiny_recipe(""), argparse.Namespace(vae=tmp_path / "vae")
    decoder = FrameDecoder(distill.decoder_of(options, recipe, teacher))
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    frames = decoder(latents)
    assert frames.shape == (2, 3, 8, 8) and teacher.autoencoder is None
    frames.square().sum().backward()
    assert latents.grad.abs().sum() > 0
    expected = vae.decode(latents / 0.18215).sample
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-5)
    assert distill.decoder_of(options, replace(recipe, adversarial_weight=0.0), teacher) is None


def test_mcm_says_what_its_data_lacks(tmp_path, teacher, clips, images):
    dino = tiny_mcm.save_small_dino(tmp_path / "dino")
    with pytest.raises(ValueError, match="are latents, and real frames are wanted beside them.*--image-set"):
        distill.main(mcm_arguments(teacher, clips, tmp_path / "a", dino, "--cache", str(tmp_path / "cache")))
    with pytest.raises(ValueError, match="a recipe that looks at no image"):
        more = ["--image-set", str(images), "--adversarial-weight", "0"]
        distill.main(mcm_arguments(teacher, clips, tmp_path / "b", dino, *more))
    assert not list(tmp_path.glob("[ab]/*.pt"))


def test_dry_run_shows_recipe_and_costs_and_writes_nothing(tmp_path, teacher, clips, capsys):
    distill.main(arguments(teacher, clips, tmp_path / "run", "--recipe", "paper", "--w", "15", "--dry-run"))
    told = capsys.readouterr().out
    assert '"w": 15.0' in told and '"name": "paper"' in told and "7.2 M parameters" in told
    assert "GiB each" in told and "TFLOP" in told and not (tmp_path / "run").exists()


def test_errors_come_before_training(tmp_path, teacher, clips):
    out = tmp_path / "run"
    with pytest.raises(ValueError, match="wrong teacher"):
        path = tmp_path / "other.safetensors"
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(2)}, path)
        distill.main(arguments(path, clips, out))
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match="empty"):
        distill.main(arguments(teacher, tmp_path / "empty", out))
    with pytest.raises(ValueError, match="multiple of 4"):
        distill.main(arguments(teacher, clips, out, "--accumulation", "4"))
    with pytest.raises(ValueError, match="give --lora"):
        distill.main(arguments(teacher, clips, out, "--export-kohya", str(tmp_path / "x")))
    assert not (out / "checkpoint.pt").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_tracker_is_named():
    with pytest.raises(ModuleNotFoundError, match="'wandb' needs the package wandb.*tensorboard, none"):
        check_tracker("wandb")


def test_validation_leaves_the_run_as_it_was(tmp_path):
    tasks = [tiny.tiny_task() for _ in range(2)]
    teacher = tiny.tiny_teacher()
    options = argparse.Namespace(prompts=[], samples=2)
    scenes = distill.scenes_of(tasks[0].batches, tasks[0].uncond, options, 0)
    watch = Validation(tasks[0], teacher, scenes, tmp_path, None, steps=(1, 2), teacher_steps=2)
    for index in range(2):
        for task in tasks:
            task.step(index, torch.Generator())
        watch(index + 1, None)
    first, second = (tiny.network_of(t, "student").state_dict() for t in tasks)
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert (tmp_path / "step_000002.webp").exists()


def test_a_contact_sheet_has_a_row_for_each_prompt():
    clips = torch.randint(256, (3, 4, 16, 24, 3), dtype=torch.uint8)
    sheet = contact_sheet({"teacher": clips, "student": clips}, ["a", "b", "c"], frames=2)
    assert sheet.shape == (14 + 3 * (16 + 14), 2 * (2 * 24 + 6), 3)
    assert np.array_equal(sheet[28:44, :24], clips[0, 0].numpy())


def test_costs_of_the_released_network():
    network = costs.measure(UNetConfig(), (16, 32, 56))
    assert network.parameters == pytest.approx(1.411e9, rel=0.001)
    full, saving = (costs.memory(network, costs.Layout(checkpointing=c), 1) for c in (False, True))
    assert full["AdamW"] == pytest.approx(8 * network.parameters / 2**30)
    assert saving["activations"] < 0.25 * full["activations"]
    spread = costs.memory(network, costs.Layout(processes=4), 1)
    assert spread["student"] == pytest.approx(full["student"] / 4)
    lora = costs.memory(network, costs.Layout(lora_rank=64), 1)
    assert lora["AdamW"] < 0.05 * full["AdamW"]


def test_counted_adapters_are_those_that_train():
    teacher = tiny.tiny_teacher()
    student = lora_student(teacher, LoraOptions(rank=3))
    network = costs.measure(teacher.config, (3, 4, 4), adapted=lambda n: target_names(n, LoraOptions()))
    assert 3 * network.lora_per_rank == sum(p.numel() for p in student.trainable())


def test_costs_of_a_step_of_mcm():
    """The decoder as published (49.5 M parameters), and memory that grows with the clips of a GPU at a time."""
    decoder = frame_costs.decoder_cost(32, 32)
    assert decoder.parameters == pytest.approx(49.49e6, rel=0.001)
    assert frame_costs.decoder_cost(64, 64).flops == pytest.approx(4 * decoder.flops, rel=0.1)
    one, four = (frame_costs.step_cost(tiny.CONFIG, (3, 4, 4), clips) for clips in (1, 4))
    assert one.flops == four.flops and four.memory["frames"] == pytest.approx(4 * one.memory["frames"])
    assert one.memory["teacher"] == four.memory["teacher"] and "target" not in one.memory


def test_counted_flops_are_those_of_a_convolution():
    config = UNetConfig(
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_scales=(),
        context_dim=8,
        num_heads=1,
        head_dim=32,
    )
    small, large = (costs.measure(config, (2, side, side)).forward_flops for side in (8, 16))
    assert large == pytest.approx(4 * small, rel=0.2)
