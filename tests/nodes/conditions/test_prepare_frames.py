"""Prepare Condition Frames and Load VideoLCM Example."""

import pytest
import torch

import setup

PREPARE = {
    "frames": 4,
    "start": 0,
    "sample_fps": 8.0,
    "width": 32,
    "height": 16,
    "fit": "stretch",
    "source_fps": 8.0,
}


def numbered(count, height=16, width=32):
    """Frames whose grey is their number / 255."""
    return (torch.arange(count) / 255)[:, None, None, None].expand(count, height, width, 3).contiguous()


@pytest.fixture
def prepare(host):
    """``prepare(source, **options)`` -> numbers of the frames taken, fps."""

    def run(source, **options):
        images, fps = host.run("VideoLCMPrepareFrames", source=source, **PREPARE | options)
        assert images.shape[1:] == (16, 32, 3)
        return (images[:, 8, 16, 0] * 255).round().int().tolist(), fps

    return run


@pytest.fixture
def video(clip_file):
    from comfy_api.latest import InputImpl

    return lambda count, fps: InputImpl.VideoFromFile(str(clip_file(numbered(count), fps, name=f"{count}_{fps}.mp4")))


def test_every_frame(prepare):
    assert prepare(numbered(6)) == ([0, 1, 2, 3], 8.0)
    assert prepare(numbered(6), sample_fps=0.0, source_fps=24.0) == ([0, 1, 2, 3], 24.0)
    assert prepare(numbered(6), start=2) == ([2, 3, 4, 5], 8.0)


@pytest.mark.parametrize(
    ("fps", "sample_fps", "expected"),
    [
        (24, 8, [0, 3, 6, 9]),
        (30, 8, [0, 3, 7, 11]),
        (16, 8, [0, 2, 4, 6]),
        (30, 3, [0, 10, 20, 30]),
        (8, 8, [0, 1, 2, 3]),
    ],
)
def test_sampling_rate(prepare, video, fps, sample_fps, expected):
    assert prepare(numbered(40), source_fps=float(fps), sample_fps=float(sample_fps)) == (expected, sample_fps)
    # A video's own rate counts, not the one given for pictures.
    assert prepare(video(40, fps), sample_fps=float(sample_fps), source_fps=1.0) == (expected, sample_fps)


def test_start_counts_the_clips_own_frames(prepare, video):
    assert prepare(video(40, 24), start=5)[0] == [5, 8, 11, 14]


def test_a_long_video_is_not_decoded_to_its_end(host, prepare, video, monkeypatch):
    decoded = []
    reader = host.pack("videolcm_core.media.video").Video
    decode = reader._decoded

    def counted(self, seek):
        for frame in decode(self, seek):
            decoded.append(frame.time)
            yield frame

    monkeypatch.setattr(reader, "_decoded", counted)
    assert prepare(video(200, 24), start=5)[0] == [5, 8, 11, 14]
    assert len(decoded) == 16


def test_trimmed_videos(prepare, video):
    trimmed = video(40, 8).as_trimmed(1.0, 2.0, strict_duration=False)
    assert prepare(trimmed, frames=20)[0] == [*range(8, 24), 23, 23, 23, 23]


def test_a_short_clip_is_held(prepare, video, caplog):
    for source in (numbered(3), video(3, 8)):
        caplog.clear()
        assert prepare(source)[0] == [0, 1, 2, 2]
        assert "ends before frame 3: its last frame is held for 1 of 4" in caplog.text
    caplog.clear()
    assert prepare(numbered(1))[0] == [0, 0, 0, 0]
    assert "the clip has one frame" in caplog.text
    caplog.clear()
    assert prepare(numbered(4), sample_fps=16.0) == ([0, 0, 1, 1], 16.0)
    assert "8 frames per second and 16 are taken: frames repeat" in caplog.text
    caplog.clear()
    prepare(numbered(4))
    assert "VideoLCM" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 6}, "start is 6 and the clip has 6 frames; allowed: 0 to 5"),
        ({"width": 30}, "width is 30; allowed: multiples of 8. Use 32"),
        ({"height": 4}, "height is 4; allowed: multiples of 8. Use 8"),
        ({"fit": "squeeze"}, "fit is 'squeeze'"),
    ],
)
def test_bad_settings(prepare, video, options, message):
    for source in (numbered(6), video(6, 8)):
        with pytest.raises(ValueError, match=message):
            prepare(source, **{"width": 40} | options)


