"""Patches of attention: the same as in the host's own UNet, and core's nodes that use them."""

import logging

import pytest
import torch
from precision import assert_differ, assert_rounded, assert_same


@pytest.fixture
def pair(host, recipe_weights):
    """A block of our network and the host's own with the same weights: 2 heads of 8, text of width 12."""
    import comfy.ops
    from comfy.ldm.modules.attention import BasicTransformerBlock

    ours = host.pack("videolcm_core.networks.vgen.attention")
    block = ours.BasicTransformerBlock(16, 2, 8, 12, torch.nn, ours.default_attention)
    theirs = BasicTransformerBlock(16, 2, 8, context_dim=12, operations=comfy.ops.disable_weight_init)
    weights = recipe_weights(block, 3)
    block.load_state_dict(weights)
    theirs.load_state_dict(weights)
    return block, theirs


def tokens(seed=0, batch=6, width=16):
    return torch.randn(batch, 4, width, generator=torch.manual_seed(seed))


def scale_all(n, context, value, extra):
    return n * 1.5, context * 0.5, value + 1


def more_tokens(n, context, value, extra):
    """As image-prompt adapters of the first kind: text and image tokens side by side."""
    more = torch.ones(len(context), 2, context.shape[2])
    return n, torch.cat([context, more], dim=1), torch.cat([value, more * 2], dim=1)


def cut_rows(n, context, value, extra):
    """As HyperTile: queries in more, shorter rows."""
    return n.reshape(len(n) * 2, -1, n.shape[2]), context, value


