"""The discriminator's vector of a caption: the model's own text, CLIP's in every layout, and what is refused."""

import re

import pytest
import torch
from precision import assert_same
from safetensors.torch import load_file, save_file
from torch.nn import functional

from training.data.tokens import tokenize
from training.methods.parts import text_vectors
from training.methods.parts.text_vectors import TEXT_VECTORS, load_text_vectors
from training.recipes.mcm import MCMRecipe

transformers = pytest.importorskip("transformers")
HIDDEN, LAYERS, WIDTH = 128, 3, 48
CAPTIONS = ["a horse on grass", "", "two red balls " * 60]


def open_clip_state(seed=0):
    """The text tower of OpenCLIP by its names, beside something of the image tower."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)

    found = {"token_embedding.weight": draw(49408, HIDDEN), "positional_embedding": draw(77, HIDDEN)}
    for n in range(LAYERS):
        name = f"transformer.resblocks.{n}"
        for part, shape in (
            ("attn.in_proj_", (3 * HIDDEN, HIDDEN)),
            ("attn.out_proj.", (HIDDEN, HIDDEN)),
            ("mlp.c_fc.", (4 * HIDDEN, HIDDEN)),
            ("mlp.c_proj.", (HIDDEN, 4 * HIDDEN)),
        ):
            found |= {f"{name}.{part}weight": draw(*shape), f"{name}.{part}bias": draw(shape[0])}
        for part in ("ln_1", "ln_2"):
            found |= {f"{name}.{part}.weight": 1.0 + draw(HIDDEN), f"{name}.{part}.bias": draw(HIDDEN)}
    found |= {"ln_final.weight": 1.0 + draw(HIDDEN), "ln_final.bias": draw(HIDDEN)}
    return found | {"text_projection": draw(HIDDEN, WIDTH), "visual.proj": draw(4, 4), "logit_scale": torch.tensor(1.0)}


def by_hand(state, caption):
    """OpenCLIP's encode_text, line by line: the highest token is the end's; the vector is not normalised."""
    ids = tokenize([caption], 0)[0]
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    norm = lambda x, name: functional.layer_norm(x, (HIDDEN,), state[f"{name}.weight"], state[f"{name}.bias"])  # noqa: E731
    mask = torch.ones(77, 77).tril() > 0
    for n in range(LAYERS):
        part = {k.removeprefix(f"transformer.resblocks.{n}."): v for k, v in state.items()}
        y = functional.linear(norm(x, f"transformer.resblocks.{n}.ln_1"), part["attn.in_proj_weight"])
        q, k, v = (
            third.unflatten(1, (HIDDEN // 64, 64)).transpose(0, 1)
            for third in (y + part["attn.in_proj_bias"]).chunk(3, 1)
        )
        scores = (q @ k.transpose(1, 2) / 8.0).masked_fill(~mask, float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + functional.linear(y, part["attn.out_proj.weight"], part["attn.out_proj.bias"])
        y = functional.linear(
            norm(x, f"transformer.resblocks.{n}.ln_2"), part["mlp.c_fc.weight"], part["mlp.c_fc.bias"]
        )
        x = x + functional.linear(functional.gelu(y), part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
    return norm(x, "ln_final")[ids.argmax()] @ state["text_projection"]


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "open_clip_pytorch_model.bin"
    torch.save(open_clip_state(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of transformers with the text side alone."""
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=64,
        projection_dim=WIDTH,
        hidden_act="quick_gelu",
        eos_token_id=49407,
    )
    path = tmp_path_factory.mktemp("clip") / "text"
    transformers.CLIPTextModelWithProjection(config).save_pretrained(path)
    return path


