"""A teacher on own clips, from video files to a file that a student can be distilled from."""

import av
import numpy as np
import torch

from training.data.tokens import tokenize
from training.mini import pretrain_clips
from training.teachers import load_teacher


def test_own_clips_to_a_teacher(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for n in range(2):
        with av.open(str(folder / f"{n}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for k in range(4):
                picture = np.full((32, 32, 3), 30 * k + n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        (folder / f"{n}.txt").write_text("a walrus waltzes")
    out, exported = tmp_path / "teacher.pt", tmp_path / "teacher.safetensors"
    common = [
        "--clips",
        str(folder),
        "--cache",
        str(tmp_path / "cache"),
        "--out",
        str(out),
        "--tracker",
        "none",
        "--frames",
        "2",
        "--width",
        "16",
        "--height",
        "16",
        "--batch",
        "2",
        "--image-batch",
        "2",
        "--image-steps",
        "1",
    ]
    pretrain_clips.main([*common, "--steps", "2"])
    pretrain_clips.main([*common, "--steps", "4", "--export", str(exported)])
    assert torch.load(out, weights_only=True)["step"] == 4
    teacher = load_teacher(exported)
    words = tokenize(["a walrus waltzes"])
    assert (teacher.text.rows(words)[words < 49406] > 0).all()
    assert (teacher.settings.frames, teacher.settings.width, teacher.settings.sampling) == (2, 16, "teacher")
    assert teacher.text(words).shape == (1, 77, 128) and teacher.autoencoder is not None
