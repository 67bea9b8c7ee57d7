"""MODELs of one checkpoint that come, run and go in any order: each draws what it draws alone.

The host tells a patcher that goes away to take its injections out, also a clone that never put any in, and the garbage
collector may find one at any time.
"""

import gc
import random
from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def busy_collector():
    usual = gc.get_threshold()
    gc.set_threshold(50, 2, 2)
    yield
    gc.set_threshold(*usual)


@pytest.mark.parametrize("seed", [1, 2])
def test_models_come_and_go(host, animate, sd15, sample, video, golden_weights, write_model, busy_collector, seed):
    import nodes

    name = write_model("narrow-lora.safetensors", golden_weights("lcm_lora"), None, folder="loras")
    inputs = video(2)

    def run(model):
        return sample(model, steps=1, **{key: value for key, value in inputs.items() if key != "negative"})

    def lora(model):
        return nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, 0.8)[0]

    makers: dict[str, Callable] = {
        "plain": sd15.clone,
        "motion": animate,
        "half": lambda: animate(scale=0.5),
        "lora after": lambda: lora(animate()),
        "lora before": lambda: animate(model=lora(sd15)),
    }
    alone = {kind: run(make()) for kind, make in makers.items()}
    assert not torch.equal(alone["plain"], alone["motion"])
    draw, alive = random.Random(seed), []
    for step in range(30):
        kind = draw.choice(list(makers))
        model = makers[kind]()
        model = model.clone() if draw.random() < 0.5 else model
        cycle = {"model": model}
        cycle["self"] = cycle  # only the collector finds it
        if draw.random() < 0.3:
            alive.append((kind, model))
        if alive and draw.random() < 0.4:
            kind, model = alive.pop(draw.randrange(len(alive)))
        assert torch.equal(run(model), alone[kind]), f"step {step}: {kind}"


def test_a_clone_that_dies_leaves_the_slots_of_the_loaded_model(animate, load):
    model = animate()
    load(model)
    clone = model.clone()
    assert clone.is_injected  # so the host thinks
    del clone
    gc.collect()
    blocks = model.model.diffusion_model.input_blocks
    assert any("videolcm_motion" in dict(block.named_children()) for block in blocks)


def test_modules_that_did_not_run_are_an_error(animate, sample, video, monkeypatch):
    """Whatever keeps the host from calling the slots."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel

    forward = openaimodel.forward_timestep_embed

    def without_slots(ts, *args, **kwargs):
        return forward([layer for layer in ts if type(layer).__name__ != "Slot"], *args, **kwargs)

    monkeypatch.setattr(openaimodel, "forward_timestep_embed", without_slots)
    inputs = {key: value for key, value in video(8).items() if key != "negative"}
    with pytest.raises(RuntimeError, match="21 of 21 motion modules"):
        sample(animate(), steps=1, **inputs)
