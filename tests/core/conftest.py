"""Shared by the tests of the core: small networks with weights that are not at their zero initialisation."""

import sys
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(GOLDEN.parent / "support" / "golden"))

from recipe import recipe_fill  # noqa: E402

from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors: more threads only wait for one another. And the same random numbers in every run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_config() -> UNetConfig:
    return UNetConfig(
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_scales=(1.0, 0.5),
        context_dim=32,
        num_heads=3,
        head_dim=16,
        conditions=frozenset({"depth", "masked", "image"}),
    )


@pytest.fixture(scope="session")
def tiny_unet(tiny_config) -> UNet3D:
    """In inference mode; tests must leave it as it is."""
    return recipe_fill(UNet3D(tiny_config), seed=7).train(False).requires_grad_(False)


@pytest.fixture
def tiny_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "x": torch.randn(2, 4, 3, 8, 12, generator=generator),
        "t": torch.tensor([999, 259]),
        "context": torch.randn(2, 7, 32, generator=generator),
    }
