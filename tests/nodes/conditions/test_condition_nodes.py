"""Condition nodes: what they refuse, what they say, and that IMAGE and VIDEO are the same to them."""

import pytest
import torch

APPLY = {"strength": 1.0, "invert": False, "fit": "crop", "depth_scale": 2.0, "condition": "depth"}
GROUND = torch.linspace(0.1, 1, 64)[None, :, None, None].expand(3, 64, 64, 3)


def noise_like(*shape, seed=0):
    return torch.rand(*shape, generator=torch.manual_seed(seed))


def lines(white=False):
    """A sketch of a few lines."""
    sketch = torch.zeros(3, 64, 64, 3)
    sketch[:, 10:50:8, 5:60] = 1
    return 1 - sketch if white else sketch


@pytest.fixture
def apply(host, prompt):
    return lambda frames, **options: host.run(
        "VideoLCMApplyCondition", positive=prompt("a dog"), frames=frames, **APPLY | options
    )


@pytest.fixture
def inpaint(host, prompt):
    return lambda frames, mask: host.run(
        "VideoLCMInpaintCondition", positive=prompt("a dog"), frames=frames, mask=mask, strength=1.0, fit="crop"
    )


def value_of(result):
    return result[0][0][1]["videolcm_conditions"][-1]


def test_image_and_video_are_the_same(host, apply, clip_file):
    from comfy_api.latest import InputImpl, Types

    frames = (noise_like(3, 64, 64, 3) * 255).round() / 255
    file = InputImpl.VideoFromFile(str(clip_file(frames)))
    parts = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, frame_rate=8))
    for kind in ("depth", "first frame"):
        given = value_of(apply(frames, condition=kind)).frames
        assert torch.equal(value_of(apply(parts, condition=kind)).frames, given)
        as_images = value_of(apply(file.get_components().images, condition=kind)).frames
        assert torch.equal(value_of(apply(file, condition=kind)).frames, as_images)


def test_alpha_is_dropped_and_grey_repeated(apply):
    frames = noise_like(3, 64, 64, 4)
    assert torch.equal(value_of(apply(frames)).frames, frames[..., :3])
    assert torch.equal(value_of(apply(frames[..., :1])).frames, frames[..., :1].expand(-1, -1, -1, 3))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(0, 64, 64, 3), "has no frame"),
        (torch.zeros(3, 64, 64, 2), r"shape \[3, 64, 64, 2\]; allowed: .* 1, 3 or 4"),
        (torch.zeros(64, 64, 3), r"shape \[64, 64, 3\]"),
        (torch.zeros(3, 8, 8, 3).index_fill(0, torch.tensor(1), torch.nan), "NaN or infinite.*frame 1 of 3"),
        (torch.full((3, 8, 8, 3), torch.inf), "NaN or infinite.*frame 0 of 3"),
        ("a path", "frames is a str; allowed: IMAGE or VIDEO"),
    ],
)
def test_frames_that_cannot_be_used(apply, frames, message):
    with pytest.raises(ValueError, match=message):
        apply(frames)


@pytest.mark.parametrize("content", [b"", b"not a video at all", "cut"])
def test_unreadable_videos_are_named(apply, clip_file, tmp_path, content):
    from comfy_api.latest import InputImpl

    if content == "cut":
        content = clip_file(noise_like(8, 64, 64, 3)).read_bytes()[:5000]
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read: .*save it again as mp4"):
        apply(InputImpl.VideoFromFile(str(path)))


def test_videos_without_pictures_are_named(apply, tmp_path):
    import av
    import numpy as np
    from comfy_api.latest import InputImpl

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound\.mp4 cannot be read"):
        apply(InputImpl.VideoFromFile(str(path)))


def test_videos_that_are_cut_off_say_so(apply, clip_file, tmp_path, caplog):
    """The index stands first in the file, so that what is left can be read."""
    import av
    from comfy_api.latest import InputImpl

    whole, path = clip_file(noise_like(16, 64, 64, 3), name="whole.mp4"), tmp_path / "half.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    frames = value_of(apply(InputImpl.VideoFromFile(str(path)))).frames
    assert 0 < len(frames) < 16
    assert f"half.mp4 promises 16 frames and {len(frames)} could be read" in caplog.text


