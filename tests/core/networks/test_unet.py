from copy import deepcopy

import pytest
import torch
from precision import ROOM, UNITS, assert_rounded, assert_same, assert_within, distance, without_rounding
from recipe import recipe_fill
from torch import nn

from videolcm_core.networks.fused import FastGroupNorm, geglu
from videolcm_core.networks.layers import Step, sinusoidal_embedding
from videolcm_core.networks.vgen import attention as attention_module
from videolcm_core.networks.vgen.attention import default_attention
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


def as_frames(video):
    return video.transpose(1, 2).flatten(0, 1)


def as_video(frames, count):
    return frames.unflatten(0, (-1, count)).transpose(1, 2)


@pytest.mark.parametrize("per_frame", [False, True], ids=["context per video", "context per frame"])
def test_video_and_frames_as_batch_agree(tiny_unet, tiny_inputs, per_frame):
    x, t, context = tiny_inputs.values()
    depth, image = torch.rand(2, 1, 3, 64, 96), torch.randn(2, 1, 32)
    given = (t.repeat_interleave(3), context.repeat_interleave(3, 0)) if per_frame else (t, context)

    def frames():
        out = tiny_unet(as_frames(x), *given, num_frames=3, depth=as_frames(depth), image=image)
        assert out.shape == (6, 4, 8, 12)
        return as_video(out, 3)

    assert_same(lambda: tiny_unet(x, t, context, depth=depth, image=image), frames)


def test_without_num_frames_the_batch_is_one_video(tiny_unet, tiny_inputs):
    x, t, context = (value[:1] for value in tiny_inputs.values())
    assert_same(lambda: as_video(tiny_unet(as_frames(x), t, context), 3), lambda: tiny_unet(x, t, context))


def test_videos_of_a_batch_do_not_mix(tiny_unet, tiny_inputs):
    assert_same(
        lambda: tiny_unet(*tiny_inputs.values())[1:],
        lambda: tiny_unet(*(value[1:] for value in tiny_inputs.values())),
    )


