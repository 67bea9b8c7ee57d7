"""One distillation step through the engine: the authors' numbers, layouts that change nothing, what must not change."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_training as tiny
import torch
from precision import UNIT, distance

from training.engine.identity import Identity
from training.engine.loop import LoopOptions, run, step_generator
from training.engine.processes import open_accelerator, share
from training.engine.randomness import Draws, draw_samples
from training.engine.task import MethodTask, Scale
from training.methods import Inputs, find_method
from training.networks import VgenNetwork
from training.recipes.videolcm import authors, paper
from training.students import FullStudent
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def step(task, index=0):
    return task.step(index, step_generator(0, index))


def weights(task):
    return {k: v.clone() for k, v in tiny.network_of(task, "student").state_dict().items()}


def largest_difference(a, b):
    return max((a[k] - b[k]).abs().max().item() for k in a)


def test_a_step_is_the_authors(monkeypatch):
    monkeypatch.syspath_prepend(str(GOLDEN.parent / "support" / "golden"))
    from reference import Reference, build_network

    reference = Reference.open(GOLDEN / "distill_step.safetensors")
    seeds = reference.metadata["recipe_seeds"]
    student, teacher, target = (
        build_network(reference.metadata, int(seeds[r]), GOLDEN) for r in ("student", "teacher", "target")
    )
    for network in (student, teacher, target):  # recorded without dropout
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    count = len(reference.get("index"))

    class Recorded:
        def size(self, step):
            return count

        def uncond_context(self, text=""):
            return reference.get("y_negative")[:1]

        def batch(self, step, samples):
            assert samples == range(count)
            return SimpleNamespace(latents=reference.get("latents"), context=reference.get("y"), extra={}, images=False)

    def draw(shape, samples, *, seed, step, phase=0):
        nothing = torch.zeros(count, dtype=torch.float64)
        grid = (reference.get("index").double() + 0.5) / len(reference.get("ddim_timesteps"))
        return Draws(noise=reference.get("noise"), grid=grid, guidance=nothing, source=nothing)

    student.requires_grad_(True)
    recipe = replace(paper(), precision="no", teacher_precision="float32", original_steps=50, batch=count)
    accelerator = open_accelerator("no", cpu=True)
    of = SimpleNamespace(network=teacher, schedule=Schedule.create(dtype=torch.float64), prediction="v")
    method = find_method("videolcm").build(
        recipe, Inputs(teacher=of, student=FullStudent(student), device=accelerator.device)
    )
    task = MethodTask(Recorded(), method, accelerator, draw=draw)
    tiny.network_of(task, "target").load_state_dict(target.state_dict())
    grads = {}
    task.running["student"].inner.register_step_pre_hook(
        lambda *_: grads.update({n: p.grad.clone() for n, p in student.named_parameters()})
    )
    values = step(task)
    assert values["loss"] == pytest.approx(reference.get("loss").item(), abs=1e-5)
    assert values["loss"] == pytest.approx(0.483343512, abs=1e-5)
    sources = {
        "grad.": grads,
        "student_after.": dict(student.named_parameters()),
        "target_after.": dict(tiny.network_of(task, "target").named_parameters()),
    }
    compared = 0
    for name, want in reference.tensors.items():
        for prefix, source in sources.items():
            if name.startswith(prefix):
                assert (source[name[len(prefix) :]].detach() - want).abs().max() <= 1e-5, name
                compared += 1
    norms = reference.metadata["grad_norms"]
    assert all(abs(grads[n].norm().item() - norm) <= 1e-5 for n, norm in norms.items()) and len(norms) > 50
    assert compared >= 20


def test_gradients_reach_the_student_only():
    task = tiny.tiny_task()
    before = {k: v.clone() for k, v in tiny.network_of(task, "teacher").state_dict().items()}
    start, target = weights(task), {k: v.clone() for k, v in tiny.network_of(task, "target").state_dict().items()}
    step(task)
    assert all(torch.equal(v, tiny.network_of(task, "teacher").state_dict()[k]) for k, v in before.items())
    after = weights(task)
    assert all(not torch.equal(start[k], after[k]) for k in start if k.endswith("weight"))
    for k, v in tiny.network_of(task, "target").state_dict().items():
        # Two products and a sum, or a difference, a product and a sum: three roundings of the larger, on both sides.
        largest = torch.maximum(target[k].abs(), after[k].abs()).max()
        assert distance(v, 0.95 * target[k] + 0.05 * after[k]) <= 6 * UNIT * largest


@pytest.mark.parametrize("scale", [{"accumulation": 2}, {"accumulation": 4}, {"recompute": True}], ids=str)
def test_the_layout_changes_nothing(scale):
    tasks, losses = [], []
    for layout in ({}, scale):  # one after the other: accelerate keeps one number of micro-batches for the process
        recompute = layout.get("recompute", False)
        tasks.append(tiny.tiny_task(scale=Scale(accumulation=layout.get("accumulation", 1)), recompute=recompute))
        losses.append([step(tasks[-1], index)["loss"] for index in range(2)])
    # Recomputing is the same arithmetic; micro-batches add up gradients in another order, within the 1e-6 that two
    # processes are held to.
    allowed = 0.0 if "recompute" in scale else 1e-6
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) <= allowed
    assert largest_difference(*map(weights, tasks)) <= allowed


def test_checkpointing_repeats_dropout():
    def gradients(recompute):
        task, grads = tiny.tiny_task(recompute=recompute, teacher=tiny.tiny_teacher(dropout=0.5)), {}
        task.running["student"].inner.register_step_pre_hook(
            lambda *_: grads.update({n: p.grad.clone() for n, p in tiny.network_of(task, "student").named_parameters()})
        )
        step(task)
        return grads

    plain, saving = gradients(False), gradients(True)
    assert largest_difference(plain, saving) == 0, "the same arithmetic, twice"


def test_low_precision_trains_float32_weights():
    recipe = tiny.exact_recipe(precision="bf16", teacher_precision="bfloat16", average_ema=0.9)
    task, exact = tiny.tiny_task(recipe), tiny.tiny_task(tiny.exact_recipe(average_ema=0.9))
    values, wanted = step(task), step(exact)
    assert next(tiny.network_of(task, "teacher").parameters()).dtype == torch.bfloat16
    for name in ("student", "target", "average"):
        assert {p.dtype for p in tiny.network_of(task, name).parameters()} == {torch.float32}
    assert values["loss"] == pytest.approx(wanted["loss"], rel=0.05)


def test_the_authors_dropout_is_on_in_all_three_and_the_papers_only_in_the_student():
    modes = {}
    for recipe in (authors(), paper()):
        recipe = replace(recipe, precision="no", teacher_precision="float32", batch=4, images=0)
        task = tiny.tiny_task(recipe, teacher=tiny.tiny_teacher(dropout=0.1))
        modes[recipe.name] = [tiny.network_of(task, n).training for n in ("student", "teacher", "target")]
    assert modes == {"authors": [True, True, True], "paper": [True, False, False]}


def test_image_keys_are_those_of_stable_diffusion():
    network = VgenNetwork(UNet3D(UNetConfig(), device="meta"))
    groups = network.groups()
    assert len(groups["spatial"]) == 682
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in network.network.named_parameters())


def test_gradients_of_image_keys_are_halved():
    found = []
    for factor in (1.0, 0.5):
        task, grads = tiny.tiny_task(tiny.exact_recipe(image_key_scale=factor)), {}
        task.running["student"].inner.register_step_pre_hook(
            lambda *_, t=task, g=grads: g.update(
                {n: p.grad.clone() for n, p in tiny.network_of(t, "student").named_parameters()}
            )
        )
        step(task)
        found.append(grads)
    full, half = found
    assert torch.equal(half["input_blocks.0.0.weight"], 0.5 * full["input_blocks.0.0.weight"])
    name = "input_blocks.0.1.proj_in.weight"  # temporal
    assert torch.equal(half[name], full[name])


def test_each_sample_has_its_own_noise_however_it_is_split():
    shape = (4, 2, 3, 3)
    all_of_them = draw_samples(shape, range(6), seed=1, step=5)
    halves = [draw_samples(shape, r, seed=1, step=5) for r in (range(3), range(3, 6))]
    assert torch.equal(all_of_them.noise, torch.cat([h.noise for h in halves]))
    assert torch.equal(all_of_them.grid, torch.cat([h.grid for h in halves]))
    others = torch.cat(
        [
            all_of_them.noise,
            draw_samples(shape, range(6), seed=1, step=6).noise,
            draw_samples(shape, range(6), seed=2, step=5).noise,
        ]
    ).flatten(1)
    correlation = torch.corrcoef(others) - torch.eye(len(others))
    assert correlation.abs().max() < 0.6 and len(torch.unique(others[:, 0])) == len(others)


def test_shares_cover_the_batch_once():
    taken = [s for rank in range(3) for part in share(12, rank, 3, 2) for s in part]
    assert sorted(taken) == list(range(12))
    with pytest.raises(ValueError, match="multiple of 8"):
        share(12, 0, 4, 2)


def test_a_stratified_grid_has_each_part_once():
    recipe = tiny.exact_recipe(grid_draw="stratified")
    task = tiny.tiny_task(recipe, batches=tiny.TinyBatches(clips=50))
    draws = draw_samples((1,), range(50), seed=0, step=0)
    index = task.method.index(SimpleNamespace(draws=draws, samples=range(50), size=50))
    assert index.tolist() == list(range(50))


def test_bad_data_stops_before_the_weights_change(tmp_path):
    options = LoopOptions(checkpoint=tmp_path / "c.pt", identity=Identity(), steps=5, save_steps=1)
    task = tiny.tiny_task(batches=tiny.TinyBatches(broken_at=2))
    with pytest.raises(FloatingPointError, match="step 2.*after 2 steps, all of whose numbers are finite"):
        run(task, options)
    assert torch.load(options.checkpoint, weights_only=True)["step"] == 2
    assert all(v.isfinite().all() for v in weights(task).values())


def test_a_resumed_task_is_identical():
    whole = tiny.tiny_task(tiny.exact_recipe(average_ema=0.9), teacher=tiny.tiny_teacher(dropout=0.2))
    for index in range(3):
        step(whole, index)
    first = tiny.tiny_task(tiny.exact_recipe(average_ema=0.9), teacher=tiny.tiny_teacher(dropout=0.2))
    step(first, 0)
    second = tiny.tiny_task(tiny.exact_recipe(average_ema=0.9), teacher=tiny.tiny_teacher(dropout=0.2, seed=9))
    tiny.network_of(second, "teacher").load_state_dict(tiny.network_of(first, "teacher").state_dict())
    second.load_state(first.state())
    for index in (1, 2):
        step(second, index)
    ends = [t.state() for t in (whole, second)]
    for part in ("student", "target", "average"):
        assert all(torch.equal(v, ends[1][part][k]) for k, v in ends[0][part].items()), part
    moments = [[v["exp_avg_sq"] for v in e["optimizer"]["state"].values()] for e in ends]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
