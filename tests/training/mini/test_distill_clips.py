"""Own clips, from video files to a file that loads."""

import numpy as np
import pytest
import torch

from training.data import cache
from training.mini import captions, distill_clips, example_clips
from training.mini import family as mini
from videolcm_core.networks.autoencoder import TinyAutoencoder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary)
    torch.nn.init.normal_(model.unet.out[2].weight, std=0.02)
    colors = {"latent_rgb_factors": [[0.0] * 3] * 4, "latent_rgb_bias": [0.0] * 3}
    mini.export(path, model.unet, model.text, TinyAutoencoder(), "teacher", **colors)
    return path


def test_own_clips_to_a_student_that_loads(tmp_path, teacher):
    folder, made, out = tmp_path / "clips", tmp_path / "cache", tmp_path / "student.pt"
    folder.mkdir()
    for index in range(2):
        frames = np.random.default_rng(index).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)
        example_clips.write_video(frames, folder / f"{index}.mp4", "noise")
        (folder / f"{index}.txt").write_text("a horse spins around on grass")
    size = ["--frames", "4", "--width", "16", "--height", "16"]
    cache.main(["--clips", str(folder), "--start", str(teacher), "--out", str(made), *size])
    common = ["--cache", str(made), "--teacher", str(teacher), "--out", str(out), "--batch", "2", "--image-batch", "2"]
    exported = tmp_path / "student.safetensors"
    distill_clips.main([*common, "--steps", "2"])
    distill_clips.main([*common, "--steps", "4", "--export", str(exported)])
    assert torch.load(out, weights_only=True)["step"] == 4
    student, parent = mini.load_all_in_one(exported), mini.load_all_in_one(teacher)
    moved = [k for k, v in student.unet.state_dict().items() if not torch.equal(v, parent.unet.state_dict()[k])]
    assert "input_blocks.0.0.weight" in moved
    assert all(torch.equal(v, parent.text.state_dict()[k]) for k, v in student.text.state_dict().items())
    other = tmp_path / "other.safetensors"
    torch.manual_seed(5)
    mini.export(other, parent.unet, parent.text, TinyAutoencoder(), "teacher")
    with pytest.raises(ValueError, match="other encoders"):
        distill_clips.main([*common, "--steps", "5", "--teacher", str(other)])
