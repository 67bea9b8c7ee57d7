"""The shipped models draw what they are asked for: measured on pixels, without a learned judge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from training import evaluate, mini
from training.data import world

MODELS = Path(__file__).parents[2] / "models"
FILES = {"student": MODELS / "videolcm-mini.safetensors", "teacher": MODELS / "videolcm-mini-teacher.safetensors"}


@pytest.fixture(scope="module")
def student():
    return mini.load_all_in_one(FILES["student"])


def sky(clips):
    """Mean colour of the top eight rows, ``[N, 3]`` in [0, 1]."""
    return clips[:, :, :8].float().mean((1, 2, 3)) / 255


def test_four_steps_show_the_place(student):
    prompts = [c for c in world.held_out() if c.thing in ("bus", "umbrella", "fire hydrant")]
    clips = evaluate.generate(student, evaluate.Row(model="student", steps=4), prompts)
    expected = torch.tensor([world._SKIES[p][1] for p in world.PLACES])
    nearest = torch.cdist(sky(clips), expected).argmin(1)
    right = [list(world.PLACES).index(c.place) == int(n) for c, n in zip(prompts, nearest, strict=True)]
    assert np.mean(right) >= 0.9


def test_four_steps_move_what_should_move(student):
    def travel(motion):
        """How far the ball's centre goes from the first to the last frames, in pixels, by clip."""
        prompts = [world.Combination("basketball", motion, p) for p in ("grass", "snow", "checkered")] * 3
        clips = evaluate.generate(student, evaluate.Row(model="student", steps=4), prompts).int()
        orange = ((clips[..., 0] > 110) & (clips[..., 0] - clips[..., 2] > 70) & (clips[..., 1] < 150)).float()
        columns = torch.arange(orange.shape[-1])
        centre = (orange * columns).sum((2, 3)) / orange.sum((2, 3)).clamp(min=1)
        return (centre[:, 13:].mean(1) - centre[:, :3].mean(1)).abs()

    assert travel("left").median() > 3 * travel("spin").median()


def test_a_seed_gives_the_same_video_whatever_is_beside_it(student):
    prompts = evaluate.held_out_prompts(3)
    row = evaluate.Row(model="student", steps=2)
    together, alone = evaluate.generate(student, row, prompts, batch=3), evaluate.generate(student, row, prompts[:1])
    assert (together[0].int() - alone[0].int()).abs().float().mean() < 2.0


@pytest.mark.parametrize("role", FILES)
def test_files_are_small_and_describe_themselves(role):
    assert FILES[role].stat().st_size < 30e6
    with safe_open(FILES[role], "pt") as file:
        metadata = file.metadata()
        assert all(file.get_tensor(k).isfinite().all() for k in file.keys() if file.get_tensor(k).is_floating_point())
    assert metadata["videolcm.sampling"] == {"student": "lcm", "teacher": "teacher"}[role]
    assert len(json.loads(metadata["videolcm.latent_rgb_factors"])) == 4
    assert json.loads(metadata["videolcm.recipe"])["teacher_steps"] > 1000
