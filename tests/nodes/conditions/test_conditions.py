"""Conditions on their way from the graph into the network."""

import itertools

import pytest
import torch
from precision import (
    UNIT,
    UNITS,
    Exact,
    assert_differ,
    assert_rounded,
    assert_same,
    assert_within,
    distance,
    without_rounding,
)
from windows import context_windows

APPLY = {"strength": 1.0, "invert": False, "fit": "crop", "depth_scale": 2.0}


def noise_like(*shape, seed=0):
    return torch.rand(*shape, generator=torch.manual_seed(seed))


@pytest.fixture
def apply(host):
    """``apply(conditioning, "depth", frames, **options)`` -> positive."""
    return lambda positive, kind, frames, **options: host.run(
        "VideoLCMApplyCondition", positive=positive, condition=kind, frames=frames, **APPLY | options
    )[0]


@pytest.fixture
def inpaint(host):
    return lambda positive, frames, mask, **options: host.run(
        "VideoLCMInpaintCondition",
        positive=positive,
        frames=frames,
        mask=mask,
        **{"strength": 1.0, "fit": "crop"} | options,
    )[0]


@pytest.fixture
def concat(composer):
    """``concat(conditioning, shape)`` -> what the network gets beside latents of that shape."""

    def encode(conditioning, shape=(3, 4, 8, 8)):
        text, extra = conditioning[0]
        out = composer.model.extra_conds(
            noise=torch.zeros(shape), device=torch.device("cpu"), cross_attn=text, prompt_type="positive", **extra
        )
        return out["c_concat"].cond

    return encode


@pytest.fixture
def depth():
    """A depth clip of 3 frames, near below."""
    ramp = torch.linspace(0.1, 1, 64)[:, None].expand(64, 64)
    return torch.stack([ramp, ramp.roll(5, 1), ramp * 0.8])[..., None].expand(-1, -1, -1, 3) * noise_like(3, 64, 64, 1)


@pytest.fixture
def encoded(composer):
    """``encoded(kind, pixels)``: the network's own encoder on ``[F, c, H, W]``, ``[F, 8, 8, 8]``."""
    network = composer.model.diffusion_model
    return lambda kind, pixels: network.encode_conditions((8, 8), **{kind: pixels})[0].movedim(1, 0)


def test_each_condition_is_the_networks_encoding_of_its_values(prompt, apply, inpaint, concat, encoded, depth):
    text, picture = prompt("a dog"), noise_like(3, 64, 64, 3)
    grey = depth[..., :1].movedim(-1, 1)
    assert_same(lambda: encoded("depth", grey * 2), lambda: concat(apply(text, "depth", depth)))
    assert_same(lambda: encoded("sketch", grey), lambda: concat(apply(text, "sketch", depth)))
    first = picture[:1].movedim(-1, 1).expand(3, -1, -1, -1)
    assert_same(lambda: encoded("local_image", first), lambda: concat(apply(text, "first frame", picture)))
    single = grey[:1].expand(3, -1, -1, -1)
    assert_same(lambda: encoded("single_sketch", single), lambda: concat(apply(text, "single sketch", depth)))
    assert_same(
        lambda: encoded("motion", (picture[..., :2].movedim(-1, 1) - 0.5) * 64),
        lambda: concat(apply(text, "motion", picture)),
    )
    hole = (noise_like(3, 64, 64, seed=4) > 0.7).float()

    def masked():
        seen = (picture * 2 - 1).movedim(-1, 1) * (1 - hole)[:, None]
        return encoded("masked", torch.cat([seen, 1 - hole[:, None]], dim=1))

    assert_same(masked, lambda: concat(inpaint(text, picture, hole)))


