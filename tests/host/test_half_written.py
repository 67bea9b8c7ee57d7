"""A file that a killed server left half-written is never handed out as a result."""

import struct

import pytest

import demo
import setup
from comfy_server import OutputFile, ServerError, check_whole
from prompts import quick

CLIP = next((setup.ROOT / "workflows" / "clips").glob("*.mp4"))
# What `kill -9` during Save Video leaves.
STUMP = (
    struct.pack(">I", 32) + b"ftypisom\0\0\2\0isomiso2avc1mp41" + struct.pack(">I", 8) + b"free" + bytes(4) + b"mdat"
)


def test_whole_files_pass():
    check_whole(CLIP.read_bytes(), CLIP.name)
    check_whole(b"x", "a.png")


@pytest.mark.parametrize("cut", ["stump", "empty", 8, 100, 0.5, 0.9, -1])
def test_parts_of_films_are_refused(cut):
    content = CLIP.read_bytes()
    if cut == "stump":
        content = STUMP
        assert len(content) == 48
    elif cut == "empty":
        content = b""
    else:
        content = content[: int(len(content) * cut) if isinstance(cut, float) else cut]
    with pytest.raises(ServerError, match=r"a\.mp4 (has \d+ bytes and was not written to its end|is empty): it is no"):
        check_whole(content, "a.mp4")


def test_a_stump_in_the_output_folder_is_not_fetched(comfy, text_to_video):
    """The next prompt writes its own file, under another number."""
    result = comfy.queue(quick(text_to_video))
    path = comfy.path(result.videos[0])
    assert len(comfy.fetch(result.videos[0])) == path.stat().st_size
    stump = path.with_name("stump_00001_.mp4")
    stump.write_bytes(STUMP)
    with pytest.raises(ServerError, match="has 48 bytes and was not written to its end"):
        comfy.fetch(OutputFile("1", stump.name, result.videos[0].subfolder, "output"))
    stump.unlink()


@pytest.mark.parametrize("content", [STUMP, b"", CLIP.read_bytes()[:3000], b"RIFF" * 100])
@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_the_demo_says_that_a_film_cannot_be_played(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(demo.DemoError, match=rf"{name} cannot be played .*Run the demo again"):
        demo.write_contact_sheet(tmp_path / name, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
