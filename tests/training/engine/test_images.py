"""Steps on images: around the layers along time where the teacher was trained so, and through them elsewhere."""

import torch
from torch import nn

from training.engine.networks import checkpoint_activations, set_temporal
from training.recipes import RECIPES
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


def call(unet: UNet3D) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 1, 4, 4), (2, 5, 16)))
    return unet(x, torch.tensor([9, 700]), context)


def test_around_and_back_again():
    unet = network()
    through = call(unet)
    set_temporal(unet, False)
    set_temporal(unet, False)  # a second image step
    around = call(unet)
    around.square().mean().backward()
    temporal = [m for m in unet.modules() if isinstance(m, TemporalConvBlock | TemporalTransformer)]
    assert temporal and all(p.grad is None for m in temporal for p in m.parameters())
    assert not torch.allclose(around, through)
    set_temporal(unet, True)
    torch.testing.assert_close(call(unet), through, atol=0, rtol=0)


def test_checkpointed_layers_stay_checkpointed():
    unet = checkpointed = network()
    checkpoint_activations(checkpointed)
    kept = [m.__dict__.get("forward") for m in unet.modules()]
    set_temporal(unet, False)
    set_temporal(unet, True)
    assert [m.__dict__.get("forward") for m in unet.modules()] == kept


def test_only_the_embedded_recipe_goes_around():
    assert {name: make().image_temporal for name, make in RECIPES.items()} == {
        "paper": True,
        "authors": True,
        "mini": False,
    }
