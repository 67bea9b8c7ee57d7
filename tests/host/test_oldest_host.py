"""The oldest ComfyUI that the pack supports: nodes load and videos are made, from text and from depth."""

import json
import os
import re
import subprocess

import setup
from prompts import frames_in, quick, sampler_of

# Tests in the host's own process that lean on interfaces of the host: adapters of weights, wrappers of a run, patches.
TESTS = (
    "tests/nodes/loaders/test_lora_layouts.py",
    "tests/nodes/model/test_attention_patches.py",
    "tests/nodes/sampling/test_finite.py",
    "tests/nodes/model/test_control_windows.py",
    "tests/nodes/motion/test_native_parity.py",
    "tests/nodes/motion/test_core_features.py",
)
CASES = (
    "peft_folder or kohya or another_kind or a_block_does or core_nodes or told or step_is or weights_are or refused "
    "or 8-999 or hints_ or do_not_touch or as_before or lora_of_the_checkpoint or part_of_the_motion"
)

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
    without_negative = quick(text_to_video)
    sampler_of(without_negative)["cfg"] = 2.0
    result = server.queue(without_negative)
    assert result.status == "error" and "no negative prompt is connected" in result.errors[0]


def test_interfaces_of_the_oldest_host():
    command = [setup.venv_python(), "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "-k", CASES]
    environment = {**os.environ, "HOST_VERSION": setup.OLDEST_HOST}
    run = subprocess.run(command, cwd=setup.ROOT, env=environment, capture_output=True, text=True, timeout=300)
    passed = re.search(r"(\d+) passed", run.stdout)
    assert run.returncode == 0 and passed and int(passed[1]) > 60, run.stdout[-4000:]