def test_chaining_in_any_order_gives_the_same_channels(prompt, apply, inpaint, concat, depth):
    steps = {
        "depth": lambda c: apply(c, "depth", depth, strength=0.7),
        "sketch": lambda c: apply(c, "sketch", depth),
        "first": lambda c: apply(c, "first frame", noise_like(1, 50, 70, 3)),
        "hole": lambda c: inpaint(c, noise_like(3, 64, 64, 3), torch.ones(1, 64, 64)),
    }

    def chained(order):
        conditioning = prompt("a dog")
        for name in order:
            conditioning = steps[name](conditioning)
        return concat(conditioning)

    results = [chained(order) for order in itertools.permutations(steps)]
    assert all(torch.equal(result, results[0]) for result in results[1:])
    assert_same(lambda: sum(concat(step(prompt("a dog"))) for step in steps.values()), lambda: chained(steps))


def test_strength_multiplies_the_encoding(prompt, apply, concat, depth):
    text = prompt("a dog")
    full, half = concat(apply(text, "depth", depth)), concat(apply(text, "depth", depth, strength=0.5))
    assert torch.equal(half, full * 0.5)


def test_invert(prompt, apply, concat, depth):
    text = prompt("a dog")
    assert_same(
        lambda: concat(apply(text, "sketch", 1 - depth)), lambda: concat(apply(text, "sketch", depth, invert=True))
    )
    picture = noise_like(1, 64, 64, 3)
    plain = concat(apply(text, "first frame", picture))
    assert torch.equal(concat(apply(text, "first frame", picture, invert=True)), plain)


def test_depth_scale_and_no_normalisation(prompt, apply, concat, depth):
    text = prompt("a dog")
    double = concat(apply(text, "depth", depth / 2, depth_scale=4.0))
    # Powers of two round nothing.
    assert torch.equal(double, concat(apply(text, "depth", depth)))
    assert not torch.equal(concat(apply(text, "depth", depth / 2)), double)


def test_frames_of_another_length_are_held_or_cut(prompt, apply, concat, depth, caplog):
    text = prompt("a dog")
    long = torch.cat([depth, depth[-1:], depth[-1:]])
    held = concat(apply(text, "depth", depth), (5, 4, 8, 8))
    assert "3 frames and the video 5: the last one is held" in caplog.text
    assert torch.equal(held, concat(apply(text, "depth", long), (5, 4, 8, 8)))
    caplog.clear()
    cut = concat(apply(text, "depth", long))
    assert "5 frames and the video 3: the first 3 are used" in caplog.text
    assert torch.equal(cut, concat(apply(text, "depth", depth)))
    caplog.clear()
    concat(apply(text, "depth", depth))
    concat(apply(text, "first frame", depth))
    assert "VideoLCM" not in caplog.text
    concat(apply(text, "depth", depth[:1]))
    assert "has 1 frame and the video 3: the last one is held" in caplog.text
    assert_same(
        lambda: concat(apply(text, "depth", depth[:1].expand(3, -1, -1, -1))),
        lambda: concat(apply(text, "depth", depth[:1])),
    )


def test_one_frame_of_latent(prompt, apply, concat, depth):
    assert concat(apply(prompt("a dog"), "depth", depth[:1]), (1, 4, 8, 8)).shape == (1, 8, 8, 8)


def test_size_is_made_to_fit_the_latent(prompt, apply, concat):
    text, picture = prompt("a dog"), noise_like(3, 40, 100, 3)

    def fitted(fit):
        return concat(apply(text, "depth", picture, fit=fit), (3, 4, 6, 10))

    crop, stretch, pad = (fitted(fit) for fit in ("crop", "stretch", "pad"))
    assert crop.shape == stretch.shape == pad.shape == (3, 8, 6, 10)
    assert_differ(lambda: fitted("crop"), stretch, pad)
    assert_differ(lambda: fitted("stretch"), pad)


