"""``make hosts``: ComfyUI versions between the oldest and the newest load the pack and make a video.

Not part of ``make test``, which runs the oldest and the newest: each version is fetched first.
"""

import pytest

import setup
from prompts import frames_in, quick

HOSTS_BETWEEN = sorted(set(setup.HOST_ARCHIVES) - {setup.OLDEST_HOST, setup.NEWEST_HOST})


@pytest.mark.parametrize("version", HOSTS_BETWEEN)
def test_videos_on_hosts_between(tmp_comfy, text_to_video, version):
    server = tmp_comfy(version=version)
    assert server.get_json("/system_stats")["system"]["comfyui_version"] == version
    assert "IMPORT FAILED" not in "".join(line for line in server.log().splitlines() if setup.PACK_NAME in line)
    result = server.queue(quick(text_to_video))
    assert result.ok, result.errors
    assert len(frames_in(server.path(result.videos[0]))) == 16
