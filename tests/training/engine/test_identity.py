"""A resumed run: another teacher or adapter is an error, other data is said, a finished run says that it is done."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training import distill
from training.engine.identity import Identity, changes, check_fixed
from training.mini import captions, example_clips
from training.mini import family as mini
from videolcm_core.networks.autoencoder import TinyAutoencoder


def write_teacher(path, seed, prediction="v"):
    torch.manual_seed(seed)
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary)
    torch.nn.init.normal_(model.unet.out[2].weight, std=0.02)
    torch.manual_seed(0)
    size = {"width": 16, "height": 16, "frames": 4, "prediction": prediction}
    mini.export(path, model.unet, model.text, TinyAutoencoder(), "teacher", **size)
    return path


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {
        "one": write_teacher(folder / "one.safetensors", 0),
        "renamed": write_teacher(folder / "renamed.safetensors", 0),
        "other": write_teacher(folder / "other.safetensors", 1),
        "eps": write_teacher(folder / "eps.safetensors", 0, "eps"),
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    frames = np.random.default_rng(0).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)
    for index in range(2):
        example_clips.write_video(frames, folder / f"{index}.mp4", "noise")
        (folder / f"{index}.txt").write_text("a horse spins around on grass", encoding="utf-8")
    return folder


def train(teacher, clips, out, *more, steps=1):
    small = ["--batch", "2", "--image-batch", "2", "--precision", "no", "--workers", "0", "--tracker", "none"]
    distill.main(
        ["--teacher", str(teacher), "--clips", str(clips), "--out", str(out), *small, "--steps", str(steps), *more]
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory, teachers, clips):
    out = tmp_path_factory.mktemp("begun")
    train(teachers["one"], clips, out)
    return out


@pytest.mark.parametrize(("which", "named"), [("other", "teacher"), ("eps", "prediction")])
def test_another_teacher_is_an_error(begun, teachers, clips, which, named):
    before = (begun / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"begun with other inputs .*{named}: .*another --out"):
        train(teachers[which], clips, begun, steps=2)
    assert (begun / "checkpoint.pt").read_bytes() == before


def test_a_lora_where_all_weights_trained_is_an_error(begun, teachers, clips):
    with pytest.raises(ValueError, match="student: all weights, now LoRA of rank 2"):
        train(teachers["one"], clips, begun, "--lora", "2", steps=2)


def test_another_alpha_is_an_error(tmp_path, teachers, clips):
    train(teachers["one"], clips, tmp_path, "--lora", "2", "--lora-alpha", "4")
    with pytest.raises(ValueError, match="alpha 4, .*now LoRA of rank 2, alpha 64"):
        train(teachers["one"], clips, tmp_path, "--lora", "2", "--lora-alpha", "64", steps=2)


def test_other_data_and_numbers_are_said_and_a_renamed_teacher_is_the_same(begun, teachers, clips, tmp_path):
    import shutil

    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(begun, out)
    shutil.copytree(clips, elsewhere)
    with pytest.warns(UserWarning, match=r"clips: .* -> .*elsewhere.*w: 2.0 -> 3.0"):
        train(teachers["renamed"], elsewhere, out, "--w", "3", steps=2)
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2


def test_a_finished_run_says_so_and_exports_again(begun, teachers, clips, tmp_path, capsys):
    exported = tmp_path / "student.safetensors"
    train(teachers["one"], clips, begun, "--export", str(exported))
    assert "all 1 steps are done" in capsys.readouterr().out and exported.is_file()


def test_checkpoints_of_before_do_not_say_and_are_taken(tmp_path):
    identity = Identity(fixed={"teacher": "a"}, data={"clips": "b"})
    check_fixed(identity, {"step": 1}, tmp_path)
    assert changes(identity, {"w": 9.0}, {"description": {"w": 9.0, "steps": 1}}) == []


def test_every_trainer_says_what_it_is_made_from():
    """The field has no default: a trainer that forgets it does not start."""
    from training.engine.loop import LoopOptions

    with pytest.raises(TypeError, match="identity"):
        LoopOptions(checkpoint=None, steps=1)


def test_all_exports_of_a_lora_are_one_network(tmp_path, teachers, clips):
    """Before, --export wrote the average and --export-kohya the student."""
    merged, kohya, peft = tmp_path / "m.safetensors", tmp_path / "k.safetensors", tmp_path / "peft"
    files = ("--export", str(merged), "--export-kohya", str(kohya), "--export-peft", str(peft))
    options = ("--recipe", "mini", "--lora", "2", "--lora-alpha", "6", "--learning-rate", "0.01")
    train(teachers["one"], clips, tmp_path / "run", *options, *files, steps=3)
    base = mini.load_all_in_one(teachers["one"]).unet.state_dict()
    whole = {k.removeprefix("model.diffusion_model."): v.float() for k, v in load_file(merged).items()}
    ours, theirs = load_file(kohya), load_file(peft / "adapter_model.safetensors")
    names = [k.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for k in theirs if "lora_A" in k]
    assert len(names) > 10
    for name in names:
        down, up = (theirs[f"base_model.model.{name}.lora_{part}.weight"].flatten(1) for part in "AB")
        key = "lora_unet_" + name.replace(".", "_")
        kohya_down, kohya_up = (ours[f"{key}.lora_{part}.weight"].float().flatten(1) for part in ("down", "up"))
        assert float(ours[f"{key}.alpha"]) == 6.0
        delta = 3.0 * up @ down
        # float16 holds 11 bits: each matrix is off by half a unit in the last place of its largest value.
        room = 2.0**-11 * 3.0 * (up.abs() @ down.abs()).max() * 2
        assert (3.0 * kohya_up @ kohya_down - delta).abs().max() <= room
        moved = whole[f"{name}.weight"].flatten(1) - base[f"{name}.weight"].half().float().flatten(1)
        assert (moved - delta).abs().max() <= room + 2.0**-10 * base[f"{name}.weight"].abs().max()
    assert max(float((theirs[f"base_model.model.{n}.lora_B.weight"]).abs().max()) for n in names) > 0
