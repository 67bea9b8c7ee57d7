"""The pack inside a real server: it loads, it stays offline, and bad requests leave the server alive."""

import os
import re
import socket
import subprocess
import sys
import threading

import pytest

import setup
from prompts import frames_in, quick, sampler_of, set_checkpoint, text_of

OUR_NODES = {
    "VideoLCMCheckpointLoader",
    "VideoLCMModelLoader",
    "VideoLCMEmptyLatent",
    "VideoLCMSampler",
    "VideoLCMScheduler",
    "SamplerVideoLCM",
    "VideoLCMSampling",
    "VideoLCMLoraLoader",
}


def test_every_node_is_there_and_described(comfy):
    info = comfy.object_info()
    ours = {name: node for name, node in info.items() if node["python_module"].endswith("ComfyUI-VideoLCM")}
    assert set(ours) >= OUR_NODES
    for name, node in ours.items():
        assert node["description"], name
        for group in ("required", "optional"):
            for field, (_, options) in node["input"].get(group, {}).items():
                assert options.get("tooltip"), f"{name}.{field} has no tooltip"


def test_pack_is_imported_without_errors_and_quickly(comfy):
    assert "IMPORT FAILED" not in comfy.log()
    (seconds,) = re.findall(r"([\d.]+) seconds: .*ComfyUI-VideoLCM", comfy.log())
    # The host prints tenths of the time that passed, in which a busy machine did other things too.
    assert float(seconds) <= 0.1 or import_seconds() <= 0.1


def import_seconds():
    """Processor time of importing the pack's root, which is all that the host waits for at its start."""
    program = (
        "import importlib.util, time\nbefore = time.process_time()\n"
        "spec = importlib.util.spec_from_file_location('pack', '__init__.py')\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\nprint(time.process_time() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=setup.ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


IGNORING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it runs in the background
import subprocess, time
import comfy_server
with comfy_server._interruptible():
    child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], stdout=-1)
child.stdout.readline()
child.send_signal(signal.SIGINT)
child.wait(20)
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one other process")
def test_a_server_started_from_a_background_job_can_be_stopped():
    subprocess.run([sys.executable, "-c", IGNORING], cwd=setup.ROOT / "scripts", check=True, timeout=60)


def test_nothing_is_asked_of_the_network_or_beyond_the_hosts_packages(tmp_comfy, tmp_path, text_to_video):
    """A proxy that notes every connection, and modules in the way of the libraries that only training needs."""
    for name in ("cv2", "diffusers", "moderngl", "peft"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('kept away from this server by the test')")
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def listen():
            while True:
                try:
                    connection, _ = proxy.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1000))

        threading.Thread(target=listen, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
        server = tmp_comfy(environment={**environment, "PYTHONPATH": str(tmp_path)})
        assert "IMPORT FAILED" not in server.log()
        assert server.queue(quick(text_to_video)).ok
    assert asked == []


@pytest.mark.parametrize("text", ["", "a horse, " * 555 + "a dog"], ids=["empty", "5000 characters"])
def test_any_prompt_length(comfy, text_to_video, text):
    text_of(text_to_video)["text"] = text
    result = comfy.queue(quick(text_to_video))
    assert result.ok, result.errors
    assert len(result.videos) == 1


@pytest.mark.parametrize("frames", [1, 200])
def test_few_and_many_frames(comfy, text_to_video, frames):
    result = comfy.queue(quick(text_to_video, frames=frames))
    assert result.ok, result.errors
    assert len(frames_in(comfy.path(result.videos[0]))) == frames


@pytest.mark.parametrize(
    ("steps", "allowed"), [(0, "min of 1"), (-1, "min of 1"), (51, "max of 50"), ("four", "four"), (None, "steps")]
)
def test_wrong_step_counts_are_refused(comfy, text_to_video, steps, allowed):
    sampler_of(text_to_video)["steps"] = steps
    result = comfy.queue(text_to_video)
    assert result.status == "rejected"
    assert any("VideoLCMSampler" in error and "steps" in error and allowed in error for error in result.errors)
    assert comfy.queue(quick(text_to_video)).ok


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        ({"width": 100}, "width is 100; allowed: multiples of 8"),
        ({"height": 65}, "height is 65; allowed: multiples of 8"),
        ({"width": 0}, "min of 64"),
        ({"frames": 0}, "min of 1"),
        ({"frames": 257}, "max of 256"),
    ],
)
def test_wrong_sizes_are_refused(comfy, text_to_video, size, complaint):
    result = comfy.queue(quick(text_to_video, **size))
    assert result.status in ("rejected", "error")
    assert any(complaint in error for error in result.errors), result.errors
    assert result.files == []
    assert comfy.queue(quick(text_to_video)).ok


def test_missing_checkpoint_is_refused_by_name(comfy, text_to_video):
    set_checkpoint(text_to_video, "not_there.safetensors")
    result = comfy.queue(text_to_video)
    assert result.status == "rejected"
    assert any("not_there.safetensors" in error for error in result.errors)
