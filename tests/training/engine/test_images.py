"""Steps on images: around the layers along time where the teacher was trained so, and through them elsewhere."""

from types import SimpleNamespace

import tiny_training as tiny
import torch
from torch import nn

from training.engine.validation import Validation
from training.methods.parts.previews import Scenes
from training.recipes.videolcm import RECIPES
from videolcm_core.networks.vgen.attention import TemporalTransformer
from videolcm_core.networks.vgen.unet3d import TemporalConvBlock, UNet3D, UNetConfig

TINY = UNetConfig(
    model_channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    attention_scales=(1.0,),
    context_dim=16,
    num_heads=1,
    head_dim=32,
    dropout=0.0,
)


def network() -> UNet3D:
    torch.manual_seed(0)
    unet = UNet3D(TINY)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return unet


def call(unet: UNet3D, **modes: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 1, 4, 4), (2, 5, 16)))
    return unet(x, torch.tensor([9, 700]), context, **modes)


def attributes(unet: UNet3D) -> list[set[str]]:
    return [set(vars(module)) for module in unet.modules()]


def test_around_the_layers_along_time_leaves_nothing_behind():
    unet = network()
    through, before = call(unet), attributes(unet)
    around = call(unet, temporal=False)
    around.square().mean().backward()
    temporal = [m for m in unet.modules() if isinstance(m, TemporalConvBlock | TemporalTransformer)]
    assert temporal and all(p.grad is None for m in temporal for p in m.parameters())
    assert not torch.allclose(around, through)
    assert torch.equal(call(unet), through) and attributes(unet) == before


def test_recomputed_activations_change_no_number_and_leave_nothing_behind():
    unet = network()
    before, found = attributes(unet), []
    for modes in ({}, {"recompute": True}, {"temporal": False}, {"temporal": False, "recompute": True}):
        unet.zero_grad()
        output = call(unet, **modes)
        output.square().mean().backward()
        found.append((output, [None if p.grad is None else p.grad.clone() for p in unet.parameters()]))
    for plain, saving in (found[:2], found[2:]):
        assert torch.equal(plain[0], saving[0])
        for a, b in zip(plain[1], saving[1], strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    assert attributes(unet) == before


def test_validation_after_an_image_step_is_that_of_a_run_without(tmp_path):
    """A mode of the networks that a step left switched would be seen in the sheets that follow it."""
    sheets = []
    for images in (False, True):
        task, teacher = tiny.tiny_task(tiny.exact_recipe(image_temporal=False, steps=1)), tiny.tiny_teacher()
        batch = task.batches.batch(0, range(4))
        task.batches.batch = lambda step, samples, b=batch, i=images: SimpleNamespace(
            latents=b.latents[:, :, :1], context=b.context, images=i, extra={}
        )
        if images:
            task.step(0, torch.Generator())
        scenes = Scenes(
            prompts=("a",), text=batch.context[:1], uncond=task.uncond, noise=batch.latents[:1], conditions={}
        )
        watch = Validation(task, teacher, scenes, tmp_path / str(images), None, steps=(1,), teacher_steps=2)
        sheets.append(watch.teacher_clips())
    assert torch.equal(*sheets)


def test_only_the_embedded_recipe_goes_around():
    assert {name: make().image_temporal for name, make in RECIPES.items()} == {
        "paper": True,
        "authors": True,
        "mini": False,
    }
