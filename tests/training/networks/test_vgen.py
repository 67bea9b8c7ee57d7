"""A processor computes a large batch in parts; nothing else about a prediction changes."""

import pytest
import tiny_training as tiny
import torch
from precision import assert_same

from training.networks import Control, VgenNetwork, vgen
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


@pytest.fixture
def conditioned():
    config = UNetConfig(
        model_channels=32,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_scales=(1.0,),
        num_heads=1,
        head_dim=32,
        context_dim=16,
        concat_channels=8,
        conditions=("depth",),
    )
    torch.manual_seed(0)
    network = UNet3D(config)
    torch.nn.init.normal_(network.out[2].weight, std=0.1)
    return network.requires_grad_(False).train(False)


def sizes_of(network):
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_parts_give_what_one_batch_gives(conditioned, monkeypatch):
    network, seen = VgenNetwork(conditioned), sizes_of(conditioned)
    x, t, context = torch.randn(6, 4, 2, 4, 4), torch.arange(6) * 100, torch.randn(6, 5, 16)
    conditions = {"depth": (torch.tensor([0, 2]), torch.rand(2, 1, 2, 32, 32))}
    with torch.no_grad():
        cond = {"text": context, "control": Control(pixels=conditions, count=3)}
        network(x, t, cond)
        monkeypatch.setattr(vgen, "CPU_POSITIONS", 4 * 2 * 4 * 4)
        parts = network(x, t, cond)
        plain = network(x, t, {"text": context})
        assert seen == [6, 4, 2, 4, 2]

        def computed(positions):
            monkeypatch.setattr(vgen, "CPU_POSITIONS", positions)
            return network(x, t, cond)

        assert_same(lambda: computed(4 * 2 * 4 * 4), lambda: computed(8192))
    assert (parts - plain).abs().amax((1, 2, 3, 4)).gt(1e-3).tolist() == [True, False, True] * 2


def test_gradients_and_dropout_see_one_batch(monkeypatch):
    monkeypatch.setattr(vgen, "CPU_POSITIONS", 1)
    network = tiny.tiny_teacher().network
    seen = sizes_of(network)
    x, t, context = torch.randn(2, 4, 2, 4, 4), torch.tensor([1, 500]), torch.randn(2, 3, network.config.context_dim)
    predictor, cond = VgenNetwork(network), {"text": context}
    predictor(x, t, cond)
    network.train(True)
    with torch.no_grad():
        predictor(x, t, cond)
    assert seen == [2, 2]
    network.train(False)
    with torch.no_grad():
        predictor(x, t, cond)
    assert seen == [2, 2, 1, 1]


def test_an_unknown_condition_is_refused():
    network = VgenNetwork(tiny.tiny_teacher().network)
    x, t = torch.randn(1, 4, 2, 4, 4), torch.tensor([1])
    with pytest.raises(ValueError, match="got pose; a VGen network takes control, temporal, text"):
        network(x, t, {"text": torch.zeros(1, 3, 16), "pose": x})
