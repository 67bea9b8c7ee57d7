"""Motion modules, Stable Diffusion 1.5's UNet around them, and the image encoder: what holds whatever the weights."""

import pytest
import torch
from precision import ROOM, assert_differ, assert_rounded, assert_same, distance, without_rounding
from recipe import recipe_fill

from videolcm_core.families.animatediff.keymaps import motion_to_diffusers, sd15_to_diffusers
from videolcm_core.networks.animatediff.image_encoder import FEATURE_BLOCKS, ImageEncoder
from videolcm_core.networks.animatediff.motion import MotionConfig, MotionModule, MotionNetwork, place
from videolcm_core.networks.animatediff.positions import positional_encoding
from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet

CONFIG = SD15Config(model_channels=32, channel_mult=(1, 2, 2, 4), context_dim=24)
WIDTHS = (32, 64, 64, 128)
FRAMES = 3


@pytest.fixture(scope="module")
def unet():
    return recipe_fill(SD15UNet(CONFIG), seed=5, gain=0.8).train(False).requires_grad_(False)


@pytest.fixture(scope="module")
def motion():
    return recipe_fill(MotionNetwork(MotionConfig(WIDTHS)), seed=6, gain=0.8).train(False).requires_grad_(False)


@pytest.fixture(scope="module")
def module():
    return recipe_fill(MotionModule(64), seed=7).train(False).requires_grad_(False)


@pytest.fixture
def inputs():
    return torch.randn(2, 4, FRAMES, 9, 14), torch.tensor([999, 259]), torch.randn(2, 5, 24)


def frames_of(batch=2, frames=FRAMES, size=(5, 6)):
    return torch.randn(batch * frames, 64, *size)


# ------------------------------------------------------------------------------------------------- in the UNet


@pytest.mark.parametrize("mid_block", [True, False])
def test_untrained_modules_change_nothing(unet, inputs, mid_block):
    """Their last projection is zero when training begins (arXiv 2307.04725, 4.2)."""
    fresh = MotionNetwork(MotionConfig(WIDTHS, mid_block=mid_block)).requires_grad_(False)
    x = torch.randn(2 * FRAMES, 64, 4, 3)
    assert all(fresh.at("output", index)(x, FRAMES).equal(x) for index in (4, 5))
    assert len(fresh.names()) == 20 + mid_block
    assert unet(*inputs, fresh).equal(unet(*inputs))


def test_modules_without_strength_change_nothing(unet, motion, inputs):
    assert unet(*inputs, motion, scale=0.0).equal(unet(*inputs))


def test_every_module_runs_once_in_the_order_of_the_names(unet, motion, inputs):
    ran = []
    names = {module: name for name, module in motion.named_modules() if isinstance(module, MotionModule)}
    hooks = [module.register_forward_hook(lambda module, _, __: ran.append(names[module])) for module in names]
    unet(*inputs, motion)
    for hook in hooks:
        hook.remove()
    assert ran == list(motion.names()) and len(ran) == 21


def test_every_module_has_its_own_effect(unet, motion):
    inputs = torch.randn(1, 4, 2, 8, 8), torch.tensor([259]), torch.randn(1, 3, 24)
    exact = without_rounding(lambda: unet(*inputs, motion))
    for name in motion.names():
        last = motion.get_submodule(name).temporal_transformer.proj_out
        weight = last.weight.clone()
        last.weight.mul_(2.0)
        changed = distance(unet(*inputs, motion), exact.values[""])
        last.weight.copy_(weight)
        assert changed > 10 * exact.bound(), name


def test_places_are_those_with_modules(motion):
    every = [("input", i) for i in range(12)] + [("middle", 0)] + [("output", i) for i in range(12)]
    placed = {place: motion.at(*place) for place in every}
    assert [place for place, module in placed.items() if module is None] == [("input", i) for i in (0, 3, 6, 9)]
    assert len(set(placed.values())) == 22
    widths = [len(module.temporal_transformer.norm.weight) for module in placed.values() if module is not None]
    assert widths == [32, 32, 64, 64, 64, 64, *[128] * 3, *[128] * 3, *[64] * 6, *[32] * 3]
    assert place("middle", 0) == "mid_block.motion_modules.0"


def test_without_a_middle_module(motion):
    network = MotionNetwork(MotionConfig(WIDTHS, mid_block=False), device="meta")
    assert network.at("middle", 0) is None
    assert list(network.names()) == [name for name in motion.names() if not name.startswith("mid")]


