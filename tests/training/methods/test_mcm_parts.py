"""MCM's parts where the authors' numbers do not reach: half precision, other sizes, draws, closed forms."""

import math
from random import Random

import pytest
import torch
from precision import assert_rounded, assert_same, assert_within
from torch import nn
from torch.nn import functional

from training.engine.randomness import draw_samples
from training.methods.parts.adversary import ADVERSARIAL_LOSSES, gradient_norms, mixed, per_sample
from training.methods.parts.augmentation import augment, cut_hole, draw_changes, joined, move
from training.methods.parts.correlation import OUTSIDE, global_correlation, inside, local_correlation
from training.methods.parts.discriminator import Discriminator, LocalNorm, SingularVectors, SpectralConv1d
from training.methods.parts.discriminator_input import draw_view, joined_views, prepare
from training.methods.parts.frame_choice import any_frames, one_of_each_part
from training.methods.parts.frequency import _half, butterworth, high_frequency, low_frequency
from training.methods.parts.guidance_embedding import guidance_embedding
from training.methods.parts.motion import MOTIONS
from training.methods.parts.motion_head import LARGE, SMALL, MotionHead
from training.methods.parts.sample_draws import Purpose, SampleDraws
from training.methods.parts.trajectory import is_simulated, noised
from videolcm_core.diffusion.consistency import pseudo_huber
from videolcm_core.diffusion.schedule import Schedule


def latents(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SIZES = [(2, 4, 3, 5, 7), (1, 3, 2, 8, 6), (2, 4, 16, 4, 4)]


@pytest.mark.parametrize("shape", SIZES)
def test_the_filter_is_that_of_complex_transforms(shape):
    """The authors' way, in float64: to the middle, times the filter, back, the real part."""
    x, axes, response = latents(*shape), (-3, -2, -1), butterworth(*shape[-3:])
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.double(), dim=axes), dim=axes)
    for ours, factor in ((low_frequency, response), (high_frequency, 1.0 - response)):
        theirs = torch.fft.ifftn(torch.fft.ifftshift(spectrum * factor, dim=axes), dim=axes).real
        exact = assert_rounded(lambda ours=ours: ours(x))
        assert_within(theirs, exact, what="the complex transform")


def test_the_filter_passes_what_is_slow():
    response = butterworth(16, 8, 8)
    assert response[8, 4, 4] == 1.0 and response[0, 0, 0] < 1e-6
    at_stop = butterworth(16, 8, 8)[10, 4, 4]  # a quarter of the highest frequency along time
    assert at_stop == pytest.approx(0.5)
    still = latents(1, 4, 1, 1, 1).expand(1, 4, 16, 8, 8)
    torch.testing.assert_close(low_frequency(still), still)


def test_the_filter_is_built_once_a_shape():
    _half.cache_clear()
    for _ in range(3):
        low_frequency(latents(1, 4, 5, 8, 8))
    assert _half.cache_info().misses == 1 and _half.cache_info().hits == 2


