"""The oldest ComfyUI that the pack supports: nodes load and videos are made, from text and from depth."""

import json
import re

import setup
from prompts import frames_in, quick

from_pyproject = re.search(r'requires-comfyui = ">=([\d.]+)"', (setup.ROOT / "pyproject.toml").read_text())


def test_oldest_host_is_the_one_that_pyproject_names():
    assert from_pyproject and from_pyproject[1] == setup.OLDEST_HOST


def test_videos_on_the_oldest_host(tmp_comfy, text_to_video):
    server = tmp_comfy(version=setup.OLDEST_HOST)
    assert server.get_json("/system_stats")["system"]["comfyui_version"] == setup.OLDEST_HOST
    assert "IMPORT FAILED" not in "".join(line for line in server.log().splitlines() if setup.PACK_NAME in line)
    result = server.queue(quick(text_to_video))
    assert result.ok, result.errors
    assert len(frames_in(server.path(result.videos[0]))) == 16
    depth = json.loads((setup.ROOT / "workflows" / "api" / "videolcm_depth_to_video.json").read_text())
    result = server.queue(depth)
    assert result.ok, result.errors
    assert len(frames_in(server.path(result.videos[0]))) == 16