def test_frames_move_together_only_with_modules(unet, motion, inputs):
    x, *rest = inputs
    changed = x.clone()
    changed[:, :, 2] += 1
    exact = without_rounding(lambda: unet(x, *rest, motion)[:, :, 0])
    assert distance(unet(changed, *rest, motion)[:, :, 0], exact.values[""]) > 100 * exact.bound()
    assert distance(unet(changed, *rest)[:, :, 0], unet(x, *rest)[:, :, 0]) < exact.bound()


def test_videos_of_a_batch_do_not_mix(unet, motion, inputs):
    alone = [value[1:] for value in inputs]
    exact = without_rounding(lambda: unet(*alone, motion, None, True))
    assert distance(unet(*inputs, motion, None, True)[1:], exact.values[""]) <= exact.bound()
    assert_same(lambda: unet(*inputs, motion)[1:], lambda: unet(*alone, motion))


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (17, 11), (16, 3)])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_any_size_and_length(unet, motion, size, frames):
    x = torch.randn(1, 4, frames, *size)
    out = unet(x, torch.tensor([259]), torch.randn(1, 5, 24), motion)
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(unet, motion, inputs, dtype):
    x, t, context = inputs
    low, moved = (recipe_fill(type(n)(n.config), 5, 0.8).to(dtype).requires_grad_(False) for n in (unet, motion))
    out = low(x.to(dtype), t, context.to(dtype), moved)
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize("config", [CONFIG, SD15Config(), SD15Config(in_channels=9), SD15Config(64, (1, 2, 2, 4), 40)])
def test_sizes_are_read_from_weights(config):
    assert SD15Config.from_weights(SD15UNet(config, device="meta").state_dict()) == config


def test_inpainting_takes_nine_channels(motion):
    unet = SD15UNet(SD15Config(32, (1, 2, 2, 4), 24, in_channels=9))
    out = unet(torch.randn(1, 9, 2, 8, 8), torch.tensor([5]), torch.randn(1, 3, 24), motion)
    assert out.shape == (1, 4, 2, 8, 8)


# --------------------------------------------------------------------------------------------------- one module


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("frames", "size"), [(1, (5, 6)), (3, (1, 7)), (5, (3, 3)), (16, (2, 3))])
def test_a_module_is_exact_at_any_length_and_size(module, across, frames, size):
    x = frames_of(2, frames, size)
    assert_rounded(lambda: module(x, frames, across))


def test_group_norm_conventions_are_the_same_for_one_frame_only(module):
    x = frames_of()
    assert_same(lambda: module(x, 1, False), lambda: module(x, 1, True))
    assert_differ(lambda: module(x, FRAMES, False), module(x, FRAMES, True))


def test_strength_is_linear(module):
    x = frames_of()
    assert module(x, FRAMES, scale=0.0).equal(x)
    assert_same(lambda: module(x, FRAMES, scale=0.3), lambda: x + 0.3 * (module(x, FRAMES) - x))


def test_pixels_do_not_mix_but_by_the_group_norm(module):
    """Attention is over the frames of one pixel: turning every frame upside down turns the result."""
    x = frames_of()
    assert_same(lambda: module(x.flip(-1, -2), FRAMES), lambda: module(x, FRAMES).flip(-1, -2))


def test_the_order_of_frames_matters(module):
    x = frames_of(1)
    assert_differ(lambda: module(x, FRAMES), module(x.flip(0), FRAMES).flip(0))


# ---------------------------------------------------------------------------------------------------- positions


def with_table(module, table):
    """The same module with a table of positions of its own."""
    other = MotionModule(64, len(table))
    tables = {
        f"temporal_transformer.transformer_blocks.0.attention_blocks.{i}.pos_encoder.pe": table[None] for i in (0, 1)
    }
    other.load_state_dict({**module.state_dict(), **tables})
    return other.train(False).requires_grad_(False)


@pytest.mark.parametrize("length", [FRAMES, 24, 32])
def test_positions_of_a_file_and_computed_ones_are_the_same(module, length):
    x = frames_of()
    assert with_table(module, positional_encoding(length, 64))(x, FRAMES).equal(module(x, FRAMES))


def test_positions_of_a_file_are_used(module):
    x = frames_of()
    assert_differ(lambda: module(x, FRAMES), with_table(module, 0.9 * positional_encoding(8, 64))(x, FRAMES))