def join_rows(n, extra):
    return n.reshape(len(n) // 2, -1, n.shape[2])


def only_value(q, k, v, extra):
    return v


def own_attention(q, k, v, extra):
    heads, width = extra["n_heads"], extra["dim_head"]
    q, k, v = (x.unflatten(-1, (heads, width)).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.transpose(2, 3) * 0.3).softmax(-1)
    return (scores @ v).transpose(1, 2).flatten(2)


def minus(n, extra):
    return n - 0.5


CASES = {
    "attn1_patch": {"patches": {"attn1_patch": [scale_all, scale_all]}},
    "attn2_patch": {"patches": {"attn2_patch": [scale_all]}},
    "more tokens": {"patches": {"attn2_patch": [more_tokens]}},
    "rows cut and joined": {"patches": {"attn1_patch": [cut_rows], "attn1_output_patch": [join_rows]}},
    "output patches": {"patches": {"attn1_output_patch": [minus], "attn2_output_patch": [minus, minus]}},
    "middle_patch": {"patches": {"middle_patch": [minus]}},
    "attn1 value": {"patches_replace": {"attn1": {("input", 1): only_value}}},
    "attn1 own": {"patches_replace": {"attn1": {("input", 1, 0): own_attention}}},
    "attn2 own": {"patches_replace": {"attn2": {("input", 1): own_attention}}},
    "attn2 after tokens": {
        "patches": {"attn2_patch": [more_tokens]},
        "patches_replace": {"attn2": {("input", 1): own_attention}},
    },
    "another place": {"patches_replace": {"attn1": {("input", 2): only_value, ("input", 1, 1): only_value}}},
    "more specific first": {"patches_replace": {"attn1": {("input", 1): only_value, ("input", 1, 0): own_attention}}},
}


@pytest.mark.parametrize("texts", [1, 2, 6])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_a_block_does_what_the_hosts_does(host, pair, options, texts):
    """With one text for all frames, one a video and one a frame; the host always has one a frame."""
    patches = host.pack("nodes.model.attention_patches")
    block, theirs = pair
    text = torch.randn(texts, 5, 12, generator=torch.manual_seed(1))
    given = {"block": ("input", 1), "block_index": 0, "cond_or_uncond": [0], "sigmas": torch.ones(1), **options}
    hooks = patches.CallHooks(dict(given), None, torch.zeros(6, 4, 2, 2), torch.zeros(6))
    values, every = tokens(), text.repeat_interleave(6 // texts, 0)
    assert_same(
        lambda: hooks.spatial_block(block, values, text, 0, (6, 16, 2, 2)),
        lambda: theirs(values, every, transformer_options=dict(given)),
    )
    got = hooks.spatial_block(block, values, text, 0, (6, 16, 2, 2))
    if options is CASES["another place"]:
        assert_rounded(lambda: block(values, text))
    else:
        assert_differ(lambda: block(values, text), got)


def test_patches_are_told_what_the_host_tells(host, model, prompt, latent, ksampler):
    seen = []

    def record(n, context, value, extra):
        seen.append((extra, tuple(n.shape), tuple(context.shape)))
        return n, context, value

    patched = model.clone()
    patched.set_model_attn2_patch(record)
    ksampler(patched, prompt("a dog"), latent(5), prompt("a car"), cfg=2.0, steps=1)
    places = [extra["block"] for extra, _, _ in seen]
    assert places == [("input", 1), ("input", 3), ("middle", 0), *[("output", i) for i in range(4)]]
    assert [extra["transformer_index"] for extra, _, _ in seen] == list(range(7))
    for extra, n, context in seen:
        assert extra["block_index"] == 0 and extra["n_heads"] * extra["dim_head"] == n[-1]
        assert extra["original_shape"] == [10, 4, 8, 8] and sorted(extra["cond_or_uncond"]) == [0, 1]
        batch, channels, height, width = extra["activations_shape"]
        assert (batch, height * width, channels) == n and context == (10, 77, 32)
        assert len(extra["sigmas"]) == 5 and not {"patches", "patches_replace"} & set(extra)


def test_patches_that_change_nothing_give_the_same_video(model, prompt, latent, ksampler):
    from comfy.ldm.modules.attention import optimized_attention

    base = ksampler(model, prompt("a dog"), latent())
    # Sums run in another order: float32 keeps 7 digits of the largest value, the network loses up to two of them.
    close = {"rtol": 1e-4, "atol": 1e-5 * float(base.abs().max())}
    patched = model.clone()
    patched.set_model_attn1_patch(lambda n, context, value, extra: (n, context, value))
    patched.set_model_attn2_output_patch(lambda n, extra: n)
    torch.testing.assert_close(ksampler(patched, prompt("a dog"), latent()), base, **close)
    for name, place in (("attn1", ("middle", 0)), ("attn2", ("input", 1))):
        patched.set_model_patch_replace(
            lambda q, k, v, extra: optimized_attention(q, k, v, extra["n_heads"]), name, *place
        )
    torch.testing.assert_close(ksampler(patched, prompt("a dog"), latent()), base, **close)
    assert torch.equal(ksampler(model, prompt("a dog"), latent()), base)


@pytest.mark.parametrize("layout", ["frames", "video"])
def test_layouts_give_the_same_patched_numbers(model, prompt, layout):
    """Frames as the batch and [B, C, F, H, W], with one replacement in the middle."""
    noise = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))
    unet, context = model.model.diffusion_model, prompt("a dog")[0][0]
    options = {"cond_or_uncond": [0], "patches_replace": {"attn1": {("middle", 0): only_value}}}
    plain = unet(noise, torch.full((3,), 999.0), context, transformer_options={"cond_or_uncond": [0]})
    frames = unet(noise, torch.full((3,), 999.0), context, transformer_options=dict(options))
    assert not torch.allclose(frames, plain, atol=1e-4)
    if layout == "video":
        as_video, level = noise.movedim(0, 1)[None], torch.full((1,), 999.0)
        assert_same(
            lambda: unet(as_video, level, context, transformer_options=dict(options))[0].movedim(1, 0),
            lambda: unet(noise, torch.full((3,), 999.0), context, transformer_options=dict(options)),
            tables=True,  # sines of one timestep and of three are computed by other instructions
        )