def test_long_videos_are_encoded_in_windows(host, prompt, apply, concat, composer):
    """Frames in the middle of a window do not see those that are far: the encoders were trained on 16."""
    conditions = host.pack("nodes.conditions.pixels")
    assert conditions.window_starts(48) == [0, 8, 16, 24, 32] and conditions.window_starts(33) == [0, 8, 16, 17]
    long, text = noise_like(48, 64, 64, 3), prompt("a dog")
    base = concat(apply(text, "depth", long), (48, 4, 8, 8))
    changed = long.clone()
    changed[40:] = 0
    far = concat(apply(text, "depth", changed), (48, 4, 8, 8))
    exact = assert_rounded(lambda: concat(apply(text, "depth", long), (48, 4, 8, 8)))
    first = Exact({"": exact.values[""][:32]}, exact.effects, exact.norms)
    assert_within(far[:32], first)
    assert not torch.equal(far[36:], base[36:])
    assert_same(
        lambda: concat(apply(text, "depth", long), (48, 4, 8, 8))[:8],
        lambda: concat(apply(text, "depth", long[:16]), (16, 4, 8, 8))[:8],
    )
    repeated = long[:1].expand(48, -1, -1, -1)
    assert_same(
        lambda: concat(apply(text, "depth", repeated), (48, 4, 8, 8)),
        lambda: concat(apply(text, "depth", repeated), (48, 4, 8, 8))[:1].expand(48, -1, -1, -1),
    )


def test_five_dimensional_latents(prompt, apply, concat, depth):
    conditioning = apply(prompt("a dog"), "depth", depth)
    five = concat(conditioning, (2, 4, 3, 8, 8))
    assert five.shape == (1, 8, 3, 8, 8) and torch.equal(five[0].movedim(1, 0), concat(conditioning))


def test_channels_from_elsewhere_are_kept(prompt, apply, concat, depth):
    """Core's own key for encoded channels adds to ours."""
    text = prompt("a dog")
    given = noise_like(3, 8, 8, 8)
    with_both = [[c, {**extra, "noise_concat": given}] for c, extra in apply(text, "depth", depth)]
    assert torch.equal(concat(with_both), concat(apply(text, "depth", depth)) + given)


def test_sampling_follows_the_condition(composer, prompt, apply, latent, ksampler, depth):
    text = prompt("a dog")
    base = ksampler(composer, text, latent())
    with_depth = ksampler(composer, apply(text, "depth", depth), latent())
    assert with_depth.isfinite().all()
    assert_differ(lambda: ksampler(composer, text, latent()), with_depth)
    assert torch.equal(ksampler(composer, apply(text, "depth", depth), latent()), with_depth)
    assert torch.equal(ksampler(composer, apply(text, "depth", depth, strength=0.0), latent()), base)


def test_encoded_once_in_a_run(composer, prompt, apply, latent, ksampler, depth, monkeypatch):
    """Not once per step, nor once per branch."""
    network, calls = type(composer.model.diffusion_model), []
    encode = network.encode_conditions

    def counted(self, *args, **kwargs):
        calls.extend(name for name, pixels in kwargs.items() if pixels is not None)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(network, "encode_conditions", counted)
    positive = apply(apply(prompt("a dog"), "depth", depth), "sketch", depth)
    ksampler(composer, positive, latent(), steps=4, cfg=2.0)
    assert calls == ["depth", "sketch"]
    assert composer.model._encoded is None


def test_inputs_are_not_changed(prompt, apply, inpaint, concat, depth):
    text, mask = prompt("a dog"), torch.ones(1, 64, 64)
    copies = [text[0][0].clone(), dict(text[0][1]), depth.clone()]
    positive = inpaint(apply(text, "depth", depth, invert=True), depth, mask)
    held = positive[0][1]["videolcm_conditions"]
    apply(positive, "sketch", depth)
    concat(positive)
    assert torch.equal(text[0][0], copies[0]) and text[0][1].keys() == copies[1].keys()
    assert torch.equal(depth, copies[2]) and mask.min() == 1
    assert positive[0][1]["videolcm_conditions"] is held and len(held) == 2