def test_more_frames_than_positions_are_refused(module):
    short = with_table(module, positional_encoding(4, 64))
    assert short(frames_of(1, 4), 4).shape == (4, 64, 5, 6)
    with pytest.raises(ValueError, match=r"5 frames, but .* positions for 4\. Use fewer frames, or context windows"):
        short(frames_of(1, 5), 5)


def test_positions_are_interleaved_sines_and_cosines():
    table = positional_encoding(40, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    angles = 39 * torch.tensor([1.0, 10000 ** (-2 / 6), 10000 ** (-4 / 6)], dtype=torch.float64)
    expected = torch.stack([angles.sin(), angles.cos()], 1).flatten()
    # An angle of 39 is off by one rounding of it, twice: of the frequency and of the product.
    assert distance(table[39], expected) < ROOM * 2 * 39 * 2.0**-24
    assert positional_encoding(40, 6)[:7].equal(positional_encoding(7, 6))


# ------------------------------------------------------------------------------------------------ image encoder


@pytest.fixture(scope="module")
def encoder():
    return recipe_fill(ImageEncoder(WIDTHS), seed=8).train(False).requires_grad_(False)


@pytest.mark.parametrize("size", [(16, 24), (9, 14), (5, 3), (1, 1)])
def test_features_fit_the_blocks_that_they_are_added_in(unet, motion, encoder, size):
    features = encoder(torch.randn(FRAMES, 4, *size), FRAMES)
    halved = [[-(-side // 2**level) for side in size] for level in range(4)]
    assert [list(f.shape) for f in features] == [[FRAMES, w, *s] for w, s in zip(WIDTHS, halved, strict=True)]
    assert len(features) == len(FEATURE_BLOCKS)
    x, t, context = torch.randn(1, 4, FRAMES, *size), torch.tensor([5]), torch.randn(1, 3, 24)
    assert unet(x, t, context, motion, features).isfinite().all()


def test_every_feature_is_added(unet, motion, encoder, inputs):
    features = encoder(torch.randn(2 * FRAMES, 4, 9, 14), FRAMES)
    exact = without_rounding(lambda: unet(*inputs, motion, features))
    for level, feature in enumerate(features):
        less = [f if f is not feature else torch.zeros_like(f) for f in features]
        assert distance(unet(*inputs, motion, less), exact.values[""]) > 10 * exact.bound(), level


def test_the_encoder_is_exact(encoder):
    x = torch.randn(2, 4, 9, 14)
    assert_rounded(lambda: encoder(x, 2))


def test_frames_of_one_image_differ_by_their_numbers_only(encoder):
    image = torch.randn(1, 4, 8, 8).expand(FRAMES, -1, -1, -1)
    still = encoder(image, FRAMES, 0.0)
    # Batches of one image are added up like one image, so this is the same number.
    assert all(distance(f[0], f[1]) == distance(f[1], f[2]) == 0 for f in still)
    moving = encoder(image, FRAMES)
    assert all(distance(f[0], f[1]) > 0.01 for f in moving)
    assert_same(lambda: encoder(image, FRAMES)[3], lambda: encoder(image.repeat(2, 1, 1, 1), FRAMES)[3][FRAMES:])


# ---------------------------------------------------------------------------------------------------- diffusers


@pytest.mark.parametrize(("frames", "mid_block"), [(5, True), (1, False)])
def test_equal_to_diffusers_with_the_same_weights(unet, motion, frames, mid_block):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNetMotionModel(
        block_out_channels=WIDTHS,
        cross_attention_dim=CONFIG.context_dim,
        num_attention_heads=8,
        motion_num_attention_heads=8,
        use_motion_mid_block=mid_block,
    )
    own = recipe_fill(MotionNetwork(MotionConfig(WIDTHS, mid_block=mid_block)), seed=6, gain=0.8).requires_grad_(False)
    names = sd15_to_diffusers(unet.state_dict())
    weights = {names[key]: value for key, value in unet.state_dict().items()}
    left, unknown = theirs.load_state_dict({**weights, **motion_to_diffusers(own.state_dict())}, strict=False)
    assert unknown == [] and left == []
    theirs = theirs.train(False).requires_grad_(False)
    x, t, context = torch.randn(2, 4, frames, 9, 14), torch.tensor([999, 259]), torch.randn(2, 5, CONFIG.context_dim)

    def of_diffusers():
        return theirs(x, t, context.repeat_interleave(frames, 0)).sample

    exact = without_rounding(lambda: unet(x, t, context, own, across_frames=True))
    for found in (unet(x, t, context, own, across_frames=True), of_diffusers()):
        assert distance(found, exact.values[""]) <= exact.bound()
