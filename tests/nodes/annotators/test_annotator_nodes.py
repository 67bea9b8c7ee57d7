"""Depth, sketch and motion nodes in the real host: files, clips from packages, what is said about bad input."""

import logging
import sys

import pytest
import torch
import torch.nn.functional as F

import setup

FOLDER = "videolcm_annotators"
CANNY = {"low_threshold": 60, "high_threshold": 160, "blur": 1.0, "line_width": 0.02, "contrast": 1.6}
FILMS = ("example_video.webm", "bigbuckbunny.mp4", "carphone_pristine.mp4")
EXTRACTORS = {
    "canny": ("VideoLCMSketchExtractor", {"method": "canny", **CANNY}),
    "pencil": ("VideoLCMSketchExtractor", {"method": "pencil", **CANNY}),
    "pidinet": ("VideoLCMSketchExtractor", {"method": "pidinet + simplify", **CANNY}),
    "flow": ("VideoLCMMotionExtractor", {"method": "optical flow", "fill": False}),
    "vectors": ("VideoLCMMotionExtractor", {"method": "codec vectors", "fill": False}),
    "filled vectors": ("VideoLCMMotionExtractor", {"method": "codec vectors", "fill": True}),
    "mini depth": ("VideoLCMDepthEstimator", {"model_name": "random-mini.safetensors", "normalize": False}),
    "midas": ("VideoLCMDepthEstimator", {"model_name": "tiny-midas.safetensors", "normalize": False}),
}


@pytest.fixture(scope="module")
def networks(host, write_model, recipe_weights):
    """Small random networks under the published names where the nodes ask for these."""
    midas, pidinet, cleaner, mini = (
        host.pack(f"videolcm_core.networks.annotators.{name}")
        for name in ("midas", "pidinet", "sketch_simplification", "mini_depth")
    )
    sizes = {"dim": 64, "num_layers": 4, "num_heads": 1, "grid": 4, "mlp_dim": 64, "fusion_dim": 16}
    config = midas.MidasConfig(**sizes, neck_dims=(16, 16, 16, 16), head_dims=(8, 8))
    write_model("tiny-midas.safetensors", recipe_weights(midas.Midas(config), 3), None, FOLDER)
    write_model("random-mini.safetensors", recipe_weights(mini.MiniDepth(), 4), None, FOLDER)
    for name, network in (
        ("table5_pidinet.pth", pidinet.PiDiNet(pidinet.PiDiNetConfig(width=8, dilated=8))),
        ("sketch_simplification_gan.pth", cleaner.SketchSimplification((1, *[8] * 22, 1))),
    ):
        torch.save(recipe_weights(network, 5), host.base / "models" / FOLDER / name)


def video(path):
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))


@pytest.fixture
def extract(host):
    """``extract(name, source, **changes)`` -> IMAGE."""

    def run(name, source, **changes):
        node_id, settings = EXTRACTORS[name]
        return host.run(node_id, source=source, **{**settings, **changes})[0]

    return run


@pytest.fixture(scope="module")
def clips(host):
    """Eight frames of each film, 112 x 64."""
    made = {}
    with torch.inference_mode():
        for name in FILMS:
            source = video(setup.film_folder() / name)
            made[name] = host.run(
                "VideoLCMPrepareFrames",
                source=source,
                frames=8,
                start=0,
                sample_fps=8.0,
                width=112,
                height=64,
                fit="crop",
                source_fps=24.0,
            )[0]
    return made


