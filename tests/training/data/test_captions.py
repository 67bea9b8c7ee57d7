"""Captions of folders and shards: where they may stand, how they may be written, what is told of those left out."""

import io
import json
import os
import tarfile
import unicodedata

import pytest
from own_clips import FOUR, add
from PIL import Image

from training.data import cache, captions
from training.data.batches import BatchOptions
from training.data.caption_files import CAPTION_COLUMNS, FILE_COLUMNS, rows_of
from training.data.captions import ENDINGS, TABLES, told_before
from training.data.clip_folder import ClipFolder
from training.data.file_names import FileNames, find_files
from training.data.opening import DataSpec, open_batches
from training.data.shards import ShardSet


def put(folder, **files):
    """Files by name; ``None`` is an image."""
    return put_all(folder, files)


def put_all(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.write_bytes(picture())
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def picture():
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "PNG")
    return data.getvalue()


def captions_of(folder, missing="error"):
    source = ClipFolder.scan(folder, FOUR, missing)
    return {clip.name: clip.caption for clip in source.clips}


def shard(path, samples):
    """A shard of images; each sample's texts by ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, texts in samples.items():
            add(archive, f"{key}.png", picture())
            for ending, content in texts.items():
                add(archive, key + ending, content if isinstance(content, bytes) else content.encode())
    return ShardSet.scan(str(path.parent), FOUR)


def table_text(ending, file="file", caption="caption", value="a horse"):
    row = {file: "a.png", caption: value}
    if ending == ".json":
        return json.dumps([row])
    if ending == ".jsonl":
        return json.dumps(row) + "\n"
    mark = "," if ending == ".csv" else "\t"
    return f"{file}{mark}{caption}\na.png{mark}{value}\n"


# Where captions stand


@pytest.mark.parametrize("name", [*TABLES, "Captions.CSV", "METADATA.JSONL", "in/captions.tsv"])
def test_every_name_of_a_table_is_read_whatever_its_capitals(tmp_path, name):
    put_all(tmp_path, {"a.png": None, name: table_text(os.path.splitext(name)[1].lower())})
    assert captions_of(tmp_path) == {"a.png": "a horse"}


@pytest.mark.parametrize("column", [*FILE_COLUMNS, "File Name", " FILE ", "File-Path"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv"])
def test_every_column_of_the_file_is_known(tmp_path, column, ending):
    put_all(tmp_path, {"a.png": None, "captions" + ending: table_text(ending, file=column)})
    assert captions_of(tmp_path) == {"a.png": "a horse"}


@pytest.mark.parametrize("column", [*CAPTION_COLUMNS, "Caption", " TEXT "])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".csv", ".tsv"])
def test_every_column_of_the_caption_is_known_and_shards_know_it_too(tmp_path, column, ending):
    put_all(tmp_path / "c", {"a.png": None, "captions" + ending: table_text(ending, caption=column)})
    assert captions_of(tmp_path / "c") == {"a.png": "a horse"}
    source = shard(tmp_path / "s" / "0.tar", {"a": {".json": json.dumps({column: "a horse"})}})
    assert source.caption(0) == "a horse"


@pytest.mark.parametrize("ending", [e for small in ENDINGS for e in (small, small.upper())])
def test_every_text_beside_a_clip_is_read_by_folders_and_shards(tmp_path, ending):
    text = json.dumps({"Prompt": "a horse"}) if ending.lower() == ".json" else "a horse\n"
    put_all(tmp_path / "c", {"Clip.png": None, "Clip" + ending: text})
    assert captions_of(tmp_path / "c") == {"Clip.png": "a horse"}
    assert shard(tmp_path / "s" / "0.tar", {"a": {ending: text}}).caption(0) == "a horse"


@pytest.mark.parametrize(
    "empty", ["", " \n", "\ufeff", "null", '{"caption": null, "text": " "}', '{"title": "x"}', "[]", "{"]
)
def test_the_first_place_that_has_a_caption_gives_it(tmp_path, empty):
    """In folders and shards alike: an empty or useless JSON leaves the text beside it its turn."""
    put_all(tmp_path / "c", {"a.png": None, "a.json": empty, "a.txt": "a horse"})
    assert captions_of(tmp_path / "c") == {"a.png": "a horse"}
    assert shard(tmp_path / "s" / "0.tar", {"a": {".json": empty, ".txt": "a horse"}}).caption(0) == "a horse"


def test_an_empty_column_leaves_the_next_its_turn(tmp_path):
    put_all(tmp_path, {"a.png": None, "captions.csv": "file,caption,text\na.png,,a horse\n"})
    assert captions_of(tmp_path) == {"a.png": "a horse"}
    put_all(tmp_path, {"captions.csv": "file_name,path,text\ngone.png,a.png,a horse\n"})
    assert captions_of(tmp_path) == {"a.png": "a horse"}


def test_places_come_in_one_order_and_what_differs_is_told(tmp_path):
    names = [f"a{e}" for e in ENDINGS] + list(TABLES)
    put_all(tmp_path, {"a.png": None})
    for name in names:
        ending = os.path.splitext(name)[1]
        text = table_text(ending, value=name) if name in TABLES else json.dumps(name) if ending == ".json" else name
        put_all(tmp_path, {name: text})
    for name in names:
        source = ClipFolder.scan(tmp_path, FOUR)
        assert source.caption(0) == name
        if name != names[-1]:
            assert f"a.png ({name}, {names[names.index(name) + 1]})" in told_before(source, "x")
        (tmp_path / name).unlink()


def test_a_table_fills_what_the_texts_beside_leave_open(tmp_path):
    put_all(tmp_path, {"a.png": None, "b.png": None, "a.txt": "one", "b.txt": "", "captions.json": '{"b.png": "two"}'})
    source = ClipFolder.scan(tmp_path, FOUR)
    assert [c.caption for c in source.clips] == ["one", "two"]
    assert "Captions: 1 beside them, 1 from captions.json." in told_before(source, "x")


def test_tables_that_are_none_do_no_harm_where_all_clips_have_captions(tmp_path):
    put_all(tmp_path, {"a.png": None, "a.txt": "one", "metadata.json": '{"fps": 8}', "labels.csv": "x,y\n"})
    told = told_before(ClipFolder.scan(tmp_path, FOUR), "x")
    assert (
        "Not read: metadata.json: " in told and "Not read: labels.csv: tables are called captions or metadata" in told
    )
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ValueError, match="caption of fps"):
        ClipFolder.scan(tmp_path, FOUR)
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"Write each one's text into NAME.txt.*metadata.*Not read: labels.csv"):
        ClipFolder.scan(tmp_path, FOUR)


# How they are written


@pytest.mark.parametrize("missing", ["error", "skip"])
@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("captions.csv", "file,caption\na.png,a horse, running\nb.png,fine\n"),
        ("captions.csv", "file;caption\na.png;a horse; running\nb.png;fine\n"),
        ("captions.tsv", "file\tcaption\na.png\ta horse\trunning\nb.png\tfine\n"),
        ("metadata.csv", "caption,file\na horse, running,a.png\nfine,b.png\n"),
    ],
)
def test_a_delimiter_without_quotes_is_an_error_that_names_the_line(tmp_path, table, text, missing):
    put_all(tmp_path, {"a.png": None, "b.png": None, table: text})
    with pytest.raises(ValueError, match=f"{table}, line 2 has 3 fields and the first line 2.*needs quotes"):
        ClipFolder.scan(tmp_path, FOUR, missing)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("captions.csv", 'file,caption\na.png,"a ""horse"", running; fast"\n'),
        ("captions.csv", 'file;caption\na.png;"a ""horse"", running; fast"\n'),
        ("captions.csv", 'file\tcaption\na.png\ta "horse", running; fast\n'),
        ("captions.csv", 'caption|file\r\na "horse", running; fast|a.png\r\n\r\n'),
        ("captions.tsv", 'file\tcaption\na.png\t"a ""horse"", running; fast"\n'),
        ("captions.tsv", 'file,caption\na.png,"a ""horse"", running; fast",\n'),
        ("captions.csv", '\n"file", caption \na.png, "a ""horse"",\nrunning; fast"\n'),
    ],
)
def test_delimiters_and_quotes(tmp_path, table, text):
    put_all(tmp_path, {"a.png": None, table: text})
    assert captions_of(tmp_path) == {"a.png": 'a "horse", running; fast'}


def test_a_quote_that_never_ends_is_an_error(tmp_path):
    put_all(tmp_path, {"a.png": None, "b.png": None, "captions.csv": 'file,caption\na.png,"a horse\nb.png,fine\n'})
    with pytest.raises(ValueError, match="captions.csv cannot be read: unexpected end of data"):
        ClipFolder.scan(tmp_path, FOUR)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "captions.csv", "captions.json", "captions.jsonl"])
def test_unicode_is_read_in_every_form_that_says_what_it_is(tmp_path, encoding, name):
    ending = os.path.splitext(name)[1]
    text = {".txt": "naïve ☃", ".json": '{"text": "naïve ☃"}'}.get(ending, "") if name[0] == "a" else ""
    text = text or table_text(ending, value="naïve ☃").encode().decode(
        "unicode_escape" if "json" in ending else "utf-8"
    )
    put_all(tmp_path, {"a.png": None, name: text.encode(encoding)})
    assert captions_of(tmp_path) == {"a.png": "naïve ☃"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("file,caption\na.png,naïve\n".encode("latin-1"), "is not UTF-8 .byte 0xef at 21; it may be Latin-1"),
        ("file,caption\na.png,naive\n".encode("utf-16-le"), "zero bytes: it may be UTF-16 without its mark"),
        (b"\xff\xfe\x00", "is not UTF-8 .its first bytes say UTF-16"),
    ],
)
@pytest.mark.parametrize("name", ["captions.csv", "a.txt"])
def test_other_encodings_are_named(tmp_path, name, data, message):
    put_all(tmp_path, {"a.png": None, name: data})
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        ClipFolder.scan(tmp_path, FOUR)
    with pytest.raises(ValueError, match="no usable sample.*\n.*no caption: .txt is not|zero bytes"):
        shard(tmp_path / "s" / "0.tar", {"a": {".txt": data}})


@pytest.mark.parametrize(
    ("value", "caption", "several"),
    [
        (["", "one", "two"], "one", True),
        (["one"], "one", False),
        ({"caption": "one", "fps": 8}, "one", False),
        ({"caption": None, "description": "one"}, "one", False),
        ({"caption": 7, "text": "one"}, "one", False),
        ([{"text": "one"}, {"text": "two"}], "one", True),
        ("one\n two\t\u200b", "one two", False),
    ],
)
def test_json_values(tmp_path, value, caption, several):
    put_all(tmp_path / "c", {"a.png": None, "captions.json": json.dumps({"a.png": value})})
    source = ClipFolder.scan(tmp_path / "c", FOUR)
    assert source.caption(0) == caption
    assert ("Several: 1 clips" in told_before(source, "x")) == several
    assert shard(tmp_path / "s" / "0.tar", {"a": {".json": json.dumps(value)}}).caption(0) == caption


@pytest.mark.parametrize("value", [3, True, 1.5, {"caption": 3}, [3]])
def test_values_that_are_no_captions_are_named(tmp_path, value):
    put_all(tmp_path / "c", {"a.png": None, "captions.json": json.dumps({"a.png": value})})
    with pytest.raises(ValueError, match="captions.json: the caption of a.png is .*; allowed: a text"):
        ClipFolder.scan(tmp_path / "c", FOUR)
    with pytest.raises(ValueError, match="no caption: .json is .*; allowed: a text"):
        shard(tmp_path / "s" / "0.tar", {"a": {".json": json.dumps(value)}})


@pytest.mark.parametrize("value", [None, "", " ", [], [None], {}, {"caption": None}])
def test_empty_values_count_as_no_caption(tmp_path, value):
    put_all(tmp_path, {"a.png": None, "b.png": None, "captions.json": json.dumps({"a.png": value, "b.png": "b"})})
    with pytest.raises(ValueError, match="1 of 2 clips .* have no caption: a.png"):
        ClipFolder.scan(tmp_path, FOUR)
    assert captions_of(tmp_path, "skip") == {"b.png": "b"}


def test_a_file_in_two_rows(tmp_path):
    put_all(tmp_path, {"a.png": None, "captions.csv": "file,caption\na.png,\nA.PNG,one\n./a.png,one\n"})
    assert captions_of(tmp_path) == {"a.png": "one"}
    put_all(tmp_path, {"captions.csv": "file,caption\na.png,one\nA.PNG,two\n"})
    with pytest.raises(ValueError, match="captions.csv, line 3: it has a.png twice"):
        ClipFolder.scan(tmp_path, FOUR)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.json", '{"a.png": "x"}\n{"b.png": "y"}', r"Extra data.*called .jsonl"),
        ("captions.jsonl", '{"file": "a.png", "caption": "x"}\n{oops', "captions.jsonl, line 2 cannot be read"),
        ("captions.jsonl", '"a.png"', "line 1 has a row 'a.png'; allowed: objects"),
        ("captions.csv", "a.png,a horse\n", "has the columns a.png, a horse; needed: one of file_name"),
        ("captions.json", "3", "captions.json is 3. Allowed"),
        ("captions.csv", "", "captions.csv has the columns ; needed"),
    ],
)
def test_tables_of_another_form_say_what_is_allowed(tmp_path, name, text, message):
    put_all(tmp_path, {"a.png": None, name: text})
    with pytest.raises(ValueError, match=message):
        ClipFolder.scan(tmp_path, FOUR)


def test_lines_are_those_of_the_file():
    rows = rows_of(b'\nfile,caption\na,"1\n2"\n\nb,3\n', "t.csv")
    assert [r.where for r in rows] == ["t.csv, line 3", "t.csv, line 6"]


# Names


COMPOSED = unicodedata.normalize("NFC", "é ü.png")
APART = unicodedata.normalize("NFD", "é ü.png")


@pytest.mark.parametrize(
    ("file", "written"),
    [
        (COMPOSED, APART),
        (APART, COMPOSED),
        (APART, COMPOSED.upper()),
        ("Clip_01.PNG", "clip_01.png"),
        ("in/a.png", r"in\a.png"),
        ("in/a.png", r".\In\A.PNG"),
        ("in/a.png", "./in//a.png"),
        ("in/a.png", "clips/in/a.png"),
        ("my clip.png", "my%20clip.png"),
        ("caf\u00e9 \u2603.png", "caf%C3%A9%20%E2%98%83.PNG"),
        ("a%E9b.png", "a%e9b.png"),
        ("100%.png", "100%.png"),
        ("100%25.png", "100%25.png"),
        ("a%20b.png", "a%20b.png"),
        ("clip_01.png", "clip_01"),
        ("12.png", 12),
        (" a.png", " a.png"),
        ("a.png", " a.png "),
        ("Straße.png", "STRASSE.png"),
    ],
)
def test_names_are_found_however_they_were_written(tmp_path, file, written):
    folder = put_all(tmp_path / "clips", {file: None, "captions.json": json.dumps([{"file": written, "text": "one"}])})
    assert captions_of(folder) == {file: "one"}


def test_whole_paths_into_the_folder_are_found(tmp_path):
    put_all(tmp_path, {"in/a.png": None, "captions.json": json.dumps({str(tmp_path / "in" / "a.png"): "one"})})
    assert captions_of(tmp_path) == {"in/a.png": "one"}


def test_literal_names_come_before_those_that_are_alike(tmp_path):
    files = {"a.png": None, "A.png": None, "a%20b.png": None, "a b.png": None, COMPOSED: None, APART: None}
    names = list(files)
    put_all(tmp_path, files | {"captions.json": json.dumps({n: n.encode().hex() for n in names})})
    if len(os.listdir(tmp_path)) < 7:
        pytest.skip("this file system knows no such pairs of names")
    assert captions_of(tmp_path) == {n: n.encode().hex() for n in names}
    (tmp_path / "captions.json").write_text('{"A.PNG": "one"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"'A.PNG' may be 'A.png' or 'a.png'; needed"):
        ClipFolder.scan(tmp_path, FOUR)


@pytest.mark.parametrize(("clip", "text"), [(COMPOSED, APART), (APART, COMPOSED), ("Clip.png", "clip.png")])
def test_texts_beside_are_found_by_such_names_too_in_folders_and_shards(tmp_path, clip, text):
    put_all(tmp_path / "c", {clip: None, text.replace(".png", ".txt"): "one"})
    assert captions_of(tmp_path / "c") == {clip: "one"}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, clip, picture())
        add(archive, "./" + text.replace(".png", ".txt"), b"one")
    source = ShardSet.scan(str(tmp_path), FOUR)
    assert [source.caption(i) for i in range(len(source))] == ["one"] and not source.left_out.reasons


def test_a_text_of_the_whole_name_tells_clips_of_one_stem_apart(tmp_path):
    put_all(tmp_path, {"a.png": None, "a.jpg": None, "a.png.txt": "one", "a.jpg.txt": "two"})
    assert captions_of(tmp_path) == {"a.jpg": "two", "a.png": "one"}


def test_names_find_nothing_where_nothing_is_meant():
    names = FileNames(["a.png", "in/b.png"])
    assert names.find("b.png") is None and names.find("c") is None and names.find("b.png", "in") == "in/b.png"


# Folders


def test_linked_folders_and_files_are_followed_and_cycles_end(tmp_path):
    elsewhere = put_all(tmp_path / "elsewhere", {"b.png": None, "b.txt": "two", "deep/c.png": None, "deep/c.txt": "3"})
    folder = put_all(tmp_path / "clips", {"z/a.png": None, "z/a.txt": "one"})
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "back").symlink_to(folder, target_is_directory=True)
    (folder / "z" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "a_link").symlink_to(folder / "z", target_is_directory=True)
    (folder / "self").symlink_to(folder / "self")
    (folder / "same.png").symlink_to(elsewhere / "b.png")
    put_all(folder, {"captions.json": '{"same.png": "again"}'})
    assert captions_of(folder) == {"z/a.png": "one", "link/b.png": "two", "link/deep/c.png": "3", "same.png": "again"}


def test_a_table_may_name_a_clip_through_a_link(tmp_path):
    folder = put_all(tmp_path / "clips", {"real/a.png": None, "captions.json": '{"link/a.png": "one"}'})
    (folder / "link").symlink_to(folder / "real", target_is_directory=True)
    assert captions_of(folder) == {"real/a.png": "one"}


def test_broken_links_and_names_that_are_no_text_are_named(tmp_path):
    put_all(tmp_path, {"a.png": None, "a.txt": "one"})
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder").symlink_to(tmp_path / "nowhere")
    expected = {"gone.png"}
    try:
        with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.png"), "wb") as file:
            file.write(picture())
        expected.add("caf\\udce9.png")
    except OSError:  # a file system that takes UTF-8 alone
        pass
    source = ClipFolder.scan(tmp_path, FOUR)
    assert set(source.left_out.reasons) == expected and "broken link" in source.left_out.reasons["gone.png"]
    told = told_before(source, "x")
    assert "Left out: 1 (broken link): gone.png" in told and "Not read: folder: broken link" in told
    assert all("nowhere" not in name for name in find_files(tmp_path)[0])


# What is told


def test_what_is_left_out_is_counted_and_named(tmp_path):
    clips = {f"{n}.png": None for n in range(8)}
    rows = {f"{n}.png": "a horse " * (80 if n == 1 else 20) for n in range(2)} | {"gone.png": "x", "notes.tiff": "y"}
    put_all(tmp_path, clips | {"captions.json": json.dumps(rows), "notes.tiff": b"", "7.txt": ""})
    told = told_before(ClipFolder.scan(tmp_path, FOUR, "skip"), "clips")
    assert "clips: 2 samples with captions." in told
    assert "Left out: 6 (no caption): 2.png, 3.png, 4.png, 5.png, 6.png and 1 more." in told
    assert "Left out: 2 (row that names no clip): gone.png (there is no such clip; captions.json)" in told
    assert "notes.tiff (its ending is not that of a clip; captions.json)" in told
    assert "Cut: 1 of 2 captions are longer than 77 tokens" in told and "1.png (162)" in told


def test_rows_of_which_none_names_a_clip_are_shown_in_the_error(tmp_path):
    put_all(tmp_path, {"a.png": None, "captions.csv": "file,caption\nhttps://x/b.png,one\nc.png,two\n"})
    with pytest.raises(ValueError, match=r"2 rows name no clip: https://x/b.png .there is no such clip; .*line 2"):
        ClipFolder.scan(tmp_path, FOUR)


def test_shards_tell_the_same(tmp_path):
    source = shard(
        tmp_path / "0.tar",
        {"a": {".txt": "a horse " * 80}, "b": {".json": "{}"}, "c": {}, "d": {".json": '{"text": "short"}'}},
    )
    told = told_before(source, "shards")
    assert "shards: 2 samples with captions." in told and "Left out: 2 (no caption): 0.tar/b (.json has none)" in told
    assert "Cut: 1 of 2 captions" in told and "0.tar/a (162)" in told


def test_counting_ends_where_it_would_take_long(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "COUNTED", 1)
    put_all(tmp_path, {"a.png": None, "b.png": None, "a.txt": "a horse " * 80, "b.txt": "a horse " * 80})
    assert "Cut: 1 of the first 1 of 2 captions" in told_before(ClipFolder.scan(tmp_path, FOUR), "x")


def test_it_is_told_before_anything_is_encoded(tmp_path, encoders, capsys, monkeypatch):
    put_all(tmp_path / "c", {"a.png": None, "b.png": None, "a.txt": "one"})

    def stop(*_, **__):
        raise RuntimeError("encoding began")

    monkeypatch.setattr(cache, "chosen_encoders", stop)
    with pytest.raises(RuntimeError, match="encoding began"):
        cache.main(["--clips", str(tmp_path / "c"), "--missing-captions", "skip", "--out", str(tmp_path / "o")])
    assert "Left out: 1 (no caption): b.png." in capsys.readouterr().out
    spec = DataSpec(clips=tmp_path / "c", sampling=FOUR, missing_captions="skip")
    options = BatchOptions(ratio=captions_ratio(), ids=True)
    batches = open_batches(spec, options, autoencoder=encoders.autoencoder)
    assert "Left out: 1 (no caption): b.png." in capsys.readouterr().out
    assert "1 of 2 samples were left out" in batches.left_out()
    open_batches(spec, options, autoencoder=encoders.autoencoder, quiet=True)
    assert capsys.readouterr().out == ""


def captions_ratio():
    from training.data.mixing import Ratio

    return Ratio(images=1, clips=0)