def test_both_branches_get_the_condition(host, composer, prompt, latent, ksampler, depth):
    dog, car = prompt("a dog"), prompt("a car")
    run = {"positive": dog, "condition": "depth", "frames": depth} | APPLY
    positive, negative = host.run("VideoLCMApplyCondition", negative=car, **run)
    assert torch.equal(negative[0][0], car[0][0])
    assert positive[0][1]["videolcm_conditions"] == negative[0][1]["videolcm_conditions"]
    guided = ksampler(composer, positive, latent(), negative, cfg=3.0)
    assert_differ(lambda: ksampler(composer, positive, latent(), car, cfg=3.0), guided)
    _, empty = host.run("VideoLCMApplyCondition", **run)
    assert not empty[0][0].any() and len(empty[0][1]["videolcm_conditions"]) == 1
    _, twice = host.run("VideoLCMApplyCondition", **run | {"positive": positive})
    assert len(twice[0][1]["videolcm_conditions"]) == 2


def test_timestep_range(host, composer, prompt, apply, latent, ksampler, depth):
    """Structure in the first half of the steps only."""
    text = prompt("a dog")
    early = host.run("ConditioningSetTimestepRange", conditioning=apply(text, "depth", depth), start=0.0, end=0.5)[0]
    late = host.run("ConditioningSetTimestepRange", conditioning=text, start=0.5, end=1.0)[0]
    both = host.run("ConditioningCombine", conditioning_1=early, conditioning_2=late)[0]
    out = ksampler(composer, both, latent(), steps=4)
    assert out.isfinite().all()
    for other in (text, apply(text, "depth", depth)):
        assert_differ(lambda other=other: ksampler(composer, other, latent(), steps=4), out)


def test_area(host, composer, prompt, apply, latent, ksampler, depth):
    """The condition of an area is its part of the whole picture's."""
    area = {"width": 32, "height": 64, "x": 32, "y": 0, "strength": 1.0}
    right = host.run("ConditioningSetArea", conditioning=apply(prompt("a car"), "depth", depth), **area)[0]
    plain = host.run("ConditioningSetArea", conditioning=prompt("a car"), **area)[0]

    def combined(part):
        both = host.run("ConditioningCombine", conditioning_1=prompt("a dog"), conditioning_2=part)[0]
        return ksampler(composer, both, latent())[..., 4:]

    out = combined(right)
    assert out.isfinite().all()
    assert_differ(lambda: combined(plain), out)


@pytest.mark.parametrize("frames", [1, 3])
def test_mask_conditioning(host, composer, prompt, apply, latent, ksampler, depth, frames):
    mask = torch.zeros(frames, 64, 64)
    mask[..., 32:] = 1
    masked = host.run(
        "ConditioningSetMask",
        conditioning=apply(prompt("a car"), "depth", depth),
        mask=mask,
        strength=1.0,
        set_cond_area="default",
    )[0]
    both = host.run("ConditioningCombine", conditioning_1=prompt("a dog"), conditioning_2=masked)[0]
    assert ksampler(composer, both, latent()).isfinite().all()


def test_context_windows_over_48_frames(host, composer, prompt, apply, latent, ksampler):
    """Each window of 16 gets its own part of the condition."""
    windowed = context_windows(host, composer, 16, 4)
    long, text = noise_like(48, 64, 64, 3), prompt("a dog")
    out = ksampler(windowed, apply(text, "depth", long), latent(48), steps=1)
    late = long.clone()
    late[40:] = 0
    other = ksampler(windowed, apply(text, "depth", late), latent(48), steps=1)
    assert out.shape == (48, 4, 8, 8) and out.isfinite().all()
    exact = without_rounding(lambda: ksampler(windowed, apply(text, "depth", long), latent(48), steps=1)[:24])
    assert_within(out[:24], exact)
    assert_within(other[:24], exact)
    assert not torch.equal(other[40:], out[40:])


def test_noise_mask_with_a_condition(host, composer, prompt, apply, latent, ksampler, depth):
    given = latent()
    given["samples"] = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(2))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    masked = host.run("SetLatentNoiseMask", samples=given, mask=mask)[0]
    # What is kept is scaled for the network and back: two roundings.
    out = ksampler(composer, apply(prompt("a dog"), "depth", depth), masked)
    assert distance(out[..., :4], given["samples"][..., :4]) <= 2 * UNIT * given["samples"].abs().max()


