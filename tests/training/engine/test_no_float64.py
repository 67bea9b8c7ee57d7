"""A training step has no float64 on the compute device, in any recipe that does not ask for it."""

from dataclasses import replace

import pytest
import tiny_training as tiny
import torch
from no_float64 import NoFloat64

from training.recipes.videolcm import RECIPES


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("images", [False, True])
def test_a_step_has_no_float64(name, images):
    recipe = replace(RECIPES[name](), precision="no", batch=4, image_batch=4, steps=1)
    if name == "authors":
        # Theirs solves in float64, as their code does; on a device without it the option says otherwise.
        recipe = replace(recipe, solver_precision="float32")
    with NoFloat64() as watch:
        task = tiny.tiny_task(recipe, batches=tiny.TinyBatches(image_every=int(images)))
        task.step(0, torch.Generator())
        task.released_state()
    assert watch.found == set()


def test_the_watch_sees_float64():
    recipe = replace(RECIPES["authors"](), precision="no", batch=4, images=0, solver_precision="float64")
    with NoFloat64() as watch:
        tiny.tiny_task(recipe).step(0, torch.Generator())
    assert any("solvers.py" in place for place in watch.found)
