"""Broken and hostile LoRA files, annotator files, folders, films and images, each within limits."""

import json

import broken_files
import made_films
import numpy as np
import pytest
import torch
from broken_files import BYTE_KINDS, HEADERS, PICKLES, TENSOR_KINDS
from limits import limited

LAYER = "base_model.model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
PARTS = {"down": f"{LAYER}.lora_A.weight", "up": f"{LAYER}.lora_B.weight"}
CANNY = {"low_threshold": 60, "high_threshold": 160, "blur": 1.0, "line_width": 0.02, "contrast": 1.6}


@pytest.fixture
def lora_refused(host, model):
    errors = host.pack("videolcm_core.files.errors")

    def load(name, must=True):
        inputs = {"model": model, "lora_name": name, "strength_model": 1.0}
        error = limited(lambda: host.run("VideoLCMLoraLoader", **inputs), errors.CheckpointError, name)
        assert error is not None or not must, "it was loaded"

    return load


def lora_tensors(rank=4):
    return {PARTS["down"]: torch.ones(rank, 64), PARTS["up"]: torch.ones(64, rank)}


def test_a_whole_lora_is_taken(lora_refused, write_model):
    with pytest.raises(AssertionError, match="it was loaded"):
        lora_refused(write_model("whole.safetensors", lora_tensors(), None, "loras"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", TENSOR_KINDS)
def test_lora_tensors(lora_refused, write_model, part, kind):
    tensors = broken_files.broken(lora_tensors(), kind, PARTS[part])
    lora_refused(write_model("lora.safetensors", tensors, None, "loras"))


@pytest.mark.parametrize("header", HEADERS)
def test_lora_headers(lora_refused, host, header):
    lora_refused(broken_files.save(host.base / "models" / "loras" / "header.safetensors", HEADERS[header]))


@pytest.mark.parametrize("content", PICKLES)
def test_lora_pickles(lora_refused, host, content):
    lora_refused(broken_files.save(host.base / "models" / "loras" / "pickle.pt", PICKLES[content]()))


def vector(*shape):
    return torch.full(shape, 1e-3)


KOHYA = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
ODD_LORAS = {
    "loha of a trillion values": {
        f"{KOHYA}.hada_w1_a": vector(1_000_000, 1),
        f"{KOHYA}.hada_w1_b": vector(1, 1_000_000),
        f"{KOHYA}.hada_w2_a": vector(1_000_000, 1),
        f"{KOHYA}.hada_w2_b": vector(1, 1_000_000),
    },
    "lokr of ten billion values": {f"{KOHYA}.lokr_w1": vector(100, 100), f"{KOHYA}.lokr_w2": vector(1000, 1000)},
    "lokr of its parts": {
        f"{KOHYA}.lokr_w1_a": vector(100, 1),
        f"{KOHYA}.lokr_w1_b": vector(1, 100),
        f"{KOHYA}.lokr_w2_a": vector(100, 1),
        f"{KOHYA}.lokr_w2_b": vector(1, 100),
    },
    "no rank": {f"{KOHYA}.lora_down.weight": vector(0, 64), f"{KOHYA}.lora_up.weight": vector(64, 0)},
    "alpha of text": {**lora_tensors(), f"{LAYER}.alpha": torch.ones(3)},
    "nan alpha": {**lora_tensors(), f"{LAYER}.alpha": torch.tensor(float("nan"))},
    "only alpha": {f"{KOHYA}.alpha": torch.tensor(4.0)},
    "strange middle": {
        f"{KOHYA}.lora_down.weight": vector(4, 64),
        f"{KOHYA}.lora_up.weight": vector(64, 4),
        f"{KOHYA}.lora_mid.weight": vector(4, 5, 1),
    },
    "pairs that are none": {"unet:0:up": vector(4), "unet:0:down": vector(4)},
    "numbers too large": {"unet:99999999999999999999:up": vector(4, 4)},
    "five thousand layers": {
        f"lora_unet_x_{n}.lora_{p}.weight": vector(4, 4) for n in range(2500) for p in ("up", "down")
    },
}


@pytest.mark.parametrize("content", ODD_LORAS)
def test_odd_loras(lora_refused, write_model, content):
    lora_refused(write_model("odd.safetensors", ODD_LORAS[content], None, "loras"))


CONFIGS = {
    "no json": "{",
    "a list": "[1]",
    "deep": '{"a":' * 50_000,
    "rank of text": '{"r": "four"}',
    "rank of zero": '{"r": 0}',
    "endless rank": '{"r": 1' + "0" * 5000 + "}",
    "nan alpha": '{"lora_alpha": NaN}',
    "endless pattern": json.dumps({"r": 4, "alpha_pattern": {"(a+)+$": 1}}),
    "patterns as a list": json.dumps({"r": 4, "rank_pattern": [1, 2]}),
    "another kind": json.dumps({"peft_type": "LOHA" * 100_000}),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_beside_a_lora(lora_refused, host, config):
    folder = host.base / "models" / "loras" / config.replace(" ", "_")
    broken_files.save(folder / "adapter_model.safetensors", lora_tensors())
    (folder / "adapter_config.json").write_text(CONFIGS[config], encoding="utf-8")
    limited(lambda: None, ())
    errors = host.pack("videolcm_core.files.errors")
    read = host.pack("videolcm_core.files.lora").read_lora
    assert (
        limited(lambda: read(folder / "adapter_model.safetensors"), errors.CheckpointError, "adapter_model") is not None
    )


# ------------------------------------------------------------------------------------------------ annotators


@pytest.fixture(scope="module")
def annotators(host, recipe_weights):
    """Weights of a small network of each kind."""
    midas, pidinet, cleaner, mini = (
        host.pack(f"videolcm_core.networks.annotators.{name}")
        for name in ("midas", "pidinet", "sketch_simplification", "mini_depth")
    )
    sizes = {"dim": 64, "num_layers": 4, "num_heads": 1, "grid": 4, "mlp_dim": 64, "fusion_dim": 16}
    config = midas.MidasConfig(**sizes, neck_dims=(16, 16, 16, 16), head_dims=(8, 8))
    return {
        "midas": recipe_weights(midas.Midas(config), 3),
        "pidinet": recipe_weights(pidinet.PiDiNet(pidinet.PiDiNetConfig(width=8, dilated=8)), 5),
        "cleaner": recipe_weights(cleaner.SketchSimplification((1, *[8] * 22, 1)), 5),
        "mini": recipe_weights(mini.MiniDepth(), 4),
    }


MARKS = {
    "midas": ("patch_embedding.weight", "blocks.0.mlp.0.weight", "pos_embedding", "head.2.weight"),
    "pidinet": ("init_block.weight", "block1_1.conv1.weight", "attentions.0.conv1.weight"),
    "cleaner": ("layers.0.weight", "layers.14.weight", "layers.44.weight"),
    "mini": ("down.0.0.weight", "out.weight"),
}


@pytest.fixture
def annotator_refused(host):
    files, errors = (host.pack(f"videolcm_core.files.{name}") for name in ("annotator_files", "errors"))

    def load(path):
        error = limited(lambda: files.load_annotator(path, files.ANNOTATORS), errors.CheckpointError, path.name)
        assert error is not None, "it was loaded"
        return error

    return load


@pytest.mark.parametrize("kind", TENSOR_KINDS)
@pytest.mark.parametrize("network", MARKS)
def test_annotator_tensors(annotator_refused, annotators, tmp_path, network, kind):
    for key in MARKS[network]:
        path = tmp_path / "annotator.safetensors"
        broken_files.save(path, broken_files.broken(annotators[network], kind, key))
        annotator_refused(path)


@pytest.mark.parametrize("header", list(HEADERS)[:10])
def test_annotator_headers(annotator_refused, tmp_path, header):
    path = tmp_path / "annotator.safetensors"
    broken_files.save(path, HEADERS[header])
    annotator_refused(path)


def test_annotators_that_ask_for_too_much(annotator_refused, annotators, tmp_path):
    endless = {**annotators["midas"], **{f"blocks.{n}.norm1.bias": torch.zeros(1) for n in range(4, 4000)}}
    coarse = {**annotators["midas"], "patch_embedding.weight": torch.zeros(64, 3, 200, 200)}
    odd_heads = {
        key: value.new_zeros([130 if n == 64 else n for n in value.shape]) for key, value in annotators["midas"].items()
    }
    for tensors in (endless, coarse, odd_heads):
        path = tmp_path / "annotator.safetensors"
        broken_files.save(path, tensors)
        annotator_refused(path)


# ------------------------------------------------------------------------------------------------ folders

OUTSIDE = (
    "../a.safetensors",
    "/etc/passwd.bin",
    "sub/a.safetensors",
    "..",
    "",
    "C:\\a.bin",
    "..\\a.bin",
    "a\0.bin",
    "a.py",
)
INDICES = {
    "no json": "{",
    "a list": "[]",
    "no map": "{}",
    "map of numbers": '{"weight_map": {"a": 1}}',
    "map as a list": '{"weight_map": ["a"]}',
    "deep": '{"weight_map":' * 50_000,
    "many": json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(5000)}}),
    "absent": json.dumps({"weight_map": {"a": "gone.safetensors"}}),
    **{f"outside {n}": json.dumps({"weight_map": {"a": name}}) for n, name in enumerate(OUTSIDE)},
}


