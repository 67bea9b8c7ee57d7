"""A ControlNet on the pack's own network, inside context windows: each window sees the hints of its own frames."""

import pytest
import torch
from windows import context_windows


@pytest.fixture
def controlnet():
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    network = comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        model_channels=64,
        hint_channels=3,
        num_res_blocks=[1, 1],
        channel_mult=(1, 2),
        num_head_channels=64,
        transformer_depth=[1, 1],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        context_dim=32,
        operations=comfy.ops.manual_cast,
    )
    generator = torch.Generator().manual_seed(4)
    for value in network.train(False).state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


@pytest.mark.parametrize("look_back", [False, True])
def test_hints_belong_to_their_windows(host, model, prompt, latent, ksampler, controlnet, look_back):
    settings = {"context_schedule": "batched", "fuse_method": "flat", "causal_window_fix": look_back}
    windowed = context_windows(host, model, 4, 0, **settings)

    def run(hints):
        positive = host.run(
            "ControlNetApplyAdvanced",
            positive=prompt("a dog"),
            negative=prompt("a dog"),
            control_net=controlnet,
            image=hints,
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )[0]
        return ksampler(windowed, positive, latent(8), steps=1)

    hints = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(5))
    other = hints.clone()
    other[7] = 1 - other[7]
    base, changed = run(hints), run(other)
    assert torch.equal(base[:4], changed[:4])
    assert not torch.equal(base[7], changed[7])
