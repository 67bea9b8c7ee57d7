"""The workflows on Stable Diffusion 1.5 as they ship, in a real server with narrow files under the names they ask for.

Only the checkpoint loader is another (core's knows the published width alone), and the size is smaller.
"""

import copy
import json

import numpy as np
import pytest
from sd15_files import CHECKPOINT, write_files
from templates import FOLDER, SD15

import comfy_server
import setup
from prompts import frames_in, inputs_of, notes, sampler_of

SMALL = {"width": 64, "height": 64}
LONG = "videolcm_animatelcm_long_video"
STRENGTHS = {
    "VideoLCMMotionApply": "scale",
    "VideoLCMLoraLoader": "strength_model",
    "VideoLCMFirstFrame": "strength",
    "ControlNetApplyAdvanced": "strength",
}
"""What the nodes that change the video call their strength; at 0 they change nothing."""


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    base = tmp_path_factory.mktemp("sd15")
    made = comfy_server.ComfyServer(
        setup.host_tree(request.param), setup.venv_python(), base, arguments=("--cpu", "--preview-method", "none")
    )
    setup.link_pack(made.base, setup.PACK_NAME)
    write_files(made.base / "models")
    with made:
        yield made


def small(name):
    """A shipped prompt with the narrow checkpoint, at 64 x 64 pixels."""
    prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text())
    (loader,) = (node for node in prompt.values() if node["class_type"] == "CheckpointLoaderSimple")
    loader |= {"class_type": "VideoLCMCheckpointLoader", "inputs": {"ckpt_name": CHECKPOINT}}
    for node in prompt.values():
        if node["class_type"] in ("VideoLCMEmptyLatent", "VideoLCMPrepareFrames"):
            node["inputs"] |= SMALL
    return prompt


def film(server, prompt, quiet=False):
    """Frames of the video; ``quiet`` where nothing about the run may be doubtful."""
    result = server.queue(prompt)
    assert result.ok, result.errors
    assert not quiet or not [note for note in notes(result) if "may disappoint" in note]
    return np.stack(frames_in(server.path(result.videos[0])))


@pytest.mark.parametrize(
    ("server", "name"),
    [
        *((setup.NEWEST_HOST, name) for name in sorted(SD15)),
        *((setup.OLDEST_HOST, f"videolcm_animatelcm_{name}") for name in ("depth", "image_to_video")),
    ],
    indirect=["server"],
)
def test_shipped_workflow_makes_a_video_of_which_every_part_is_used(server, name):
    prompt = small(name)
    assert film(server, prompt, quiet=True).shape == (48 if name == LONG else 16, 64, 64, 3)
    sampler_of(prompt)["steps"], inputs_of(prompt, "VideoLCMEmptyLatent")["frames"] = 1, 16
    one_step = film(server, prompt).astype(float)
    parts = {node["class_type"] for node in prompt.values()} & STRENGTHS.keys()
    assert len(parts) >= 2
    for part in parts:
        without = copy.deepcopy(prompt)
        inputs_of(without, part)[STRENGTHS[part]] = 0.0
        assert np.abs(one_step - film(server, without)).mean() > 1, part