@pytest.mark.parametrize(
    ("condition", "frames", "invert", "message"),
    [
        ("depth", GROUND, False, None),
        ("depth", 1 - GROUND, False, "turn invert on"),
        ("depth", 1 - GROUND, True, None),
        ("depth", GROUND, True, "turn invert off"),
        ("depth", torch.zeros(3, 64, 64, 3), False, "all black"),
        ("depth", torch.ones(3, 64, 64, 3), False, None),
        ("depth", GROUND * torch.tensor([1.0, 0.2, 0.4]), False, "has colours"),
        ("sketch", lines(), False, None),
        ("sketch", lines(white=True), False, "mostly white.*turn invert on"),
        ("single sketch", lines(white=True), False, "mostly white"),
        ("sketch", lines(white=True), True, None),
        ("sketch", torch.zeros(3, 64, 64, 3), False, "all black"),
        ("first frame", torch.zeros(1, 64, 64, 3), False, None),
        ("first frame", GROUND, True, "invert has no effect"),
        ("motion", torch.full((3, 64, 64, 3), 0.5), False, None),
        ("motion", torch.zeros(3, 64, 64, 3), False, "does not look like a motion image"),
    ],
)
def test_suspicious_pictures_are_mentioned(apply, caplog, condition, frames, invert, message):
    import re

    value = value_of(apply(frames, condition=condition, invert=invert))
    assert value.kind in ("depth", "sketch", "single_sketch", "local_image", "motion")
    assert re.search(message, caplog.text) if message else "VideoLCM" not in caplog.text


def test_notes_reach_the_page_on_the_node(host, apply, monkeypatch):
    import sys
    from types import SimpleNamespace

    from comfy_execution.utils import CurrentNodeContext

    shown = []
    instance = SimpleNamespace(send_progress_text=lambda text, node_id: shown.append((node_id, text)))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    with CurrentNodeContext("prompt", "7", 0):
        apply(GROUND)
        assert shown == []
        apply(1 - GROUND)
        assert len(shown) == 1 and shown[0][0] == "7" and "turn invert on" in shown[0][1]
        # Mended: the note goes.
        apply(1 - GROUND, invert=True)
        apply(GROUND)
    assert shown[1:] == [("7", "")]


def test_strength_0_leaves_the_condition_out(host, prompt, apply, caplog):
    positive, negative = apply(GROUND, strength=0.0)
    assert "videolcm_conditions" not in positive[0][1] and not negative[0][0].any()
    assert "strength is 0" in caplog.text


def test_stills_keep_one_frame(apply, clip_file):
    from comfy_api.latest import InputImpl

    frames = (noise_like(6, 64, 64, 3) * 255).round() / 255
    film = InputImpl.VideoFromFile(str(clip_file(frames, name="still.mp4")))
    for source, images in ((frames, frames), (film, film.get_components().images)):
        for kind in ("first frame", "single sketch"):
            kept = value_of(apply(source, condition=kind)).frames
            assert torch.equal(kept, images[:1])


def test_masks_for_all_frames_or_one_each(inpaint):
    frames = noise_like(3, 64, 64, 3)
    for mask in (torch.eye(64), torch.eye(64)[None], torch.eye(64).expand(3, 64, 64), torch.eye(64)[None, None]):
        assert value_of(inpaint(frames, mask)).mask.shape in [(1, 64, 64), (3, 64, 64)]
    assert value_of(inpaint(frames, torch.eye(32)[None])).mask.shape == (1, 32, 32)
    assert value_of(inpaint(noise_like(3, 90, 160, 3), torch.rand(1, 180, 320))).mask.shape == (1, 180, 320)
    assert value_of(inpaint(noise_like(3, 101, 161, 3), torch.rand(1, 50, 80))).mask.shape == (1, 50, 80)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 64, 64), "2 masks for 3 frames; allowed: 1 or 3"),
        (torch.ones(1, 64, 96), r"mask is 96x64 and the frames are 64x64"),
        (torch.ones(0, 64, 64), "mask has shape"),
        (torch.ones(1, 3, 2, 64, 64), "mask has shape"),
        (torch.full((1, 64, 64), torch.nan), "not numbers"),
    ],
)
def test_masks_that_do_not_fit(inpaint, mask, message):
    with pytest.raises(ValueError, match=message):
        inpaint(noise_like(3, 64, 64, 3), mask)


@pytest.mark.parametrize(("mask", "message"), [(torch.zeros, "mask is empty"), (torch.ones, "covers everything")])
def test_masks_of_one_kind_are_mentioned(inpaint, caplog, mask, message):
    inpaint(noise_like(3, 64, 64, 3), mask(1, 64, 64))
    assert message in caplog.text


