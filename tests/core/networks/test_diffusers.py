"""The same weights in diffusers' UNet3DConditionModel give the same numbers."""

import pytest
import torch
from precision import assert_same
from recipe import recipe_fill

from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.files.loading import load_unet
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

diffusers = pytest.importorskip("diffusers")

# diffusers has 8 heads in the first temporal transformer, and four levels of which the last has no attention.
CONFIG = UNetConfig(
    model_channels=64,
    channel_mult=(1, 1, 1, 1),
    num_res_blocks=1,
    attention_scales=(1.0, 0.5, 0.25),
    context_dim=32,
    num_heads=8,
    head_dim=16,
    conditions=frozenset({"depth", "image"}),
)


@pytest.fixture(scope="module")
def ours():
    return recipe_fill(UNet3D(CONFIG), seed=5).train(False).requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(ours):
    network = diffusers.UNet3DConditionModel(
        in_channels=12, block_out_channels=(64,) * 4, layers_per_block=1, cross_attention_dim=32, attention_head_dim=16
    )
    own = ours.state_dict()
    weights = {other: own[key] for key, other in vgen_to_diffusers(own).items()}
    weights = {key: value.squeeze(-1) if value.ndim == 3 else value for key, value in weights.items()}
    network.load_state_dict(weights)
    return network.train(False).requires_grad_(False)


def test_equal_output(ours, theirs):
    x, t, context = torch.randn(2, 4, 3, 16, 16), torch.tensor([999, 259]), torch.randn(2, 7, 32)
    concat = torch.randn(2, 8, 3, 16, 16)
    # Their features of timesteps are another table: both are computed in float64, and their rounding counts.
    assert_same(
        lambda: ours(x, t, context, concat=concat),
        lambda: theirs(torch.cat([x, concat], 1), t, context).sample,
        tables=True,
    )


def test_its_saved_folder_loads(ours, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    network = load_unet(tmp_path)
    assert network.config.head_dim == 16 and network.config.conditions == frozenset()
    x, t, context = torch.randn(1, 4, 2, 16, 16), torch.tensor([5]), torch.randn(1, 7, 32)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in network.state_dict().items())
    assert_same(lambda: ours(x, t, context), lambda: network.requires_grad_(False)(x, t, context))
