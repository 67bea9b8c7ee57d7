"""MCM in the engine: what trains in which phase, any layout of a step, resume, and what it refuses."""

import dataclasses
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_mcm as tiny
import torch
from no_float64 import NoFloat64
from tiny_training import tiny_student, tiny_teacher

import setup
from training.engine.files import load_checkpoint
from training.methods.parts.frequency import _half
from training.methods.parts.motion import MOTIONS
from training.recipes.mcm import MOTION_NAMES

SCRIPT = setup.ROOT / "tests" / "support" / "tiny_mcm.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
TRAINED = ("student", "head", "discriminator")
FOLLOWERS = ("head_ema", "vectors", "penalty")


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return tiny.save_small_dino(tmp_path_factory.mktemp("dino"))


def train(path, dino, *arguments, launcher=(), check=True):
    command = [sys.executable, *launcher, str(SCRIPT), "--out", str(path), "--dino", str(dino), *arguments]
    done = subprocess.run(command, cwd=setup.ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def alone(tmp_path_factory, dino):
    """One process, four micro-batches of a clip."""
    path = tmp_path_factory.mktemp("alone") / "c.pt"
    train(path, dino, "--accumulation", "4")
    return load_checkpoint(path)["task"]


def difference(a, b, part):
    return max((a[part][k] - v).abs().max().item() for k, v in b[part].items())


def moved(before, after, part):
    return [k for k, v in after[part].items() if (before[part][k] - v).abs().max() > 0]


def test_all_its_parts_are_in_the_checkpoint_and_move(alone, dino):
    assert set(alone) == {*TRAINED, *FOLLOWERS, *(f"optimizer.{name}" for name in TRAINED)}
    start = tiny.tiny_mcm(tiny.tiny_recipe(dino)).state()
    changed = {part: moved(start, alone, part) for part in (*TRAINED, *FOLLOWERS)}
    assert all(".lora_" in name for name in changed["student"]), "the teacher's weights stay"
    assert len(changed["student"]) == sum(".lora_" in name for name in alone["student"])
    # Beside a 1 the twin's first steps are lost to rounding.
    assert set(changed["head"]) == set(alone["head"]) == {*changed["head_ema"], "layers.0.1.weight"}
    # What is added before a norm, or to real and made frames alike, has no gradient.
    weights = {name for name in alone["discriminator"] if "weight_" in name or "cmapper" in name}
    assert weights <= set(changed["discriminator"]), "its singular vectors too"
    vectors = [v for name, v in alone["discriminator"].items() if name.endswith(("weight_u", "weight_v"))]
    assert all(any(torch.equal(v, kept) for kept in alone["vectors"].values()) for v in vectors)


@pytest.mark.parametrize(("layout", "accumulation"), [("two processes", 2), ("one process", 1)])
def test_a_step_is_the_same_in_every_layout(tmp_path, dino, alone, layout, accumulation):
    path = tmp_path / "c.pt"
    train(path, dino, "--accumulation", str(accumulation), launcher=TWO if layout == "two processes" else ())
    together = load_checkpoint(path)["task"]
    assert {part: difference(alone, together, part) for part in (*TRAINED, *FOLLOWERS)} == pytest.approx(
        dict.fromkeys((*TRAINED, *FOLLOWERS), 0.0), abs=1e-6
    )


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, dino, alone):
    path = tmp_path / "c.pt"
    done = train(path, dino, "--accumulation", "4", "--kill-at", "2", check=False)
    assert done.returncode == -signal.SIGKILL and load_checkpoint(path)["step"] == 2
    train(path, dino, "--accumulation", "4")
    resumed = load_checkpoint(path)["task"]
    assert {part: difference(alone, resumed, part) for part in (*TRAINED, *FOLLOWERS)} == dict.fromkeys(
        (*TRAINED, *FOLLOWERS), 0.0
    )


def test_each_phase_has_gradients_of_its_own_modules_only(dino):
    task = tiny.tiny_mcm(tiny.tiny_recipe(dino))
    before = task.state()
    before = {part: {k: v.clone() for k, v in before[part].items()} for part in TRAINED}
    student, discriminator = task.method.phases
    task._phase(0, 0, student)
    after = {part: {k: v.clone() for k, v in task.state()[part].items()} for part in TRAINED}
    assert moved(before, after, "student") and moved(before, after, "head")
    assert moved(before, after, "discriminator") == []
    task._phase(0, 1, discriminator)
    last = task.state()
    assert moved(after, last, "discriminator") and not moved(after, last, "student") + moved(after, last, "head")
    frozen = [p for module in task.method.frozen.values() for p in module.parameters()]
    assert frozen and not any(p.requires_grad or p.grad is not None for p in frozen)