def text(count, dtype=torch.float32):
    return torch.randn(count, 7, 32, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_own_text_is_the_mean_of_its_tokens(dtype):
    own, given = load_text_vectors("own", "", 32), text(3, dtype)
    found = own(CAPTIONS, given)
    assert own.width == 32 and found.shape == (3, 32) and found.dtype == torch.float32
    torch.testing.assert_close(found, given.double().mean(1).float())
    assert own.identity() == {"disc_text": "own"}


def test_open_clips_vector_is_its_projection_of_the_end(open_clip):
    clip = load_text_vectors("clip", str(open_clip), 32)
    assert clip.width == WIDTH
    state = open_clip_state()
    for caption in CAPTIONS:
        ids = tokenize([caption], clip.pad)
        assert_same(lambda ids=ids: clip.network(ids)[0], lambda caption=caption: by_hand(state, caption))
    found = clip(CAPTIONS, text(3))
    assert found.shape == (3, WIDTH) and found.dtype == torch.float32 and not found.requires_grad
    for vector, caption in zip(found, CAPTIONS, strict=True):
        assert torch.equal(vector, clip.network(tokenize([caption], clip.pad))[0])
    assert not torch.allclose(found.norm(dim=1), torch.ones(3), atol=0.1), "the authors do not normalise"


def test_every_layout_of_open_clip_is_the_same(open_clip, tmp_path):
    state = open_clip_state()
    torch.save({"state_dict": {f"cond_stage_model.model.{k}": v for k, v in state.items()}}, tmp_path / "sd21.ckpt")
    hub = tmp_path / "hub"  # as its folder on the hub, without transformers' files
    hub.mkdir()
    save_file(state, hub / "open_clip_model.safetensors")
    (hub / "open_clip_config.json").write_text("{}")
    expected = load_text_vectors("clip", str(open_clip), 32)
    for path in (tmp_path / "sd21.ckpt", hub, hub / "open_clip_model.safetensors"):
        found = load_text_vectors("clip", str(path), 32)
        assert found.identity() == expected.identity()
        assert torch.equal(found(CAPTIONS, text(3)), expected(CAPTIONS, text(3)))
    torch.save(open_clip_state(1), tmp_path / "other.bin")
    assert load_text_vectors("clip", str(tmp_path / "other.bin"), 32).identity() != expected.identity()


def test_a_folder_of_transformers_gives_its_text_embeds(folder, tmp_path):
    network = transformers.CLIPTextModelWithProjection.from_pretrained(folder).train(False)
    clip = load_text_vectors("clip", str(folder), 32)
    for caption in CAPTIONS:
        ids = tokenize([caption])
        assert_same(lambda ids=ids: clip.network(ids), lambda ids=ids: network(ids).text_embeds)
    network.save_pretrained(tmp_path / "parts", max_shard_size="2MB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    found = load_text_vectors("clip", str(tmp_path / "parts"), 32)
    assert torch.equal(found(CAPTIONS, text(3)), clip(CAPTIONS, text(3))) and found.identity() == clip.identity()


def test_the_text_side_of_a_whole_clip(tmp_path):
    """Its folder holds images' side too, and its text configuration need not know the projection's width."""
    torch.manual_seed(4)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    vision = {"hidden_size": 32, "image_size": 28, "patch_size": 14, **sizes}
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 64, "hidden_act": "quick_gelu", **sizes}, vision_config=vision, projection_dim=WIDTH
    )
    network = transformers.CLIPModel(config).train(False)
    network.save_pretrained(tmp_path)
    clip, ids = load_text_vectors("clip", str(tmp_path), 32), tokenize(["a horse"])
    assert clip.width == WIDTH

    def theirs():
        return network.text_projection(network.text_model(ids).last_hidden_state[:, 3])

    assert ids[0, 3] == 49407
    assert_same(lambda: clip.network(ids), theirs)


