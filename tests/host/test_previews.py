"""While a run samples, the page gets its prediction of the whole video, decoded by the file's own decoder."""

import copy
import io

import numpy as np
import pytest
from PIL import Image

import setup
from prompts import frames_in, sampler_of

JPEG = b"\xff\xd8\xff"
SIDE = 64
"""Pixels of the embedded model's frames."""


def sheets(result) -> list[np.ndarray]:
    """The previews of a run, each ``[H, W, 3]`` in 0 to 255."""
    binary = [message for message in result.previews if JPEG in message[:16]]
    return [np.array(Image.open(io.BytesIO(m[m.index(JPEG) :])).convert("RGB")).astype(float) for m in binary]


def cells(sheet: np.ndarray) -> list[np.ndarray]:
    """The frames of a sheet, in reading order."""
    rows = [sheet[y : y + SIDE] for y in range(0, sheet.shape[0], SIDE)]
    return [row[:, x : x + SIDE] for row in rows for x in range(0, row.shape[1], SIDE)]


def with_core_sampler(prompt):
    """The same video through core's KSampler."""
    prompt = copy.deepcopy(prompt)
    ours = next(node for node in prompt.values() if node["class_type"] == "VideoLCMSampler")
    given = ours["inputs"]
    ours["class_type"] = "KSampler"
    ours["inputs"] = {
        **{name: given[name] for name in ("model", "positive", "seed", "steps")},
        **{"negative": given["positive"], "latent_image": given["latent"], "cfg": 1.0, "denoise": 1.0},
        **{"sampler_name": "lcm", "scheduler": "simple"},
    }
    return prompt


@pytest.mark.parametrize("through", ["ours", "core"])
def test_a_run_shows_its_frames(comfy, text_to_video, through):
    prompt = copy.deepcopy(text_to_video if through == "ours" else with_core_sampler(text_to_video))
    sampler_of(prompt).update(seed=61, steps=8)
    comfy.queue(prompt)  # the first run of a server measures how long decoding takes
    sampler_of(prompt)["seed"] = 62
    result = comfy.queue(prompt)
    assert result.ok, result.errors
    shown = sheets(result)
    assert shown, "no preview arrived"
    frames = cells(shown[0])
    assert len(frames) > 1
    video = frames_in(comfy.path(result.videos[0]))
    chosen = np.linspace(0, len(video) - 1, len(frames)).round().astype(int)
    for frame, number in zip(frames, chosen, strict=True):
        # The first of eight predictions is the same scene already; the workflow enlarges its video.
        final = np.array(Image.fromarray(video[number]).resize((SIDE, SIDE), Image.Resampling.BOX)).astype(float)
        assert np.corrcoef(frame.ravel(), final.ravel())[0, 1] > 0.8


def test_none_in_the_page_shows_none(comfy, text_to_video):
    prompt = copy.deepcopy(text_to_video)
    sampler_of(prompt)["seed"] = 63
    assert not sheets(comfy.submit(prompt, {"preview_method": "none"}).wait())


def test_the_hosts_own_previews_still_come(comfy, text_to_video):
    prompt = copy.deepcopy(text_to_video)
    sampler_of(prompt)["seed"] = 64
    shown = sheets(comfy.submit(prompt, {"preview_method": "latent2rgb"}).wait())
    assert len(shown) >= 3
    assert len({sheet.shape for sheet in shown}) > 1  # ours, and the host's 8 x 8 blocks drawn large


def test_the_oldest_host_shows_them_too(tmp_comfy, text_to_video):
    server = tmp_comfy(version=setup.OLDEST_HOST)
    result = server.queue(text_to_video)
    assert result.ok and sheets(result)


def test_none_on_the_command_line_shows_none(tmp_comfy, text_to_video):
    server = tmp_comfy(arguments=["--preview-method", "none"])
    result = server.queue(text_to_video)
    assert result.ok and not sheets(result)
