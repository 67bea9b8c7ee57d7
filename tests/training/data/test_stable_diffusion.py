"""Stable Diffusion's encoders from files: tiny networks in the published layouts give the packages' own numbers."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from precision import assert_same
from safetensors.torch import load_file, save_file

from training.data.batches import BatchOptions, SourceBatches
from training.data.cache import build
from training.data.cache_files import CachedClips
from training.data.clip_folder import ClipFolder
from training.data.decode import FrameSampling
from training.data.encoders import Encoders
from training.data.mixing import Ratio
from training.data.stable_diffusion import load_autoencoder, load_text_encoder
from training.data.tokens import tokenize
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder

diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
WIDTH, LAYERS, HEADS = 128, 3, 2
TINY_TEXT = TextConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.ndim == 1))
    return module.train(False)


@pytest.fixture(scope="module")
def vae():
    return randomise(
        diffusers.AutoencoderKL(
            block_out_channels=(32, 64),
            layers_per_block=1,
            latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )


def original_names(vae):
    """The published checkpoint's names of an autoencoder's tensors, by walking the network."""
    found = {}

    def put(prefix, module):
        for name, value in module.state_dict().items():
            found[f"{prefix}.{name}".replace("conv_shortcut", "nin_shortcut")] = value

    def middle(part, block):
        put(f"{part}.mid.block_1", block.resnets[0])
        put(f"{part}.mid.block_2", block.resnets[1])
        attention = block.attentions[0]
        put(f"{part}.mid.attn_1.norm", attention.group_norm)
        for own, layer in (
            ("q", attention.to_q),
            ("k", attention.to_k),
            ("v", attention.to_v),
            ("proj_out", attention.to_out[0]),
        ):
            found[f"{part}.mid.attn_1.{own}.weight"] = layer.weight[:, :, None, None]
            found[f"{part}.mid.attn_1.{own}.bias"] = layer.bias

    for part, network in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        put(f"{part}.conv_in", network.conv_in)
        put(f"{part}.norm_out", network.conv_norm_out)
        put(f"{part}.conv_out", network.conv_out)
        middle(part, network.mid_block)
    for level, block in enumerate(vae.encoder.down_blocks):
        for n, layer in enumerate(block.resnets):
            put(f"encoder.down.{level}.block.{n}", layer)
        if block.downsamplers:
            put(f"encoder.down.{level}.downsample.conv", block.downsamplers[0].conv)
    for place, block in enumerate(vae.decoder.up_blocks):
        level = len(vae.decoder.up_blocks) - 1 - place
        for n, layer in enumerate(block.resnets):
            put(f"decoder.up.{level}.block.{n}", layer)
        if block.upsamplers:
            put(f"decoder.up.{level}.upsample.conv", block.upsamplers[0].conv)
    put("quant_conv", vae.quant_conv)
    put("post_quant_conv", vae.post_quant_conv)
    return {k: v.detach() for k, v in found.items()}


def test_autoencoders_in_every_layout(vae, tmp_path):
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        want = vae.encode(pixels * 2 - 1).latent_dist.mean * 0.18215
    original = original_names(vae)
    assert len(original) == len(vae.state_dict())
    torch.save(
        {"state_dict": {f"first_stage_model.{k}": v for k, v in original.items()} | {"betas": torch.ones(2)}},
        tmp_path / "v2-1_512-ema-pruned.ckpt",
    )
    save_file({k: v.clone() for k, v in original.items()}, tmp_path / "vae-ft-mse.safetensors")
    save_file(vae.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    vae.save_pretrained(tmp_path / "pipe" / "vae")
    for name in ("v2-1_512-ema-pruned.ckpt", "vae-ft-mse.safetensors", "diffusion_pytorch_model.safetensors", "pipe"):
        loaded = load_autoencoder(tmp_path / name)
        with torch.no_grad():
            assert_same(lambda: vae.encode(pixels * 2 - 1).latent_dist.mean * 0.18215, partial(loaded.encode, pixels))
            assert_same(lambda: vae.decode(want / 0.18215).sample / 2 + 0.5, partial(loaded.decode, want))


class OpenClip(torch.nn.Module):
    """The text tower as OpenCLIP builds it: torch's own attention, GELU, tokens after the end are 0."""

    def __init__(self):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(49408, WIDTH)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(77, WIDTH))
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.ModuleList(self.block() for _ in range(LAYERS))
        self.ln_final = torch.nn.LayerNorm(WIDTH)
        self.text_projection = torch.nn.Parameter(torch.zeros(WIDTH, WIDTH))

    def block(self):
        block = torch.nn.Module()
        block.ln_1, block.ln_2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        block.attn = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        block.mlp = torch.nn.Module()
        block.mlp.c_fc, block.mlp.c_proj = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
        return block

    def penultimate(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((77, 77), float("-inf")).triu(1)
        for block in self.transformer.resblocks[:-1]:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp.c_proj(torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return self.ln_final(x)


def test_open_clip_files_give_the_penultimate_layer(tmp_path):
    network = randomise(OpenClip(), 3)
    ids = tokenize(["a horse on grass", ""], 0)
    assert ids[1].tolist() == [49406, 49407] + [0] * 75
    state = {**network.state_dict(), "visual.proj": torch.zeros(4), "logit_scale": torch.tensor(1.0)}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    torch.save({"state_dict": {f"cond_stage_model.model.{k}": v for k, v in state.items()}}, tmp_path / "sd21.ckpt")
    for path in (tmp_path / "open_clip_pytorch_model.bin", tmp_path / "sd21.ckpt", tmp_path):
        encoder, pad = load_text_encoder(path)
        with torch.no_grad():
            assert pad == 0
            assert_same(lambda: network.penultimate(ids), partial(encoder, ids))


def test_a_folder_of_clip_gives_its_last_layer(tmp_path):
    config = transformers.CLIPTextConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_act="quick_gelu",
        eos_token_id=49407,
    )
    network = transformers.CLIPTextModel(config).train(False)
    network.save_pretrained(tmp_path / "pipe" / "text_encoder")
    ids = tokenize(["a horse"])
    encoder, pad = load_text_encoder(tmp_path / "pipe")
    with torch.no_grad():
        assert pad == 49407
        assert_same(lambda: network(ids).last_hidden_state, lambda: encoder(ids))


def test_encoders_of_files_have_an_identity(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    torch.save(randomise(OpenClip(), 3).state_dict(), tmp_path / "a.bin")
    torch.save(randomise(OpenClip(), 4).state_dict(), tmp_path / "b.bin")
    first, other = (Encoders.stable_diffusion(tmp_path / "vae", tmp_path / name) for name in ("a.bin", "b.bin"))
    assert (
        first.identity["autoencoder"] == other.identity["autoencoder"]
        and first.identity["text"] != other.identity["text"]
    )
    clip = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8)
    assert first.latents(clip, 0).shape == (4, 3, 8, 8) and first.text("a dog").shape == (77, WIDTH)
    assert torch.equal(first.latents(clip, 5), other.latents(clip, 5))
    assert not torch.equal(first.text("a"), other.text("a"))


@pytest.fixture
def encoders(vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    text = TextEncoder(torch.tensor([320, 49406, 49407]), TINY_TEXT).train(False)
    return Encoders.of(load_autoencoder(tmp_path / "vae"), text)


def test_training_latents_are_drawn_from_the_posterior(vae, encoders):
    clip = torch.randint(256, (1, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = vae.encode(clip.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
    drawn = torch.stack([encoders.latents(clip, seed).float() for seed in range(200)])[:, :, 0]
    assert torch.equal(drawn[3], encoders.latents(clip, 3)[:, 0].float())
    z = (drawn / 0.18215 - posterior.mean) / posterior.std
    # Standard errors of a mean, a deviation and the largest of some hundred means of 200; five of them.
    assert abs(z.mean()) < 5 / z.numel() ** 0.5 and abs(z.std() - 1) < 5 / (2 * z.numel()) ** 0.5
    assert z.mean(0).abs().max() < 5 / 200**0.5
    assert encoders.identity["latents"] == "drawn"


def test_batches_draw_anew_and_a_cache_once_for_each_take(encoders, tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "cache"
    clips.mkdir()
    for name in "ab":  # the same pixels
        Image.new("RGB", (16, 16), (90, 60, 30)).save(clips / f"{name}.png")
        (clips / f"{name}.txt").write_text("a")
    sampling = FrameSampling(frames=1, fps=8, width=16, height=16)
    source = ClipFolder.scan(clips, sampling)
    options = BatchOptions(batch=1, image_batch=2, ratio=Ratio(images=1, clips=0))
    first, again = (SourceBatches(source.only("video"), source, options, encoders) for _ in range(2))
    steps = [first.batch(step, range(2)).latents for step in range(2)]
    assert torch.equal(steps[1], torch.cat([again.batch(1, range(n, n + 1)).latents for n in range(2)]))
    everything = [*steps[0], *steps[1]]
    build(source, sampling, encoders, out)
    cached = [CachedClips.open(out, encoders.identity).read(n, np.random.default_rng(0)).values for n in range(2)]
    everything += [c.float() for c in cached]
    assert all(not torch.equal(a, b) for n, a in enumerate(everything) for b in everything[:n])
    build(source, sampling, encoders, tmp_path / "second")
    other = CachedClips.open(tmp_path / "second")
    assert all(torch.equal(c, other.read(n, np.random.default_rng(0)).values) for n, c in enumerate(cached))
    # A cache of means, made before, is not taken.
    means = {k: v for k, v in encoders.identity.items() if k != "latents"}
    with pytest.raises(ValueError, match="other encoders"):
        CachedClips.open(out, means)


def test_a_wrong_file_is_named(tmp_path):
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "some.ckpt")
    with pytest.raises(
        ValueError, match=r"some.ckpt: got no encoder.conv_in.weight .*allowed: Stable Diffusion's autoenc"
    ):
        load_autoencoder(tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match=r"some.ckpt: got some.weight; allowed: OpenCLIP's"):
        load_text_encoder(tmp_path / "some.ckpt")
    (tmp_path / "vae").mkdir()
    with pytest.raises(ValueError, match="a folder that diffusers cannot read"):
        load_autoencoder(tmp_path / "vae")


@pytest.mark.parametrize("kind", ["text encoder", "autoencoder"])
def test_a_folder_without_a_weight_is_refused_and_none_is_made_up(tmp_path, vae, kind):
    if kind == "autoencoder":
        network, name, read = vae, "decoder.conv_in.weight", load_autoencoder
    else:
        config = transformers.CLIPTextConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, eos_token_id=49407
        )
        network, name, read = transformers.CLIPTextModel(config), "encoder.layers.1.mlp.fc1.weight", load_text_encoder
    network.save_pretrained(tmp_path / "whole")
    read(tmp_path / "whole")
    file = next((tmp_path / "whole").glob("*.safetensors"))
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if not k.endswith(name)}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"whole: got a folder .*{name.replace('.', '[.]')}"):
        read(tmp_path / "whole")