def test_a_vector_depends_on_its_caption_alone(open_clip):
    clip, again = (load_text_vectors("clip", str(open_clip), 32) for _ in range(2))
    together = clip(CAPTIONS, text(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = [again([caption], text(1, torch.float16)) for caption in reversed(CAPTIONS)]
    assert torch.equal(together, torch.cat(alone[::-1]))


def test_vectors_are_remembered_up_to_a_number(open_clip, monkeypatch):
    monkeypatch.setattr(text_vectors, "REMEMBERED", 2)
    clip, computed = load_text_vectors("clip", str(open_clip), 32), []
    clip.network.register_forward_hook(lambda module, ids, out: computed.append(len(ids[0])))
    for captions in (["a", "b", "a"], ["b", "a"], ["c"], ["b", "c"]):
        clip(captions, text(len(captions)))
    assert computed == [1, 1, 1] and list(clip._known) == ["b", "c"]
    clip(["a"], text(1))
    assert len(computed) == 4


def test_reading_draws_nothing(open_clip, folder):
    for path in (open_clip, folder):
        torch.manual_seed(7)
        expected = torch.rand(4)
        torch.manual_seed(7)
        load_text_vectors("clip", str(path), 32)
        assert torch.equal(torch.rand(4), expected)


def test_names_in_the_recipe_are_those_of_the_part():
    assert MCMRecipe.choices["disc_text"] == tuple(TEXT_VECTORS)
    assert (MCMRecipe(name="a").disc_text, MCMRecipe(name="a").disc_text_file) == ("own", "")
    with pytest.raises(ValueError, match="disc_text is 't5'; allowed: own, clip"):
        MCMRecipe(name="a", disc_text="t5")


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.fixture(scope="module")
def wrong(open_clip, folder, tmp_path_factory):
    """Files and folders that are not CLIP's text side, with what must be said."""
    base, state = tmp_path_factory.mktemp("wrong"), open_clip_state()

    def saved(name, change):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, base / name)
        return base / name

    def copied(name, tensors=None, config=None):
        (base / name).mkdir()
        (base / name / "config.json").write_text(config or (folder / "config.json").read_text())
        if tensors is not None:
            save_file(tensors, base / name / "model.safetensors")
        return base / name

    own = load_file(folder / "model.safetensors")
    lost = "text_model.encoder.layers.1.mlp.fc1.weight"
    (base / "cut.bin").write_bytes(open_clip.read_bytes()[:1_000_000])
    (base / "empty.bin").write_bytes(b"")
    (base / "nothing").mkdir()
    save_file({"some.weight": torch.ones(2)}, base / "other.safetensors")
    damaged = copied("damaged", own)
    (damaged / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:50_000])
    (fast := base / "fast").mkdir()
    (fast / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 48, "quick_gelu": true}}')
    (fast / "open_clip_pytorch_model.bin").write_bytes(open_clip.read_bytes())
    infinite = own | {lost: torch.full_like(own[lost], torch.inf)}
    return {
        "no projection": (saved("a.bin", {"text_projection": None}), "no text_projection among"),
        "no tower": (saved("b.bin", {"token_embedding.weight": None}), "got"),
        "no layer norm": (saved("c.bin", {"transformer.resblocks.1.ln_1.bias": None}), "layers.1.layer_norm1.bias"),
        "infinite": (saved("d.bin", {"ln_final.bias": torch.full((HIDDEN,), torch.nan)}), "NaN or infinite"),
        "another width": (saved("e.bin", {"text_projection": torch.ones(64, 8)}), r"128 wide and a .* of \[64, 8\]"),
        "another network": (base / "other.safetensors", "no text_projection among some.weight"),
        "a part": (base / "cut.bin", "truncated"),
        "nothing": (base / "empty.bin", "empty file"),
        "an empty folder": (base / "nothing", "a folder without config.json .*no weights"),
        "no weights": (copied("bare"), "config.json and without weights"),
        "a damaged folder": (damaged, "truncated or damaged"),
        "a folder without a weight": (
            copied("lost", {k: v for k, v in own.items() if k != lost}),
            "a folder without encoder.layers.1.mlp.fc1.weight",
        ),
        "a folder that is infinite": (copied("infinite", infinite), "NaN or infinite"),
        "a folder of another": (copied("dino", own, '{"model_type": "dinov2"}'), "got"),
        "a file without its folder": (folder / "model.safetensors", "without their config.json, which names the act"),
        "the fast activation": (fast / "open_clip_pytorch_model.bin", "a network with the fast GELU"),
        "a config that is none": (copied("list", own, "not json"), "got"),
    }


KINDS = (
    "no projection,no tower,no layer norm,infinite,another width,another network,a part,nothing,an empty folder,"
    "no weights,a damaged folder,a folder without a weight,a folder that is infinite,a folder of another,"
    "a config that is none,a file without its folder,the fast activation"
)


@pytest.mark.parametrize("kind", KINDS.split(","))
def test_what_is_not_clips_text_is_refused(kind, wrong):
    path, said = wrong[kind]
    with pytest.raises(ValueError) as caught:
        load_text_vectors("clip", str(path), 32)
    message = str(caught.value)
    assert str(path) in message and re.search(said, message), message
    assert "allowed: CLIP's text encoder with its projection" in message
    assert message.endswith("Give --disc-text-file PATH, or --disc-text own.")


def test_names_and_files_that_do_not_go_together(open_clip):
    with pytest.raises(ValueError, match="disc_text is 't5'; allowed: own, clip"):
        load_text_vectors("t5", "", 32)
    with pytest.raises(ValueError, match="disc_text 'own', which needs none; allowed: --disc-text clip"):
        load_text_vectors("own", str(open_clip), 32)
    for file in ("", "not/there.bin"):
        with pytest.raises(ValueError, match=f"disc_text_file is '{file}', which is not there; allowed: CLIP's text"):
            load_text_vectors("clip", file, 32)