def test_inputs_are_not_changed(prepare):
    source = numbered(6)
    prepare(source)
    assert torch.equal(source, numbered(6))


@pytest.mark.parametrize("film", ["example_video.webm", "bigbuckbunny.mp4"])
def test_real_films(host, film):
    """Real containers: the frames are those that decoding all of the film gives."""
    from comfy_api.latest import InputImpl

    video = InputImpl.VideoFromFile(str(setup.film_folder() / film))
    settings = PREPARE | {"frames": 5, "start": 7, "width": 96, "height": 64, "fit": "crop"}
    images, fps = host.run("VideoLCMPrepareFrames", source=video, **settings)
    assert images.shape == (5, 64, 96, 3) and fps == 8.0 and 0 <= images.min() < 0.3 < images.max() <= 1
    rate = float(video.get_frame_rate())
    components = video.as_trimmed(0, 1.0, strict_duration=False).get_components()
    resize = host.pack("videolcm_core.media.resize").resize_frames
    for index, image in enumerate(images):
        expected = components.images[int(7 + index * rate / 8)][None]
        assert torch.equal(image, resize(expected, 96, 64, "crop")[0])


@pytest.fixture
def clips(host, tmp_path, monkeypatch):
    monkeypatch.setattr(host.pack("nodes.host"), "EXAMPLE_CLIPS", tmp_path)
    return tmp_path


def test_example_clip(host, clips, clip_file):
    from comfy_api.latest import InputImpl

    frames, mask = torch.rand(4, 16, 32, 3, generator=torch.manual_seed(0)), torch.zeros(4, 16, 32, 3)
    mask[:, 4:9] = 1
    path = str(clip_file(frames, name="a_dog_runs.mp4", title="a dog runs on grass", to=clips))
    clip_file(mask, name="a_dog_runs_mask.mp4", to=clips)
    clip_file(frames, name="a_red_car.mp4", to=clips)
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMExampleClip"]
    assert node.define_schema().inputs[0].options == ["a_dog_runs.mp4", "a_red_car.mp4"]
    video, object_mask, caption = host.run("VideoLCMExampleClip", clip="a_dog_runs.mp4")
    assert caption == "a dog runs on grass" and torch.equal(object_mask, mask[..., 0])
    assert torch.equal(video.get_components().images, InputImpl.VideoFromFile(path).get_components().images)
    video, none, caption = host.run("VideoLCMExampleClip", clip="a_red_car.mp4")
    assert caption == "a red car" and none.shape == (4, 16, 32) and not none.any()
    with pytest.raises(FileNotFoundError, match=r"no_such.mp4: no such example; allowed: a_dog_runs.mp4, a_red_car"):
        host.run("VideoLCMExampleClip", clip="no_such.mp4")


def test_no_example_clips(host, clips):
    node = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMExampleClip"]
    assert node.define_schema().inputs[0].options == []
    with pytest.raises(FileNotFoundError, match="the folder is empty"):
        host.run("VideoLCMExampleClip", clip="a.mp4")


def test_example_clips_of_the_pack(host):
    names = host.pack("nodes.conditions.example_clip").clip_names()
    assert names
    for name in names:
        video, mask, caption = host.run("VideoLCMExampleClip", clip=name)
        images = video.get_components().images
        assert images.shape[1:] == (128, 128, 3) and mask.shape == images.shape[:3] and " " in caption
        assert float(video.get_frame_rate()) == 8