def test_a_resized_mask_is_black_or_white(host, inpaint):
    frames = noise_like(3, 100, 100, 3)
    value = value_of(inpaint(frames, (noise_like(1, 100, 100) > 0.5).float()))
    values = host.pack("nodes.conditions.pixels").condition_values(value, 3, 64, 64)
    assert values.shape == (3, 4, 64, 64) and set(values[:, 3].unique().tolist()) == {0.0, 1.0}
    hidden = values[:, 3:] == 0
    assert not values[:, :3][hidden.expand(-1, 3, -1, -1)].any()


@pytest.fixture
def use(apply, ksampler, latent):
    return lambda model, **options: ksampler(model, apply(GROUND, **options)[0], latent())


@pytest.mark.parametrize("condition", ["depth", "sketch", "single sketch", "first frame", "motion"])
def test_a_text_only_model_is_named(model, use, condition):
    message = f"no encoder for the condition '{condition}'; it is a text-only model.*videolcm-mini-vcomposer"
    with pytest.raises(ValueError, match=message):
        use(model, condition=condition)


def test_a_missing_encoder_is_named(host, write_model, use, recipe_weights):
    unet3d = host.pack("videolcm_core.networks.vgen.unet3d")
    sizes = {"model_channels": 64, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_scales": (1.0, 0.5)}
    config = unet3d.UNetConfig(**sizes, context_dim=32, num_heads=1, conditions=frozenset({"sketch", "local_image"}))
    name = write_model("two.safetensors", recipe_weights(unet3d.UNet3D(config, device="meta"), 2))
    two = host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]
    assert use(two, condition="sketch").isfinite().all()
    with pytest.raises(ValueError, match="condition 'depth'; it has: first frame, sketch. Load"):
        use(two)


class Embeds:
    def __init__(self, embeds):
        self.image_embeds = embeds


def test_clip_vision_of_the_wrong_width(host, model, composer, prompt, latent, ksampler):
    def sample(model, embeds):
        positive = host.run(
            "VideoLCMStyleCondition", positive=prompt("a dog"), clip_vision_output=Embeds(embeds), strength=1.0
        )[0]
        return ksampler(model, positive, latent())

    with pytest.raises(ValueError, match="encoded 768 wide; this VideoLCM model takes 32"):
        sample(composer, torch.zeros(1, 768))
    with pytest.raises(ValueError, match="'image style'; it is a text-only model"):
        sample(model, torch.zeros(1, 32))
    with pytest.raises(ValueError, match="has no image embedding.*NoneType"):
        sample(composer, None)
    with pytest.raises(ValueError, match="not numbers"):
        sample(composer, torch.full((1, 32), torch.nan))
    assert sample(composer, torch.zeros(3, 32)).isfinite().all()


def test_motion_grows_with_the_picture(host):
    frames = host.pack("videolcm_core.media.resize")
    motion = torch.full((2, 32, 64, 3), 0.5)
    motion[..., 0] += 4 / 64
    motion[..., 1] -= 2 / 64
    values = host.pack("videolcm_core.media.condition_values").motion_from_image
    doubled = values(frames.resize_motion(motion, 128, 64, "crop"))
    assert torch.allclose(doubled[:, 0], torch.tensor(8.0)) and torch.allclose(doubled[:, 1], torch.tensor(-4.0))
    stretched = values(frames.resize_motion(motion, 64, 64, "stretch"))
    assert torch.allclose(stretched[:, 0], torch.tensor(4.0)) and torch.allclose(stretched[:, 1], torch.tensor(-4.0))
    padded = values(frames.resize_motion(motion, 64, 64, "pad"))
    assert not padded[:, :, :16].any() and torch.allclose(padded[:, 0, 16:48], torch.tensor(4.0))


def test_fits(host):
    frames = host.pack("videolcm_core.media.resize")
    picture = torch.zeros(1, 40, 80, 3)
    picture[:, :, 20:60] = 1
    crop, stretch, pad = (frames.resize_frames(picture, 20, 20, fit) for fit in frames.FITS)
    assert crop.shape == stretch.shape == pad.shape == (1, 20, 20, 3)
    assert crop[:, :, 1:-1].min() > 0.99
    assert stretch[0, 10, 1, 0] < 0.01 and stretch[0, 10, 10, 0] > 0.99
    assert pad[0, 2, 10, 0] == 0 and pad[0, 10, 10, 0] > 0.99 and pad[0, 10, 1, 0] < 0.01
    assert frames.resize_frames(picture, 80, 40, "crop") is picture
    with pytest.raises(ValueError, match="fit is 'squeeze'; allowed: crop, stretch, pad"):
        frames.resize_frames(picture, 20, 20, "squeeze")