@pytest.mark.parametrize("motion", ["learned", "low_frequency", "local_correlation"])
def test_a_step_has_no_float64(dino, motion):
    _half.cache_clear()
    with NoFloat64() as watch:
        task = tiny.tiny_mcm(tiny.tiny_recipe(dino, motion=motion))
        task.step(0, torch.Generator())
        task.released_state()
    assert watch.found == set()


def test_the_names_in_the_recipe_are_the_representations():
    assert set(MOTION_NAMES) == set(MOTIONS)


@pytest.mark.parametrize("motion", MOTION_NAMES)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_every_representation_trains_with_and_without_the_adversary(dino, motion, weight):
    recipe = tiny.tiny_recipe(dino, motion=motion, adversarial_weight=weight, average_ema=0.9)
    task = tiny.tiny_mcm(recipe, batches=tiny.FrameBatches(with_pixels=bool(weight)))
    values = task.step(0, torch.Generator())
    assert all(torch.isfinite(torch.tensor(v)) for v in values.values()) and values["grad_norm"] > 0
    learns = motion.startswith("learned")
    expected = {"student"} | ({"head"} if learns else set()) | ({"discriminator"} if weight else set())
    assert set(task.method.trained) == expected
    assert ("loss/discriminator" in values) == bool(weight)


@pytest.mark.parametrize("lambda_real", [0.0, 1.0])
def test_trajectories_of_one_origin(dino, lambda_real):
    task = tiny.tiny_mcm(tiny.tiny_recipe(dino, lambda_real=lambda_real, adversarial_weight=0.0))
    asked = []
    handle = task.method.trained["student"].module.register_forward_hook(lambda m, a, o: asked.append(a[1]))
    task.step(0, torch.Generator())
    handle.remove()
    # At the last timestep for its own latents, then the student's timestep, then the target's.
    assert len(asked) == (2 if lambda_real == 1.0 else 3)
    assert lambda_real == 1.0 or asked[0].tolist() == [999] * 4
    assert all(a > b for a, b in zip(asked[-2].tolist(), asked[-1].tolist(), strict=True))


def test_statistics_are_those_of_the_group_wherever_it_is_computed(dino):
    pairs = tiny.tiny_recipe(dino, disc_group=2)
    whole, halves = (
        tiny.tiny_mcm(pairs, scale=tiny.Scale(accumulation=parts)).step(0, torch.Generator()) for parts in (1, 2)
    )
    assert whole["loss/discriminator"] == pytest.approx(halves["loss/discriminator"], abs=1e-6)
    with pytest.raises(ValueError, match=r"1 clips are computed at a time and the statistics of 2 belong together"):
        tiny.tiny_mcm(pairs, scale=tiny.Scale(accumulation=4)).step(0, torch.Generator())


def test_images_beside_the_clips_are_the_real_ones_with_their_own_captions(dino):
    """Whatever the layout; neither the clips' frames nor their captions matter to what is real then."""
    batches = tiny.FrameBatches(with_pixels=False, stills=2)
    told, states = [], []
    for count in (1, 4):
        task = tiny.tiny_mcm(tiny.tiny_recipe(dino), batches=batches, scale=tiny.Scale(accumulation=count))
        told.append(task.step(0, torch.Generator()))
        states.append(task.state())
    for name in ("loss/discriminator", "logits/real", "logits/made", "penalty", "motion", "pleasing"):
        assert told[0][name] == pytest.approx(told[1][name], abs=1e-6), name
    assert difference(*states, "discriminator") < 1e-6
    other = dataclasses.replace(batches)

    def retold(step, samples, batch=other.batch):
        found = batch(step, samples)
        found.stills = dataclasses.replace(found.stills, text=found.stills.text + 1.0)
        return found

    other.batch = retold
    changed = tiny.tiny_mcm(tiny.tiny_recipe(dino), batches=other).step(0, torch.Generator())
    assert changed["logits/real"] != told[0]["logits/real"] and changed["logits/made"] == told[0]["logits/made"]


