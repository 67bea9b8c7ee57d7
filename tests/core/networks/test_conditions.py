import pytest
import torch
from precision import assert_same, distance, without_rounding
from recipe import recipe_fill

from videolcm_core.networks.vgen.conditions import CONDITION_CHANNELS, module_names
from videolcm_core.networks.vgen.unet3d import CONDITIONS, UNet3D, UNetConfig


@pytest.fixture(scope="module")
def network():
    config = UNetConfig(
        model_channels=64,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_scales=(1.0,),
        context_dim=32,
        num_heads=1,
        head_dim=32,
        conditions=CONDITIONS,
        use_fps=True,
    )
    return recipe_fill(UNet3D(config), seed=1).train(False).requires_grad_(False)


def pixels(name, size=(64, 48), frames=2):
    generator = torch.Generator().manual_seed(len(name))
    return torch.rand(1, CONDITION_CHANNELS[name], frames, *size, generator=generator)


@pytest.mark.parametrize("name", CONDITION_CHANNELS)
@pytest.mark.parametrize("size", [(64, 48), (40, 72), (9, 9)])
def test_every_encoder_maps_any_size_to_the_latents(network, name, size):
    out = network.encode_conditions((8, 6), **{name: pixels(name, size)})
    assert out.shape == (1, 8, 2, 8, 6)


def test_conditions_are_summed(network):
    assert_same(
        lambda: sum(network.encode_conditions((8, 6), **{n: pixels(n)}) for n in ("depth", "sketch")),
        lambda: network.encode_conditions((8, 6), depth=pixels("depth"), sketch=pixels("sketch")),
    )


def test_encoded_conditions_can_be_passed_instead(network):
    """What a host does: encode once, then send the result with the latents of every step."""
    x, t = torch.randn(1, 4, 2, 8, 6), torch.tensor([5])
    depth, sketch = pixels("depth"), pixels("sketch")

    def encoded():
        return network.encode_conditions((8, 6), depth=depth)

    def frames():
        return network(x[0].transpose(0, 1), t, concat=encoded()[0].transpose(0, 1)).transpose(0, 1)[None]

    assert_same(lambda: network(x, t, depth=depth), lambda: network(x, t, concat=encoded()))
    assert_same(lambda: network(x, t, depth=depth), frames)
    assert_same(
        lambda: network(x, t, depth=depth, sketch=sketch), lambda: network(x, t, concat=encoded(), sketch=sketch)
    )


def test_one_encoding_serves_prompt_and_negative_prompt(network):
    x = torch.randn(4, 4, 8, 6)
    encoded = network.encode_conditions((8, 6), depth=pixels("depth"))[0].transpose(0, 1)
    once = network(x, torch.tensor([5]), num_frames=2, concat=encoded)
    assert torch.equal(once, network(x, torch.tensor([5]), num_frames=2, concat=encoded.repeat(2, 1, 1, 1)))


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": torch.ones(1, 1, 32)},
        {"histogram": torch.ones(1, 2, 156)},
        {"fps": torch.tensor([8])},
        *({name: None} for name in CONDITION_CHANNELS),
    ],
    ids=str,
)
def test_every_condition_matters(network, inputs):
    inputs = {name: pixels(name) if value is None else value for name, value in inputs.items()}
    x, t = torch.randn(1, 4, 2, 8, 6), torch.tensor([5])
    exact = without_rounding(lambda: network(x, t))
    assert distance(network(x, t, **inputs), exact.values[""]) > 10 * exact.bound()


def test_conditions_without_an_encoder_are_refused(tiny_unet, tiny_inputs):
    with pytest.raises(ValueError, match="no encoder for condition 'sketch'; it has: depth, image, masked"):
        tiny_unet(*tiny_inputs.values(), sketch=torch.rand(2, 1, 3, 64, 96))
    with pytest.raises(ValueError, match="no 'histogram' condition"):
        tiny_unet(*tiny_inputs.values(), histogram=torch.rand(2, 3, 156))


def test_first_layer_of_four_channels_takes_no_conditions():
    config = UNetConfig(
        model_channels=64,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_scales=(),
        context_dim=32,
        num_heads=1,
        head_dim=32,
        concat_channels=0,
    )
    network, x = UNet3D(config), torch.randn(1, 4, 2, 8, 8)
    assert network(x, torch.tensor([1])).shape == x.shape
    with pytest.raises(ValueError, match="no concat channels"):
        network(x, torch.tensor([1]), concat=torch.zeros(1, 8, 2, 8, 8))


def test_authors_names():
    assert module_names("masked") == ("masked_embedding", "mask_embedding_after")
    assert module_names("depth") == ("depth_embedding", "depth_embedding_after")


def test_long_clips_are_encoded_a_few_frames_at_a_time_with_the_same_result(network):
    frames, sizes = torch.rand(20, 1, 32, 32, generator=torch.Generator().manual_seed(2)), []
    hook = network.depth_embedding.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))

    def parts():
        with torch.no_grad():
            return network.encode_conditions((4, 4), depth=frames)

    parts(), network.encode_conditions((4, 4), depth=frames)
    hook.remove()
    assert sizes == [8, 8, 4, 20]
    assert_same(lambda: network.encode_conditions((4, 4), depth=frames), parts)