@pytest.mark.parametrize("index", INDICES)
def test_indices_of_folders(host, tmp_path, unet_state_dict, index):
    read, errors = (host.pack(f"videolcm_core.files.{name}") for name in ("reading", "errors"))
    folder = tmp_path / "unet"
    for place in (tmp_path / "a.safetensors", folder / "sub" / "a.safetensors", folder / "b.safetensors"):
        broken_files.save(place, unet_state_dict)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(INDICES[index], encoding="utf-8")
    assert limited(lambda: read.load_state_dict(folder), errors.CheckpointError) is not None


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"a":' * 50_000])
@pytest.mark.parametrize("name", ["config.json", "../scheduler/scheduler_config.json", "../videolcm.json"])
def test_settings_of_folders(host, tmp_path, unet_state_dict, name, content):
    read, errors = (host.pack(f"videolcm_core.files.{name}") for name in ("reading", "errors"))
    folder = tmp_path / "pipeline" / "unet"
    broken_files.save(folder / "diffusion_pytorch_model.safetensors", unet_state_dict)
    (tmp_path / "pipeline" / "scheduler").mkdir()
    (folder / name).write_text(content, encoding="utf-8")
    error = limited(lambda: read.load_state_dict(folder), errors.CheckpointError)
    assert name.split("/")[-1] in str(error)


