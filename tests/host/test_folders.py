"""Model files are found where users keep them, and the embedded ones wherever the pack is cloned."""

import json
import shutil
import subprocess
from pathlib import Path

import comfy_server
import setup
from prompts import quick, set_checkpoint

ROOT = setup.ROOT
MODEL = "videolcm-mini.safetensors"


def choices(server, node="VideoLCMCheckpointLoader"):
    field = next(iter(server.object_info(node)["input"]["required"].values()))
    return field[1]["options"]


def copy_of_this_pack(destination: Path) -> Path:
    """The files a clone would have: tracked ones, and new ones that git does not ignore."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, destination / name)
    return destination


def test_extra_model_paths_are_honoured(tmp_comfy, tmp_path, text_to_video):
    library = tmp_path / "library" / "my_video_models"
    library.mkdir(parents=True)
    shutil.copy(ROOT / "models" / MODEL, library / "elsewhere.safetensors")
    config = tmp_path / "extra_model_paths.yaml"
    (tmp_path / "library" / "motion").mkdir()
    (tmp_path / "library" / "motion" / "AnimateLCM_sd15_t2v.ckpt").write_bytes(b"listed by its name alone")
    folders = {"videolcm": "my_video_models", "animatediff_models": "motion"}
    config.write_text(json.dumps({"mine": {"base_path": str(tmp_path / "library"), **folders}}))
    server = tmp_comfy(arguments=("--extra-model-paths-config", str(config)))
    assert "elsewhere.safetensors" in choices(server)
    assert "AnimateLCM_sd15_t2v.ckpt" in choices(server, "VideoLCMMotionLoader")
    set_checkpoint(text_to_video, "elsewhere.safetensors")
    result = server.queue(quick(text_to_video))
    assert result.ok, result.errors


def test_clone_in_an_existing_comfyui_under_another_name(tmp_path, text_to_video):
    tree = shutil.copytree(setup.host_tree(), tmp_path / "ComfyUI")
    copy_of_this_pack(tree / "custom_nodes" / "my-video.nodes 2")
    with comfy_server.ComfyServer(tree, setup.venv_python(), tree, arguments=("--cpu",)) as server:
        assert "IMPORT FAILED" not in server.log()
        assert any(Path(choice).name == MODEL for choice in choices(server))
        result = server.queue(quick(text_to_video))
        assert result.ok, result.errors
        assert server.path(result.videos[0]).is_relative_to(tree / "output")
