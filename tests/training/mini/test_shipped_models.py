"""The shipped models draw what they are asked for: measured on pixels, without a learned judge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from training.data import conditions
from training.evaluation.models import load_model
from training.evaluation.prompts import Prompt
from training.evaluation.sampling import Row, sample_videos
from training.metrics.control import edge_f1, hole_errors, rank_correlation, silhouette_iou
from training.mini import control as evaluate_control
from training.mini import depth as train_depth
from training.mini import example_clips, world
from videolcm_core.networks.annotators.mini_depth import MiniDepth

MODELS = Path(__file__).resolve().parents[3] / "models"
FILES = {
    "student": MODELS / "videolcm-mini.safetensors",
    "teacher": MODELS / "videolcm-mini-teacher.safetensors",
    "compositional student": MODELS / "videolcm-mini-vcomposer.safetensors",
    "compositional teacher": MODELS / "videolcm-mini-vcomposer-teacher.safetensors",
}
CLIPS = MODELS.parent / "workflows" / "clips"


@pytest.fixture(scope="module")
def student():
    return load_model(FILES["student"])


def generate(model, row, combinations, batch=16):
    """Videos of a row, one for each combination: uint8 ``[N, F, H, W, 3]``."""
    asked = [Prompt(text=c.caption) for c in combinations]
    parts = [range(i, min(i + batch, len(asked))) for i in range(0, len(asked), batch)]
    return torch.cat([sample_videos(model, row, [asked[i] for i in part], part) for part in parts])


def sky(clips):
    """Mean colour of the top eight rows, ``[N, 3]`` in [0, 1]."""
    return clips[:, :, :8].float().mean((1, 2, 3)) / 255


def test_four_steps_show_the_place(student):
    prompts = [c for c in world.held_out() if c.thing in ("bus", "umbrella", "fire hydrant")]
    clips = generate(student, Row(model="student", steps=4), prompts)
    expected = torch.tensor([world._SKIES[p][1] for p in world.PLACES])
    nearest = torch.cdist(sky(clips), expected).argmin(1)
    right = [list(world.PLACES).index(c.place) == int(n) for c, n in zip(prompts, nearest, strict=True)]
    assert np.mean(right) >= 0.9


def test_four_steps_move_what_should_move(student):
    def travel(motion):
        """How far the ball's centre goes from the first to the last frames, in pixels, by clip."""
        prompts = [world.Combination("basketball", motion, p) for p in ("grass", "snow", "checkered")] * 3
        clips = generate(student, Row(model="student", steps=4), prompts).int()
        orange = ((clips[..., 0] > 110) & (clips[..., 0] - clips[..., 2] > 70) & (clips[..., 1] < 150)).float()
        columns = torch.arange(orange.shape[-1])
        centre = (orange * columns).sum((2, 3)) / orange.sum((2, 3)).clamp(min=1)
        return (centre[:, 13:].mean(1) - centre[:, :3].mean(1)).abs()

    assert travel("left").median() > 3 * travel("spin").median()


def test_a_seed_gives_the_same_video_whatever_is_beside_it(student):
    prompts = world.held_out()[:3]
    row = Row(model="student", steps=2)
    together, alone = generate(student, row, prompts, batch=3), generate(student, row, prompts[:1])
    assert (together[0].int() - alone[0].int()).abs().float().mean() < 2.0


@pytest.mark.parametrize("role", FILES)
def test_files_are_small_and_describe_themselves(role):
    assert FILES[role].stat().st_size < 30e6
    with safe_open(FILES[role], "pt") as file:
        metadata = file.metadata()
        assert all(file.get_tensor(k).isfinite().all() for k in file.keys() if file.get_tensor(k).is_floating_point())
    assert metadata["videolcm.sampling"] == ("lcm" if "student" in role else "teacher")
    assert len(json.loads(metadata["videolcm.latent_rgb_factors"])) == 4
    assert json.loads(metadata["videolcm.recipe"])["teacher_steps"] > 1000


@pytest.fixture(scope="module")
def estimator():
    weights = load_file(MODELS / "annotators" / "videolcm-mini-depth.safetensors")
    model = MiniDepth().channels_last()
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    return model.train(False).requires_grad_(False)


def read_frames(path):
    """uint8 ``[F, 64, 64, 3]`` of a clip of the example workflows."""
    import av

    with av.open(str(path)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    halves = frames.reshape(len(frames), 64, 2, 64, 2, 3).astype(np.float32).mean((2, 4))
    return torch.from_numpy(halves.round().astype(np.uint8))


@pytest.fixture(scope="module")
def scenes(estimator):
    """The short example clips, whose scenes no model was trained on, with what the nodes would extract."""
    examples = [e for e in example_clips.EXAMPLES if e.frames == world.FRAMES]
    names = [example_clips.file_name(e) for e in examples]
    videos = torch.stack([read_frames(CLIPS / f"{name}.mp4") for name in names])
    masks = torch.stack([read_frames(CLIPS / f"{name}_mask.mp4")[..., 0] for name in names])
    depth, _ = train_depth.estimate(estimator, videos)
    clips = conditions.ConditionClips(
        rgb=videos.permute(0, 4, 1, 2, 3),
        depth=depth[:, None].half(),
        motion=torch.zeros(len(videos), 2, *videos.shape[1:4]).half(),
        silhouette=masks[:, None],
        **conditions.draw_sketches(videos),
    )
    return evaluate_control.ControlScenes(clips=clips, combinations=[e.combination for e in examples], digest="")


@pytest.fixture(scope="module")
def videos(scenes):
    """Videos of the compositional student by condition and steps."""
    model = load_model(FILES["compositional student"])

    def make(given, steps):
        row = Row(model="student", steps=steps)
        return evaluate_control.generate(model, row, scenes, given)

    return make


def test_the_estimator_sees_the_object(scenes, estimator):
    assert train_depth.estimate(estimator, scenes.videos)[1].shape == scenes.truth.silhouette[:, 0].shape
    _, silhouette = train_depth.estimate(estimator, scenes.videos)
    assert silhouette_iou(silhouette, scenes.truth.silhouette[:, 0] > 0.5).min() > 0.8


@pytest.mark.parametrize("steps", [1, 4])
def test_depth_is_obeyed(scenes, videos, estimator, steps):
    truth = scenes.truth

    def obedience(given):
        depth, silhouette = train_depth.estimate(estimator, videos(given, steps))
        overlap = silhouette_iou(silhouette, truth.silhouette[:, 0] > 0.5)
        return rank_correlation(depth, truth.depth[:, 0]).mean(), overlap.mean()

    (ranks, overlap), (text_ranks, text_overlap) = obedience(("depth",)), obedience(())
    assert ranks > 0.9 and ranks > text_ranks and overlap > 0.65 and overlap > text_overlap + 0.2


def test_sketches_are_obeyed(scenes, videos):
    def obedience(given):
        drawn = torch.stack([conditions.canny_edges(v.float() / 255) for v in videos(given, 2)])
        return edge_f1(drawn, scenes.truth.canny[:, 0]).mean()

    assert obedience(("sketch",)) > obedience(()) + 0.1


def test_what_is_visible_stays(scenes, videos):
    hole = conditions.object_holes(scenes.truth.silhouette).transpose(1, 2)

    def outside(given):
        made = videos(given, 4).permute(0, 1, 4, 2, 3).float() / 255
        return hole_errors(made, scenes.truth.rgb.transpose(1, 2), hole)[0].mean()

    assert outside(("masked",)) < 0.7 * outside(())