def pan(dx, frames=6, size=64):
    """A texture that moves right by ``dx`` pixels a frame."""
    noise = torch.rand(1, 3, 24, 60, generator=torch.Generator().manual_seed(1))
    whole = F.interpolate(noise, scale_factor=8, mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
    return torch.stack([whole[:size, 200 - dx * i : 200 - dx * i + size] for i in range(frames)])


# ---------------------------------------------------------------- real clips


@pytest.mark.parametrize("film", FILMS)
def test_films_are_prepared(clips, film):
    frames = clips[film]
    assert frames.shape == (8, 64, 112, 3) and frames.std() > 0.1
    assert (frames[1:] - frames[:-1]).abs().mean() > 1e-3


@pytest.mark.parametrize("film", FILMS)
@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_on_every_film(networks, extract, clips, name, film):
    frames = clips[film]
    before = frames.clone()
    image = extract(name, frames)
    assert image.shape == frames.shape and image.isfinite().all() and torch.equal(frames, before)
    assert image.min() >= 0 and image.std() > 1e-5
    if name in ("canny", "pencil"):
        assert image.max() > 0.8 and 0.005 < image.mean() < 0.4
    assert torch.equal(image, extract(name, frames))


def warped(frames, motion):
    """Each frame but the first, put together from the one before by the motion."""
    count, _, height, width = motion.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    came_from = torch.stack([columns, rows])[None] - motion
    grid = (came_from + 0.5) / torch.tensor([width, height]).view(1, 2, 1, 1) * 2 - 1
    before = F.pad(frames.movedim(-1, 1), (0, 0, 0, 0, 0, 0, 1, 0))[:count]
    return F.grid_sample(before, grid.movedim(1, -1), padding_mode="border", align_corners=False)[1:]


@pytest.mark.parametrize("film", FILMS[1:])
def test_flow_explains_real_motion(host, extract, clips, film):
    """Moving the frame before by the flow brings it nearer to the frame."""
    frames, values = clips[film], host.pack("videolcm_core.media.condition_values")
    motion = values.motion_from_image(extract("flow", frames))
    now = frames.movedim(-1, 1)
    unmoved = (now[1:] - now[:-1]).abs().mean()
    assert (warped(frames, motion) - now[1:]).abs().mean() < 0.7 * unmoved
    assert (warped(frames, -motion) - now[1:]).abs().mean() > unmoved


def test_video_input_equals_its_frames(extract, clip_file):
    frames = pan(4)
    source = video(clip_file(frames, name="pan.mp4"))
    assert torch.equal(extract("canny", source), extract("canny", source.get_components().images))


# ---------------------------------------------------------------- motion


@pytest.mark.parametrize("name", ["flow", "filled vectors"])
def test_a_pan_of_four_pixels(host, extract, name):
    image = extract(name, pan(4))
    motion = host.pack("videolcm_core.media.condition_values").motion_from_image(image)
    assert not motion[0].any() and (image[..., 2] == 0.5).all()
    # Away from the left border, where something new comes into the picture.
    error = (motion[1:] - torch.tensor([4.0, 0.0]).view(1, 2, 1, 1)).norm(dim=1)[..., 16:]
    assert error.max() < 0.6 and error.median() < 0.1


def test_codec_vectors_are_at_block_centres(host, extract):
    motion = host.pack("videolcm_core.media.condition_values").motion_from_image(extract("vectors", pan(4)))
    centres = torch.zeros(64, 64, dtype=torch.bool)
    centres[8::16, 8::16] = True
    assert not motion[:, :, ~centres].any()
    # The encoder chooses among vectors that cost less to write: most are the true one, in half pixels.
    vectors = motion[1:, :, centres]
    assert torch.equal(vectors.flatten(2).median(dim=2).values, torch.tensor([4.0, 0.0]).expand(5, 2))
    assert torch.equal((vectors * 2).round(), vectors * 2)


@pytest.mark.parametrize("size", [16, 50, 70])
def test_codec_vectors_of_sizes_that_are_no_whole_blocks(extract, size):
    for name in ("vectors", "filled vectors"):
        assert extract(name, pan(2, size=size)).shape == (6, size, size, 3)


@pytest.mark.parametrize("name", ["flow", "vectors"])
def test_one_frame_has_no_motion(host, extract, caplog, name):
    with caplog.at_level(logging.WARNING):
        image = extract(name, pan(4, frames=1))
    assert (image == 0.5).all() and "one frame" in caplog.text


# ---------------------------------------------------------------- depth


def test_depth_picture_is_the_value_halved(host, networks, extract, clips):
    frames = clips[FILMS[0]]
    annotators = host.pack("nodes.annotators.files")
    loaded = annotators.Loaded({"tiny-midas.safetensors": annotators.DEPTH_NETWORKS}, frames)
    depth = loaded.run(host.pack("videolcm_core.annotators.depth").midas_depth, *loaded.networks)
    image = extract("midas", frames)
    torch.testing.assert_close(image[..., 0] * 2, depth[:, 0])
    assert torch.equal(image[..., 0], image[..., 2])
    back = host.pack("videolcm_core.media.condition_values").depth_from_image(image)
    torch.testing.assert_close(back, depth)


def test_depth_is_normalised_over_the_clip_only_when_asked(networks, extract, clips):
    frames = clips[FILMS[1]]
    plain, stretched = extract("midas", frames), extract("midas", frames, normalize=True)
    assert stretched.min() == 0 and stretched.max() == 1
    torch.testing.assert_close(stretched, (plain - plain.min()) / (plain.max() - plain.min()))
    ranges = stretched.amax(dim=(1, 2, 3))
    assert ranges.min() < 1  # not each frame on its own


@pytest.mark.parametrize("size", [64, 128])
def test_embedded_network_on_a_rendered_scene(host, extract, size):
    """The shipped network sees the ground rise towards the viewer, and the same at twice the size."""
    path = sorted((setup.ROOT / "workflows" / "clips").glob("*snowman*[!k].mp4"))[0]
    frames = video(path).get_components().images[:2]
    frames = F.interpolate(frames.movedim(-1, 1), (size, size), mode="area").movedim(1, -1)
    depth = extract("mini depth", frames, model_name="videolcm-mini-depth.safetensors")[..., 0]
    rows = depth[:, :, : size // 4].mean(dim=(0, 2))
    below = rows[-size // 3 :]
    assert rows[: size // 4].max() < 0.1 < below[0] and (below[4:] > below[:-4]).all() and below[-1] > 0.5


@pytest.mark.parametrize("normalize", [False, True])
def test_depth_that_sees_nothing_is_said(host, normalize, caplog):
    with caplog.at_level(logging.WARNING):
        image = host.pack("nodes.annotators.extractors")._depth_picture(torch.full((2, 1, 8, 8), 3.0), normalize)
    assert (image == 1.5).all() and "the same everywhere" in caplog.text


def test_files_are_listed_even_when_absent(host):
    inputs = {i.id: i for i in host.nodes.NODE_CLASS_MAPPINGS["VideoLCMDepthEstimator"].define_schema().inputs}
    options = inputs["model_name"].options
    assert options[:2] == ["videolcm-mini-depth.safetensors", "midas_v3_dpt_large.pth"]
    assert inputs["model_name"].default == options[0]
    assert not {"table5_pidinet.pth", "sketch_simplification_gan.pth"} & set(options)


# ---------------------------------------------------------------- what is said


def fails(run, *words):
    with pytest.raises(Exception) as caught:
        run()
    for word in words:
        assert word.lower() in str(caught.value).lower(), f"{word!r} is not in: {caught.value}"


def test_an_absent_network_says_what_to_do(host, extract, tmp_path):
    words = (
        "midas_v3_dpt_large.pth",
        "1.4 GB",
        "models/videolcm_annotators",
        "Depth Anything 3",
        "nothing is downloaded",
    )
    fails(lambda: extract("midas", pan(1), model_name="midas_v3_dpt_large.pth"), *words)


@pytest.mark.parametrize("name", ["table5_pidinet.pth", "sketch_simplification_gan.pth"])
def test_absent_sketch_networks(host, networks, extract, name):
    path = host.base / "models" / FOLDER / name
    hidden = path.rename(path.with_suffix(".hidden"))
    try:
        fails(lambda: extract("pidinet", pan(1)), name, "models/videolcm_annotators", "canny or pencil")
        if name.startswith("sketch"):  # edges alone do without it
            assert extract("pidinet", pan(1), method="pidinet").shape == (6, 64, 64, 3)
    finally:
        hidden.rename(path)


def test_wrong_and_damaged_files(host, networks, extract):
    folder = host.base / "models" / FOLDER
    (folder / "wrong.pth").write_bytes((folder / "table5_pidinet.pth").read_bytes())
    fails(lambda: extract("midas", pan(1), model_name="wrong.pth"), "wrong.pth", "PiDiNet edges", "MiDaS DPT-Large")
    (folder / "empty.pth").write_bytes(b"")
    fails(lambda: extract("midas", pan(1), model_name="empty.pth"), "empty.pth", "an empty file")
    whole = (folder / "tiny-midas.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    fails(lambda: extract("midas", pan(1), model_name="half.safetensors"), "half.safetensors", "truncated")


@pytest.mark.parametrize("name", EXTRACTORS)
def test_bad_clips(networks, extract, tmp_path, name):
    fails(lambda: extract(name, torch.full((2, 64, 64, 3), float("nan"))), "frame 0 of 2")
    fails(lambda: extract(name, torch.zeros(0, 64, 64, 3)), "no frame")
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video at all" * 100)
    fails(lambda: extract(name, video(path)), "broken.mp4")


def test_thresholds_the_wrong_way_round(extract):
    fails(lambda: extract("canny", pan(1), low_threshold=200), "200", "160")


@pytest.mark.parametrize("name", ["canny", "pencil"])
def test_an_empty_sketch_is_said(extract, caplog, name):
    with caplog.at_level(logging.WARNING):
        image = extract(name, torch.full((2, 64, 64, 3), 0.5))
    assert image.max() < 1e-5 and "No lines were found" in caplog.text


@pytest.mark.parametrize("name", EXTRACTORS)
def test_interrupt_stops_between_chunks(networks, extract, name, monkeypatch):
    import comfy.model_management as manager

    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) > 1:
            raise manager.InterruptProcessingException

    monkeypatch.setattr(manager, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(manager.InterruptProcessingException):
        extract(name, pan(1, frames=20))


def test_networks_leave_memory_when_done(host, networks, extract):
    import gc

    import comfy.model_management as manager

    extract("midas", pan(1))
    gc.collect()
    held = [loaded.model for loaded in manager.current_loaded_models if loaded.model is not None]
    assert not [patcher for patcher in held if type(patcher.model).__name__ == "Midas"]


def test_changed_files_run_again(host, networks):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMDepthEstimator"]
    settings = {"model_name": "tiny-midas.safetensors", "normalize": False}
    first = node.fingerprint_inputs(source=None, **settings)
    assert first == node.fingerprint_inputs(source=None, **settings)
    path = host.base / "models" / FOLDER / "tiny-midas.safetensors"
    path.touch()
    assert first != node.fingerprint_inputs(source=None, **settings)


@pytest.mark.parametrize("kind", ["canny", "pencil", "flow"])
def test_a_missing_opencv_is_said_with_what_to_do(extract, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as the import system marks what is not there
    with pytest.raises(ImportError, match=r"needs OpenCV \(cv2\).*install opencv-python-headless.*restart ComfyUI"):
        extract(kind, torch.rand(2, 64, 64, 3))