CORE_NODES = {
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "HyperTile": {"tile_size": 32, "swap_size": 1, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.5},
}


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("name", CORE_NODES)
def test_core_nodes_have_their_effect(host, teacher, prompt, latent, ksampler, caplog, name, cfg):
    """Each changes the video, stays finite, repeats with the seed, and leaves the MODEL given as it was."""
    settings = {"steps": 2, "sampler_name": "euler", "cfg": cfg}
    run = (prompt("a dog"), latent(3, 128, 64), prompt("a car"))
    base = ksampler(teacher, *run, **settings)
    patched = host.run(name, model=teacher, **CORE_NODES[name])[0]
    with caplog.at_level(logging.WARNING):
        got = ksampler(patched, *run, **settings)
    assert "without effect" not in caplog.text
    assert got.isfinite().all() and not torch.allclose(got, base, rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    again = ksampler(patched, *run, **settings)
    torch.manual_seed(0)
    assert torch.equal(ksampler(patched, *run, **settings), again)
    assert torch.equal(ksampler(teacher, *run, **settings), base)


def test_perturbed_attention_guidance_is_its_formula(host, teacher, prompt, latent):
    """One network call: cfg result plus scale times what attention to itself alone would change."""
    import comfy.samplers

    noise = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))
    positive = [[prompt("a dog")[0][0], {}]]

    def denoised(model, **options):
        seen = {}
        m = model.clone()
        m.set_model_sampler_post_cfg_function(lambda args: seen.setdefault("out", args["denoised"]))
        sigmas = m.get_model_object("model_sampling").sigma(torch.tensor([500.0]))
        comfy.sample.sample_custom(
            m,
            noise,
            1.0,
            comfy.samplers.ksampler("euler"),
            torch.cat([sigmas, torch.zeros(1)]),
            positive,
            positive,
            torch.zeros_like(noise),
            seed=0,
            disable_pbar=True,
        )
        return seen["out"]

    own = teacher.clone()
    own.set_model_attn1_replace(only_value, "middle", 0)
    plain, perturbed = denoised(teacher), denoised(own)
    guided = denoised(host.run("PerturbedAttentionGuidance", model=teacher, scale=3.0)[0])
    torch.testing.assert_close(guided, plain + 3.0 * (plain - perturbed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["emb_patch", "middle_block_after_patch", "input_block_patch", "output_block_patch"])
def test_block_patches_have_their_effect(model, prompt, latent, ksampler, name, caplog):
    functions = {
        "emb_patch": lambda emb, channels, options: emb * 0.5,
        "middle_block_after_patch": lambda args: {"h": args["h"] * 0.5},
        "input_block_patch": lambda h, options: h * 0.5,
        "output_block_patch": lambda h, skip, options: (h, skip * 0.5),
    }
    patched = model.clone()
    patched.set_model_patch(functions[name], name)
    with caplog.at_level(logging.WARNING):
        got = ksampler(patched, prompt("a dog"), latent())
    assert got.isfinite().all() and not torch.allclose(got, ksampler(model, prompt("a dog"), latent()), atol=1e-4)
    assert "without effect" not in caplog.text


def test_temporal_transformers_are_left_alone(host, model, prompt, latent, ksampler):
    """A replacement everywhere is called once for each spatial transformer, on frames of pixels."""
    calls = []

    def record(q, k, v, extra):
        calls.append((extra["block"], len(q)))
        return v

    patched = model.clone()
    for place in patched.model.diffusion_model.attention_places():
        patched.set_model_attn1_replace(record, *place)
    ksampler(patched, prompt("a dog"), latent(3), steps=1)
    assert len(calls) == len({place for place, _ in calls}) == 7 and {batch for _, batch in calls} == {3}


def test_places_that_are_not_there_are_said(model, prompt, latent, ksampler, caplog):
    patched = model.clone()
    patched.set_model_attn1_replace(only_value, "input", 8)
    patched.set_model_attn2_replace(only_value, "middle", 0, 3)
    patched.set_model_patch_replace(only_value, "dit", "double_block", 0)
    with caplog.at_level(logging.WARNING):
        ksampler(patched, prompt("a dog"), latent())
    assert "attn1 replacement at ('input', 8)" in caplog.text
    assert "attn2 replacement at ('middle', 0, 3)" in caplog.text and "dit replacement" in caplog.text