@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_overflows_nowhere(name, dtype):
    """Latents of 300: their products and sums, and the mark outside the image, leave float16's range."""
    x, y = (latents(1, 4, 3, 6, 6, seed=seed, scale=300.0).to(dtype).requires_grad_() for seed in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pseudo_huber(MOTIONS[name](x), MOTIONS[name](y)).mean()
    loss.backward()
    assert math.isfinite(loss.item()) and loss.item() > 0
    assert x.grad is not None and bool(x.grad.isfinite().all()) and bool(x.grad.any())


@pytest.mark.parametrize("shape", SIZES)
def test_a_local_correlation_is_the_global_one_looked_at_nearby(shape):
    x, (height, width), radius = latents(*shape), shape[-2:], 2
    local, everywhere = local_correlation(x, radius), global_correlation(x)
    around = inside(height, width, radius)
    assert bool((local[:, ~around] == OUTSIDE).all())
    for p in range(height * width):
        places = [
            (p // width + i) * width + p % width + j
            for i in range(-radius, radius + 1)
            for j in range(-radius, radius + 1)
            if 0 <= p // width + i < height and 0 <= p % width + j < width
        ]
        torch.testing.assert_close(local[:, p][:, around[p]], everywhere[:, p, places])


def test_places_outside_the_image_add_no_loss_and_no_gradient():
    x, y = latents(1, 4, 2, 3, 3).requires_grad_(), latents(1, 4, 2, 3, 3, seed=1)
    found = local_correlation(x)
    pseudo_huber(found.flatten(1), local_correlation(y).flatten(1)).mean().backward()
    kept = inside(3, 3, 7)
    z = x.detach().clone().requires_grad_()
    only = (local_correlation(z)[:, kept] - local_correlation(y)[:, kept]).square().add(1e-6).sqrt().sub(1e-3)
    (only.sum() / found.numel()).backward()
    torch.testing.assert_close(x.grad, z.grad)


@pytest.mark.parametrize(("size", "count"), [(SMALL, 708), (LARGE, 113_924)])
def test_a_head_begins_as_the_identity(size, count):
    head, x = MotionHead(4, size), latents(2, 4, 3, 6, 5)
    assert sum(p.numel() for p in head.parameters()) == count
    assert torch.equal(head(x), x)
    assert not any(p.requires_grad for p in head.twin().parameters())
    head(x).square().sum().backward()
    assert bool(head.conv_out.weight.grad.any())


@pytest.mark.parametrize("dim", [4, 33, 256])
def test_the_guidance_embedding_tells_scales_apart(dim):
    found = guidance_embedding(torch.tensor([5.0, 5.5, 15.0]), dim)
    assert found.shape == (3, dim) and len(found.unique(dim=0)) == 3
    assert bool((found[:, -1] == 0).all()) == (dim == 33)


@pytest.mark.parametrize(("frames", "count"), [(16, 2), (5, 2), (7, 3), (3, 3), (10, 4)])
def test_frames_are_in_the_clip_and_differ(frames, count):
    seen = set()
    for seed in range(200):
        chosen, parts = (choose(frames, count, Random(seed)) for choose in (any_frames, one_of_each_part))
        assert len(set(chosen)) == len(set(parts)) == count
        assert parts == sorted(parts) and {*chosen, *parts} <= set(range(frames))
        assert all(i * frames // count <= p < (i + 1) * frames // count for i, p in enumerate(parts))
        seen |= set(parts)
    assert seen == set(range(frames))
    with pytest.raises(ValueError, match=f"disc_frames is {frames + 1} and the clips have {frames} frames"):
        any_frames(frames, frames + 1, Random(0))


def test_a_shift_and_a_hole_where_they_are_told():
    x = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    assert move(x, torch.tensor([[1, -2]]))[0, 0].tolist()[0] == [0, 0, 6, 7, 8]
    assert move(x, torch.tensor([[0, 0]])).equal(x)
    # A fifth of 5 is one pixel.
    assert (cut_hole(x, torch.tensor([[2, 3]])) == 0).nonzero().tolist() == [[0, 0, 2, 3]]
    wide = torch.ones(1, 1, 40, 20)
    assert (cut_hole(wide, torch.tensor([[0, 10]])) == 0).sum() == 4 * 4, (
        "8 rows of which 4 lie in the image, 4 columns"
    )


def test_what_an_image_gets_depends_on_its_own_generator():
    x = latents(4, 3, 32, 40)
    each = [draw_view(1, 32, 40, 24, torch.Generator().manual_seed(seed)) for seed in range(4)]
    together = prepare(x, joined_views(each), 24)
    alone = [prepare(x[i : i + 1], view, 24) for i, view in enumerate(each)]
    assert together.shape == (4, 3, 24, 24) and torch.equal(together, torch.cat(alone))
    changes = [draw_changes(2, 32, 40, torch.Generator().manual_seed(seed)) for seed in range(2)]
    torch.testing.assert_close(
        augment(x, joined(changes)), torch.cat([augment(x[:2], changes[0]), augment(x[2:], changes[1])])
    )


@pytest.mark.parametrize(("height", "width", "cuts"), [(32, 40, True), (24, 24, False), (16, 40, False)])
def test_only_larger_images_are_cut(height, width, cuts):
    views = [draw_view(1, height, width, 24, torch.Generator().manual_seed(seed)) for seed in range(40)]
    cut = [view.crop for view in views if int(view.crop.min()) >= 0]
    assert bool(cut) == cuts and len(cut) < 40
    assert all(bool((crop <= torch.tensor([height - 24, width - 24])).all()) for crop in cut)


def test_gradients_pass_to_the_frames():
    frames = latents(2, 3, 32, 32).requires_grad_()
    view = draw_view(2, 32, 32, 28, torch.Generator().manual_seed(1))
    prepare(frames, view, 28).square().sum().backward()
    assert all(bool(gradient.any()) for gradient in frames.grad)


def test_power_iterations_find_the_largest_singular_value():
    torch.manual_seed(0)
    layer = SpectralConv1d(12, 20, 5)
    for _ in range(200):
        layer.iterate()
    largest = torch.linalg.matrix_norm(layer.weight_orig.flatten(1), 2)
    norm = torch.dot(layer.weight_u, layer.weight_orig.flatten(1) @ layer.weight_v)
    torch.testing.assert_close(norm, largest)
    x = latents(2, 12, 9)
    padded = torch.cat([x[..., -2:], x, x[..., :2]], -1)
    torch.testing.assert_close(layer(x), functional.conv1d(padded, layer.weight_orig / norm, layer.bias))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_local_norm_is_batch_norm_of_each_group(groups):
    norm, x = LocalNorm(8), latents(6, 8, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

    def theirs():
        parts = [functional.batch_norm(p, None, None, norm.weight, norm.bias, True) for p in (x + 0.0).chunk(groups)]
        return torch.cat(parts)

    with torch.no_grad():
        assert_same(lambda: norm(x, groups), theirs)


def test_logits_of_a_group_do_not_depend_on_the_others():
    torch.manual_seed(0)
    discriminator = Discriminator({"2": 16, "5": 8}, 6)
    features = {"2": latents(4, 9, 16), "5": latents(4, 9, 8, seed=1)}
    text = latents(4, 6, seed=2)
    whole = discriminator(features, text, 2)
    half = discriminator({name: value[:2] for name, value in features.items()}, text[:2], 1)
    torch.testing.assert_close(whole[:2], half)
    assert whole.shape == (4, 18)
    with pytest.raises(ValueError, match="4 frames cannot be divided into 3 groups"):
        discriminator(features, text, 3)


def test_the_vectors_that_follow_are_the_discriminators_own():
    torch.manual_seed(0)
    discriminator = Discriminator({"2": 16}, 6)
    vectors = SingularVectors(discriminator)
    own = {id(p) for c in discriminator.convolutions().values() for p in (c.weight_u, c.weight_v)}
    assert {id(p) for p in vectors.parameters()} == own
    assert set(vectors.iterated()) == {name for name, _ in vectors.named_parameters()}
    assert not any(p.requires_grad for p in vectors.parameters())


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_losses_push_the_way_they_are_named(name):
    loss, logits = ADVERSARIAL_LOSSES[name], torch.tensor([-0.5, 0.0, 0.5])
    for side, sign in ((loss.generator, -1.0), (loss.real, -1.0), (loss.made, 1.0)):
        x = logits.clone().requires_grad_()
        side(x).sum().backward()
        assert bool((x.grad.sign() == sign).all())
    assert per_sample(torch.arange(8.0).view(4, 2), 2).tolist() == [1.5, 5.5]


def test_the_gradient_of_a_linear_discriminator_is_its_weight():
    weight = latents(7, 3)
    features = {"a": latents(2, 7, 3, seed=1).requires_grad_()}
    logits = (features["a"] * weight).sum(-1)
    torch.testing.assert_close(gradient_norms(logits, features), weight.norm().expand(2))
    one, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert mixed(one, other, torch.tensor([1.0, 0.25])).flatten(1).mean(1).tolist() == [0.0, 0.75]


def test_the_last_timestep_is_pure_noise_and_no_other():
    schedule = Schedule.create(zero_terminal_snr=False)
    x, noise = latents(3, 4, 2, 3, 3), latents(3, 4, 2, 3, 3, seed=1)
    found = noised(schedule, x, noise, torch.tensor([999, 979, 19]))
    assert torch.equal(found[0], noise[0])
    assert torch.equal(found[1:], schedule.add_noise(x, noise, torch.tensor([999, 979, 19]))[1:])


def test_the_share_of_real_origins():
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.5, 1.0):
        real = 1.0 - is_simulated(uniform, share).float().mean().item()
        assert abs(real - share) <= 4 * math.sqrt(share * (1 - share) / len(uniform))


def test_a_samples_own_draws_are_the_same_in_any_company():
    every = SampleDraws(draw_samples((4, 2, 3, 3), range(4), seed=1, step=5))
    alone = SampleDraws(draw_samples((4, 2, 3, 3), range(2, 3), seed=1, step=5))
    like = torch.zeros(4, 4, 2, 3, 3)
    assert torch.equal(every.noise(like, Purpose.ORIGIN)[2:3], alone.noise(like[:1], Purpose.ORIGIN))
    drawn = torch.cat([every.uniform(3, purpose) for purpose in Purpose])
    assert len(drawn.unique()) == drawn.numel()
    other = SampleDraws(draw_samples((4, 2, 3, 3), range(4), seed=1, step=5, phase=1))
    assert not torch.equal(every.uniform(3, Purpose.MIX), other.uniform(3, Purpose.MIX))