# ------------------------------------------------------------------------------------------------ films and images


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return made_films.samples(tmp_path_factory.mktemp("samples"))


NODES = {
    "prepare": ("VideoLCMPrepareFrames", {"frames": 8, "start": 0, "sample_fps": 8.0, "width": 32, "height": 32}),
    "sketch": ("VideoLCMSketchExtractor", {"method": "canny", **CANNY}),
}
PREPARE = {"fit": "crop", "source_fps": 8.0}


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("kind", BYTE_KINDS)
@pytest.mark.parametrize("film", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a.png", "b.png", "a.jpg", "b.webp"])
def test_films_and_images_as_video(host, films, tmp_path, film, kind, node):
    from comfy_api.latest import InputImpl

    path = tmp_path / film
    data = BYTE_KINDS[kind](films[film], np.random.default_rng(len(film) + len(kind)))
    path.write_bytes(data)
    node_id, inputs = NODES[node]
    inputs = {**inputs, **PREPARE} if node == "prepare" else inputs
    made = []

    def run():
        made.append(host.run(node_id, source=InputImpl.VideoFromFile(str(path)), **inputs)[0])

    error = limited(run, ValueError, f"The video {film}")
    assert error is not None or (made[0].isfinite().all() and made[0].shape[-1] == 3)


@pytest.mark.parametrize("film", ["a.gif", "a.webp", "a.png", "b.png", "c.png", "d.png", "a.jpg", "b.webp", "a.bmp"])
@pytest.mark.parametrize("count", [1, 5])
def test_images_as_video_work(host, films, tmp_path, film, count):
    """One-frame GIFs, PNG, WebP and photos are clips of one frame; animations are films."""
    from comfy_api.latest import InputImpl
    from PIL import Image

    path = tmp_path / film
    path.write_bytes(films[film])
    if count == 1 and film in ("a.gif", "a.webp", "a.png"):
        Image.open(path).convert("RGB").save(path)  # its first frame alone
    inputs = {**NODES["prepare"][1], **PREPARE, "frames": count}
    source = InputImpl.VideoFromFile(str(path))
    images, _ = host.run("VideoLCMPrepareFrames", source=source, **inputs)
    assert images.shape == (count, 32, 32, 3) and images.isfinite().all()
    assert host.run("VideoLCMSketchExtractor", source=source, method="canny", **CANNY)[0].shape[-1] == 3


@pytest.mark.parametrize("film", ["b.png", "a.jpg", "a.webp"])
def test_a_part_of_an_image_is_refused_clearly(host, films, tmp_path, film):
    from comfy_api.latest import InputImpl

    path = tmp_path / film
    path.write_bytes(films[film])
    inputs = {**NODES["prepare"][1], **PREPARE}
    source = InputImpl.VideoFromFile(str(path), start_time=0.5)
    error = limited(lambda: host.run("VideoLCMPrepareFrames", source=source, **inputs), ValueError, film)
    assert "of which no part can be taken" in str(error)
