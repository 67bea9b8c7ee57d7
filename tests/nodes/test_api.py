"""Bad files over the API: the run ends with a clear error and no output, and the server lives on."""

import contextlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import setup
from prompts import quick, set_checkpoint

EMBEDDED = setup.ROOT / "models" / "videolcm-mini.safetensors"


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def truncated(path):
    path.write_bytes(EMBEDDED.read_bytes()[:100_000])


def empty(path):
    path.touch()


def with_code(path):
    torch.save({"state_dict": Evil()}, path)


def stable_diffusion(path):
    keys = ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]
    save_file({key: torch.zeros(320, 768) for key in keys}, path)


@contextlib.contextmanager
def model_file(server, name, write):
    folder = server.base / "models" / "videolcm"
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write(path)
    try:
        yield path
    finally:
        path.unlink()
        if created:
            folder.rmdir()


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("cut.safetensors", truncated, "truncated"),
        ("nothing.safetensors", empty, "empty file"),
        ("code.pth", with_code, "code or Python objects"),
        ("sd15.safetensors", stable_diffusion, "Stable Diffusion 1.x"),
    ],
)
def test_bad_file_is_a_clear_error(comfy, text_to_video, name, write, words):
    before = comfy.outputs()
    with model_file(comfy, name, write):
        bad = quick(text_to_video)
        set_checkpoint(bad, name)
        result = comfy.queue(bad)
    assert result.status == "error"
    message = " ".join(result.errors)
    assert name in message and words in message and "allowed" in message
    assert comfy.outputs() == before and not result.files
    assert comfy.queue(quick(text_to_video)).ok