def test_frames_of_a_video_do_mix(tiny_unet, tiny_inputs):
    x, t, context = tiny_inputs.values()
    changed = x.clone()
    changed[:, :, 2] += 1
    exact = without_rounding(lambda: tiny_unet(x, t, context)[:, :, 0])
    assert distance(tiny_unet(changed, t, context)[:, :, 0], exact.values[""]) > 100 * exact.bound()


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (7, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_size_and_length(tiny_unet, size, frames):
    x = torch.randn(1, 4, frames, *size)
    out = tiny_unet(x, torch.tensor([500]), torch.randn(1, 7, 32), depth=torch.rand(1, 1, frames, 30, 50))
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_low_precision(tiny_inputs, tiny_config, dtype):
    """As far off as one rounding of this precision an operation makes it, from the same rounded weights and inputs."""
    network = recipe_fill(UNet3D(tiny_config, dtype=dtype), seed=7).train(False).requires_grad_(False)
    x, t, context = tiny_inputs.values()
    x, context = x.to(dtype), context.to(dtype)
    out = network(x, t, context)
    assert out.dtype == dtype and out.isfinite().all()
    wider = deepcopy(network).float()
    exact = without_rounding(lambda: wider(x.float(), t, context.float()), unit=UNITS[dtype])
    assert_within(out, exact)


def test_autocast(tiny_unet, tiny_inputs):
    """The weights are rounded too: the bound is that of bfloat16, though some layers stay in float32."""
    rounded = deepcopy(tiny_unet).bfloat16().float()
    exact = without_rounding(lambda: rounded(*tiny_inputs.values()), unit=UNITS[torch.bfloat16])
    with torch.autocast("cpu", torch.bfloat16):
        out = tiny_unet(*tiny_inputs.values())
    assert_within(out.float(), exact)


def test_large_values_survive_half_precision(tiny_config, tiny_inputs):
    network = recipe_fill(UNet3D(tiny_config, dtype=torch.float16), seed=7).train(False)
    x, t, context = tiny_inputs.values()
    with torch.no_grad():
        assert network(x.half() * 100, t, context.half() * 10).isfinite().all()


def test_a_fresh_network_returns_only_the_last_bias(tiny_config, tiny_inputs):
    """The authors' zero initialisation: every residual branch and the last convolution start at 0."""
    network = UNet3D(tiny_config)
    out = network(*tiny_inputs.values())
    assert torch.equal(out, network.out[2].bias.view(1, -1, 1, 1, 1).expand_as(out))
    zero = [name for name, p in network.named_parameters() if not p.any()]
    assert {"input_blocks.1.1.proj_out.weight", "input_blocks.0.1.proj_out.bias", "out.2.weight"} <= set(zero)
    assert "input_blocks.1.0.temopral_conv.conv4.3.weight" in zero


def test_dropout_is_drawn_in_training_only(tiny_config, tiny_inputs):
    network = recipe_fill(UNet3D(tiny_config), seed=7)
    with torch.no_grad():
        network.train(True)
        assert not torch.equal(network(*tiny_inputs.values()), network(*tiny_inputs.values()))
        network.train(False)
        assert torch.equal(network(*tiny_inputs.values()), network(*tiny_inputs.values()))


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_gradients_reach_every_parameter(tiny_config, tiny_inputs, autocast):
    network = recipe_fill(UNet3D(tiny_config), seed=7)
    extras = {
        "depth": torch.rand(2, 1, 3, 64, 96),
        "masked": torch.rand(2, 4, 3, 64, 96),
        "image": torch.randn(2, 1, 32),
    }
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = network(*tiny_inputs.values(), **extras)
    out.float().square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_autocast_gradients_point_the_same_way(tiny_config, tiny_inputs):
    """The hand-written backward passes (group norm, GEGLU) against PyTorch's own, as near as bfloat16's bits allow."""
    filled = recipe_fill(UNet3D(tiny_config), seed=7).train(False)

    def gradients():
        x, *others = tiny_inputs.values()
        x = x + 0.0
        network = deepcopy(filled).to(x.dtype)  # gradients have the type of their parameters
        network(x, *others).float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    with torch.autocast("cpu", torch.bfloat16):
        found = gradients()
    exact = without_rounding(gradients, unit=UNITS[torch.bfloat16])
    assert (found - exact.values[""]).norm() <= ROOM * exact.norms[""]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("lengths", [(5, 5), (24, 7), (300, 300)])
def test_explicit_and_fused_attention_agree(heads, lengths, monkeypatch):
    q, k, v = (torch.randn(2, n, heads * 8, requires_grad=True) for n in (lengths[0], lengths[1], lengths[1]))

    def attend(short_scores):
        monkeypatch.setattr(attention_module, "SHORT_SCORES", short_scores)
        return default_attention(q, k, v, heads)

    most = attention_module.SHORT_SCORES
    assert_same(lambda: attend(most), lambda: attend(0), copies=4)


@pytest.mark.parametrize("size", [(2, 3), (8, 8), (32, 48)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_hand_written_group_norm(size, dtype):
    """Forward and backward against PyTorch's own, within one rounding of this precision an operation."""
    fast, plain = (recipe_fill(kind(32, 64), seed=2) for kind in (FastGroupNorm, nn.GroupNorm))
    x, grad = (torch.randn(3, 64, *size).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_(True)

    def with_gradients(norm, x, grad):
        out = norm(x)
        return [out, *torch.autograd.grad(out, (x, norm.weight, norm.bias), grad)]

    def exact_gradients():
        wider = x.detach().double().requires_grad_(True)
        return with_gradients(deepcopy(plain).double(), wider, grad.double())

    ours = with_gradients(fast, x, grad)
    assert ours[0].dtype == dtype and ours[0].is_contiguous(memory_format=torch.channels_last)
    exact = without_rounding(exact_gradients, copies=4, unit=UNITS[dtype])
    for index, value in enumerate(ours):
        assert_within(value, exact, str(index))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_hand_written_geglu(dtype):
    torch.manual_seed(0)
    x, grad = torch.randn(4, 5, 32).to(dtype).requires_grad_(True), torch.randn(4, 5, 16).to(dtype)
    ours = [geglu(x), *torch.autograd.grad(geglu(x), x, grad)]

    def plain():
        wider = x.detach().double().requires_grad_(True)
        value, gate = wider.chunk(2, dim=-1)
        out = value * nn.functional.gelu(gate)
        return [out, *torch.autograd.grad(out, wider, grad.double())]

    exact = without_rounding(plain, copies=4, unit=UNITS[dtype])
    for index, value in enumerate(ours):
        assert_within(value, exact, str(index))


def test_injected_attention_is_used_everywhere(tiny_config, tiny_inputs):
    calls = []

    def counting(q, k, v, heads, mask=None):
        calls.append((q.shape[1], k.shape[1]))
        return default_attention(q, k, v, heads, mask)

    network = recipe_fill(UNet3D(tiny_config, attention=counting), seed=7).train(False)
    with torch.no_grad():
        network(*tiny_inputs.values())
    transformers = sum(name.endswith(".transformer_blocks") for name, _ in network.named_modules())
    assert len(calls) == 2 * transformers
    # Text: all frames of a video ask at once, so keys and values are made once per video.
    assert (3 * 8 * 12, 7) in calls


def test_blocks_compile_without_graph_breaks(tiny_unet):
    """One block with every kind of layer; compiling the whole network takes minutes."""
    block, step = tiny_unet.output_blocks[1], Step(torch.randn(2, 256), torch.randn(2, 7, 32), num_frames=3)
    x = torch.randn(6, block[0].in_layers[0].num_channels, 4, 6).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    exact = assert_rounded(lambda: block(x, step, (8, 12)))
    assert_within(compiled(x, step, (8, 12)), exact)


def test_sinusoidal_embedding_closed_form():
    """Cosines first, and the exponent's denominator is half the width, not half minus one."""
    out = sinusoidal_embedding(torch.tensor([0, 10]), 8)
    assert out[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    angles = torch.tensor([10 * 10000 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    exact = assert_rounded(lambda: sinusoidal_embedding(torch.tensor([10]), 8)[0], tables=True)
    # An angle of 10 and its cosine are rounded a few times in float64 too.
    assert distance(torch.cat([angles.cos(), angles.sin()]), exact.values[""]) <= 4 * 10 * UNITS[torch.float64]
    assert torch.equal(out[1], sinusoidal_embedding(torch.tensor([10]), 8)[0])


def test_no_context_is_a_zero_text(tiny_unet, tiny_inputs):
    x, t, _ = tiny_inputs.values()
    assert_same(lambda: tiny_unet(x, t), lambda: tiny_unet(x, t, torch.zeros(2, 77, 32)))


def test_scalar_timestep_serves_the_batch(tiny_unet, tiny_inputs):
    x, _, context = tiny_inputs.values()
    assert_same(lambda: tiny_unet(x, torch.tensor(5), context), lambda: tiny_unet(x, torch.tensor([5, 5]), context))


def test_frames_that_do_not_divide_are_refused(tiny_unet):
    with pytest.raises(ValueError, match="7 frames; it must be a multiple of num_frames .3."):
        tiny_unet(torch.randn(7, 4, 8, 8), torch.tensor([1]), num_frames=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conditions": frozenset({"depthmap"})}, "unknown conditions .'depthmap'.*single_sketch"),
        ({"model_channels": 48}, "48 channels wide; it must be a multiple of 32"),
        ({"model_channels": 64, "head_dim": 48}, "of head_dim"),
    ],
)
def test_bad_configurations_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**values)
