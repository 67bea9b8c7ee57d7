"""Every checkpoint is sampled at its own settings, on any prompts."""

import json

import pytest
import torch

import setup
from training import evaluate
from training.evaluation import models, prompts, sampling
from training.evaluation.samplers import SAMPLERS
from training.mini import captions
from training.mini import family as mini
from videolcm_core.diffusion.schedule import lcm_timesteps
from videolcm_core.networks.autoencoder import TinyAutoencoder

SHIPPED = setup.ROOT / "models" / "videolcm-mini.safetensors"


def write(path, sampling_kind="lcm", **changes):
    torch.manual_seed(0)
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary)
    torch.nn.init.normal_(model.unet.out[2].weight, std=0.02)
    size = {"width": 24, "height": 16, "frames": 3, "fps": 5}
    mini.export(path, model.unet, model.text, TinyAutoencoder(), sampling_kind, **(size | changes))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"original_steps": 10},
        {"timestep_scaling": 4.0},
        {"prediction": "eps", "zero_terminal_snr": "false"},
        {"beta_schedule": "linear"},
    ],
    ids=str,
)
def test_a_students_settings_are_those_of_its_file(tmp_path, monkeypatch, changes):
    """Before, every file was sampled as the shipped one."""
    model, seen = models.load_model(write(tmp_path / "s.safetensors", **changes)), {}

    def watch(network, noise, steps, settings, step_noise):
        seen.update(settings=settings, shape=tuple(noise.shape))
        return original(network, noise, steps, settings, step_noise)

    original = SAMPLERS["lcm"].run
    monkeypatch.setitem(SAMPLERS, "lcm", models.replace(SAMPLERS["lcm"], run=watch))
    row = sampling.Row(model="student", steps=2)
    clips = sampling.sample_videos(model, row, [prompts.Prompt(text="a horse")], range(1))
    assert clips.shape == (1, 3, 16, 24, 3) and seen["shape"] == (1, 4, 3, 2, 3)
    known = {"original_steps": 50, "timestep_scaling": 10.0, "prediction": "v"} | changes
    settings = seen["settings"]
    assert (settings.original_steps, settings.timestep_scaling) == (known["original_steps"], known["timestep_scaling"])
    assert settings.prediction == known["prediction"]
    terminal = float(settings.schedule.alphas_cumprod[-1])
    assert (terminal == 0) == (known.get("zero_terminal_snr", "true") == "true")


def test_the_grid_of_a_student_decides_its_timesteps(tmp_path):
    calls = []
    model = models.load_model(write(tmp_path / "s.safetensors", original_steps=10))
    model.unet.register_forward_pre_hook(lambda _, inputs: calls.append(int(inputs[1][0])))
    sampling.sample_videos(model, sampling.Row(model="s", steps=4, sampler="lcm"), [prompts.Prompt(text="x")], range(1))
    assert calls == lcm_timesteps(4, 10).tolist() != lcm_timesteps(4, 50).tolist()


def test_prompts_of_text_and_json(tmp_path):
    lines, listed = tmp_path / "p.txt", tmp_path / "p.json"
    lines.write_text("\ufeffa dog runs\n\n  ein Hund läuft \n", encoding="utf-8")
    assert [p.text for p in prompts.read_prompts(lines)] == ["a dog runs", "ein Hund läuft"]
    listed.write_text(json.dumps(["a", {"text": "b", "place": "home", "n": 3}]), encoding="utf-8")
    first, second = prompts.read_prompts(listed)
    assert (first.text, second.text, dict(second.extra)) == ("a", "b", {"place": "home", "n": "3"})


@pytest.mark.parametrize("content", ["", "[]", "{}", "[3]", '[{"place": "x"}]', "[", "\x00\xff"])
def test_prompts_that_are_none_say_what_is_allowed(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="a text file with a prompt a line, or JSON"):
        prompts.read_prompts(path)


def test_your_own_prompts_and_checkpoints_of_other_sizes_need_no_corpus(tmp_path):
    asked, out = tmp_path / "p.txt", tmp_path / "out"
    asked.write_text("a horse\na bus on sand\n", encoding="utf-8")
    student, teacher = write(tmp_path / "s.safetensors"), write(tmp_path / "t.safetensors", "teacher", frames=2)
    common = ["--prompts", str(asked), "--out", str(out), "--teacher", str(teacher), "--student", str(student)]
    evaluate.main([*common, "--clips", "3", "--cells", "student:lcm:1", "teacher:ddim:2:1.5"])
    document = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list(document["rows"]) == ["student@1", "teacher@2 cfg 1.5"]
    assert all(row["values"]["flicker"][0] > 0 for row in document["rows"].values())
    assert document["protocol"]["prompts"] == "2 texts of p.txt in turn" and (out / "student@1.png").is_file()


def test_what_cannot_be_measured_is_said(tmp_path):
    asked = tmp_path / "p.txt"
    asked.write_text("a horse\n", encoding="utf-8")
    with pytest.raises(ValueError, match="--corpus DIR, --prompts FILE, or both"):
        evaluate.main(["--out", str(tmp_path)])
    with pytest.raises(ValueError, match="fvd compare with real clips"):
        evaluate.main(["--out", str(tmp_path), "--prompts", str(asked), "--metrics", "fvd"])
    with pytest.raises(ValueError, match="belong together"):
        evaluate.main(["--out", str(tmp_path), "--prompts", str(asked), "--vae", "x"])
