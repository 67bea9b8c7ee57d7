"""A folder of clips and images with captions."""

import json

import pytest
from own_clips import FOUR, make_folder, rng, write_clip

from training.data.clip_folder import ClipFolder


def test_a_folder_gives_clips_images_and_captions(tmp_path):
    folder = ClipFolder.scan(make_folder(tmp_path / "c", 2, 2), FOUR)
    samples = [folder.read(i, rng()) for i in range(len(folder))]
    assert [s.caption for s in samples] == ["clip 0", "clip 1", "image 0", "image 1"]
    assert [tuple(s.values.shape) for s in samples] == [(4, 16, 16, 3)] * 2 + [(1, 16, 16, 3)] * 2
    assert len(folder.only("video")) == len(folder.only("image")) == 2
    assert folder.only("image").read(1, rng()).values[0, 0, 0].tolist() == [20, 0, 0]


@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("captions.json", '{"a.mp4": "one", "in/b.mp4": "two, with \\" and ☃"}'),
        ("captions.json", '[{"file": "a.mp4", "caption": "one"}, {"file": "in/b.mp4", "text": "two, with \\" and ☃"}]'),
        ("captions.csv", '\ufefffile_name,caption,more\na.mp4,one,1\n"in\\b.mp4","two, with "" and ☃",2\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.mp4", "text": "one"}\n\n{"path": "in/b.mp4", "text": "two, with \\" and ☃"}',
        ),
    ],
)
def test_tables_of_captions(tmp_path, table, content):
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "a.mp4", 4)
    write_clip(tmp_path / "in" / "b.mp4", 4)
    (tmp_path / table).write_text(content, encoding="utf-8")
    folder = ClipFolder.scan(tmp_path, FOUR)
    assert [(c.name, c.caption) for c in folder.clips] == [("a.mp4", "one"), ("in/b.mp4", 'two, with " and ☃')]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no clip and no image"),
        ({"a.mp4": None, "b.mp4": None}, "2 of 2 clips in .* have no caption: a.mp4, b.mp4"),
        ({"a.mp4": None, "b.mp4": None, "a.txt": "A"}, "1 of 2 clips .* have no caption: b.mp4.*--missing-captions"),
        ({"a.mp4": None, "a.txt": " \n"}, "1 of 1 clips .* have no caption"),
        ({"a.mp4": None, "a.mkv": None, "a.txt": "A"}, "both a.mkv and a.mp4"),
        ({"a.mp4": None, "captions.json": '{"a.mp4": "A", "a.mp4": "B"}'}, "a.mp4 twice"),
        ({"a.mp4": None, "captions.csv": "file,text\na.mp4,A\na.mp4,B\n"}, "a.mp4 twice"),
        ({"a.mp4": None, "captions.csv": "clip,words\na.mp4,A\n"}, "columns clip, words; needed"),
        ({"a.mp4": None, "captions.json": "{"}, "cannot be read"),
        ({"a.mp4": None, "captions.json": '["a.mp4"]'}, "a row 'a.mp4'; allowed: objects"),
        ({"a.mp4": None, "captions.json": '{"a.mp4": 3}'}, "caption of a.mp4 is 3; allowed: a text"),
        ({"a.mp4": None, "a.txt": "", "captions.json": "{}"}, "no caption: a.mp4 .a.txt has none.*captions.json"),
        ({"a.mp4": None, "a.txt": b"\xff\xfe\x00"}, "is not UTF-8"),
    ],
)
def test_unclear_folders_are_refused(tmp_path, files, message):
    for name, content in files.items():
        data = content if isinstance(content, bytes) else (content or "").encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        ClipFolder.scan(tmp_path, FOUR)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        ClipFolder.scan(tmp_path / "nowhere", FOUR)


def test_clips_without_caption_can_be_left_out_and_are_named(tmp_path):
    make_folder(tmp_path, 2)
    write_clip(tmp_path / "silent.mp4", 8)
    folder = ClipFolder.scan(tmp_path, FOUR, missing="skip")
    assert len(folder) == 2 and folder.left_out.reasons == {"silent.mp4": "no caption"}
    table = {"clip_00.mp4": "a", "clip_01.mp4": "b", "silent.mp4": "c", "gone.mp4": "d"}
    for text in tmp_path.glob("*.txt"):
        text.unlink()
    (tmp_path / "captions.json").write_text(json.dumps(table))
    assert "no such clip" in ClipFolder.scan(tmp_path, FOUR).left_out.reasons["gone.mp4"]