def test_encoders_stream_with_little_memory(host, write_model, composer_state_dict, composer, prompt, apply, depth):
    name = write_model("stream-composer.safetensors", composer_state_dict)
    loaded = host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp16", sampling="auto")[0]
    loaded.load(torch.device("cpu"), lowvram_model_memory=1)
    text, extra = apply(prompt("a dog"), "depth", depth)[0]
    call = {"noise": torch.zeros(3, 4, 8, 8), "device": torch.device("cpu"), "cross_attn": text, **extra}
    out = loaded.model.extra_conds(**call)["c_concat"].cond
    # The recipe's weights are exact in float16; what is computed in it is rounded to its 11 bits.
    exact = without_rounding(lambda: composer.model.extra_conds(**call)["c_concat"].cond, unit=UNITS[torch.float16])
    assert_within(out, exact)
    loaded.detach()


class Embeds:
    def __init__(self, *shape, seed=0):
        self.image_embeds = torch.randn(*shape, generator=torch.manual_seed(seed))


@pytest.fixture
def style(host):
    return lambda positive, output, **options: host.run(
        "VideoLCMStyleCondition", positive=positive, clip_vision_output=output, **{"strength": 1.0} | options
    )


def test_style_is_the_networks_own_image_condition(composer, prompt, style, latent, ksampler):
    text, output, network = prompt("a dog"), Embeds(1, 32), composer.model.diffusion_model
    positive, negative = style(text, output)
    call = {"noise": torch.zeros(3, 4, 8, 8), "device": torch.device("cpu")}
    context = composer.model.extra_conds(cross_attn=positive[0][0], **call, **positive[0][1])["c_crossattn"].cond
    assert context.shape == (1, 81, 32)
    x, t = torch.randn(1, 4, 3, 8, 8, generator=torch.manual_seed(0)), torch.tensor([999.0])
    core = type(network).__mro__[1]

    def tokens(conditioning):
        return composer.model.extra_conds(cross_attn=conditioning[0][0], **call, **conditioning[0][1])[
            "c_crossattn"
        ].cond

    assert_same(
        lambda: core.forward(network, x, t, text[0][0], image=output.image_embeds[:, None]),
        lambda: network(x, t, tokens(positive)),
    )
    # The negative branch has zeros before the layers that make tokens, not after.
    assert_same(
        lambda: network.pre_image_condition(torch.zeros(1, 32)).reshape(4, 32), lambda: tokens(negative)[0, 77:]
    )
    assert_differ(lambda: ksampler(composer, text, latent()), ksampler(composer, positive, latent()))
    assert ksampler(composer, positive, latent(), negative, cfg=2.0).isfinite().all()


def test_style_strength_number_and_structure(composer, prompt, style, apply, latent, ksampler, depth):
    text = prompt("a dog")
    call = {"noise": torch.zeros(3, 4, 8, 8), "device": torch.device("cpu")}

    def tokens(conditioning):
        return composer.model.extra_conds(cross_attn=text[0][0], **call, **conditioning[0][1])["c_crossattn"].cond

    one, half = (tokens(style(text, Embeds(1, 32), strength=s)[0])[0, 77:] for s in (1.0, 0.5))
    assert torch.equal(half, one * 0.5)
    two = tokens(style(style(text, Embeds(1, 32))[0], Embeds(1, 32, seed=1))[0])
    assert two.shape == (1, 85, 32) and torch.equal(two[0, 77:81], one)
    assert "videolcm_style" not in style(text, Embeds(1, 32), strength=0.0)[0][0][1]
    both = apply(style(text, Embeds(1, 32))[0], "depth", depth)
    assert ksampler(composer, both, latent()).isfinite().all()
    empty = style(style(text, Embeds(1, 32))[0], Embeds(1, 32))[1]
    assert all(not s.embeds.any() for s in empty[0][1]["videolcm_style"])