def test_real_images_pass_the_autoencoder_where_that_is_asked(dino):
    batches = tiny.FrameBatches(with_pixels=False, stills=2)
    plain, drawn = (tiny.tiny_mcm(tiny.tiny_recipe(dino, real_decoded=d), batches=batches) for d in (False, True))
    images = torch.rand(3, 3, 20, 25)
    seen = drawn.method.frozen["autoencoder"](images)
    autoencoder = drawn.method.teacher.autoencoder
    expected = autoencoder.decode(autoencoder.encode(images[:, :, :16, :24]))
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)
    one, other = (task.step(0, torch.Generator()) for task in (plain, drawn))
    assert one["logits/made"] == other["logits/made"] and one["logits/real"] != other["logits/real"]


def test_the_discriminator_sees_what_the_student_made_before_it_moved(dino):
    """Once: its prediction is not computed again."""
    task = tiny.tiny_mcm(tiny.tiny_recipe(dino, lambda_real=1.0))
    calls = []
    task.method.trained["student"].module.register_forward_hook(lambda *_: calls.append(1))
    task.step(0, torch.Generator())
    assert len(calls) == 2 and task.method._made == {}, "student and target"


def test_a_penalty_that_runs_away_raises_its_weight_and_is_told_and_kept(dino, tmp_path, capsys):
    recipe = tiny.tiny_recipe(dino, penalty_limit=1e-9, penalty_wait=1, penalty_factor=5.0)
    task = tiny.tiny_mcm(recipe)
    weights = []
    for index in range(5):
        task.step(index, torch.Generator())
        weights.append(float(task.state()["penalty"]["weight"]))
    assert weights == pytest.approx([0.1, 0.1, 0.5, 0.5, 2.5])
    assert capsys.readouterr().out.count("the penalty on the discriminator's gradient is") == 2
    other = tiny.tiny_mcm(recipe)
    other.load_state(task.state())
    assert float(other.method.penalty.weight) == pytest.approx(2.5)
    calm = tiny.tiny_mcm(replace(recipe, penalty_limit=0.0))
    for index in range(3):
        calm.step(index, torch.Generator())
    assert float(calm.method.penalty.weight) == pytest.approx(0.1)


def test_a_discriminator_that_is_not_finite_stops_the_run_before_anything_is_kept(dino, tmp_path):
    task = tiny.tiny_mcm(tiny.tiny_recipe(dino, steps=4))
    loop = tiny.LoopOptions(checkpoint=tmp_path / "c.pt", identity=tiny.Identity(), steps=4, save_steps=1)
    looked = task.method.frozen["features"].forward
    count, at = iter(range(100)), 2 * 4 * 4 + 6  # four calls of four layers a step, the first for the student

    def broken(images):  # once for the student, twice for the discriminator, in each step
        found = looked(images)
        return {name: value * (float("nan") if next(count) == at else 1.0) for name, value in found.items()}

    task.method.frozen["features"].forward = broken
    with pytest.raises(FloatingPointError, match=r"loss/discriminator became nan at step 2; .*after 2 steps, all of"):
        tiny.run(task, loop, task.accelerator)


def refused(message, dino, *, teacher=None, student=None, batches=None, **changes):
    with pytest.raises(ValueError, match=message):
        recipe = tiny.tiny_recipe(dino, **changes)
        tiny.tiny_mcm(recipe, teacher=teacher, student=student, batches=batches).step(0, torch.Generator())


def test_what_it_refuses(dino, tmp_path):
    teacher = tiny_teacher()
    refused("all weights train; allowed: adapters. Give --lora 64", dino, student=tiny_student(teacher))
    refused("features_file is '.*nothing', which is not there", tmp_path / "nothing")
    refused("mcm compares frames, and this data has latents only", dino, batches=tiny.FrameBatches(with_pixels=False))
    one = tiny.FrameBatches(frames=1)
    refused("have 1 frame and the motion .* neighbouring", dino, batches=one, motion="difference", disc_frames=1)
    refused("disc_frames is 4 and the clips have 3 frames; allowed: 1 to 3", dino, disc_frames=4)
    refused("motion is 'flow'; allowed: raw, difference", dino, motion="flow")


def test_a_teacher_without_autoencoder_is_refused(dino):
    task = tiny.tiny_mcm(tiny.tiny_recipe(dino))
    teacher = tiny_teacher()
    inputs = tiny.Inputs(teacher=teacher, student=task.method.student, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"has no autoencoder; allowed: --vae FILE .*--autoencoder"):
        type(task.method).build(task.recipe, inputs)
    without = type(task.method).build(replace(task.recipe, adversarial_weight=0.0), inputs)
    assert not without.needs.pixels
