"""What a file of captions says: its text in whatever Unicode it is written, and its rows as (file names, caption).

Accepted: JSON ``{file: caption}`` or a list of objects, JSON lines, CSV and TSV with a header. Columns are found by
name, whatever their capitals; the first one that has something counts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "file_path",
    "path",
    "video",
    "video_path",
    "image",
    "image_path",
    "clip",
)
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
_DELIMITERS = ",;\t|"
_MARKS = (  # the longer first: UTF-32's begins like UTF-16's
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_FORMS = (
    'Allowed: {"a.mp4": "caption"}, a list of {"file": "a.mp4", "caption": "..."} (one object a line in .jsonl), or a '
    "first line such as file,caption in .csv and .tsv."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        where: such as "captions.csv, line 3".
        files: what stands in the columns that may name the file.
        caption: on one line; "" where there is none.
        others: further captions of the same file, which are not used.
    """

    where: str
    files: tuple[str, ...]
    caption: str
    others: int = 0


def decoded(data: bytes) -> str:
    """Text of a file: UTF-8, or UTF-16 and UTF-32 where the first bytes say so.

    Raises:
        ValueError: another encoding; the message says which it may be.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding in ("utf-8", "utf-8-sig"):
            guess = f"byte {data[error.start]:#04x} at {error.start}; it may be Latin-1 or Windows-1252"
        else:
            guess = f"its first bytes say {encoding.upper()}, and then {error.reason} at {error.start}"
        raise ValueError(f"is not UTF-8 ({guess}). Save it again as UTF-8 text.") from error
    if "\0" in text:
        raise ValueError("has zero bytes: it may be UTF-16 without its mark. Save it again as UTF-8 text.")
    return text


def one_line(text: str) -> str:
    """A caption on one line, as the tokenizer reads it."""
    return " ".join(text.replace("\ufeff", " ").replace("\u200b", " ").split())


def caption_of(value: Any) -> tuple[str, int]:
    """The caption in a JSON value, and how many further ones there are.

    Args:
        value: a text, a list of texts, an object with one of `CAPTION_COLUMNS`, or null.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return "", 0
    if isinstance(value, str):
        return one_line(value), 0
    if isinstance(value, Pairs):
        return _of_columns(value)
    if isinstance(value, list):
        found = [caption for caption, _ in map(caption_of, value) if caption]
        return (found[0], len(found) - 1) if found else ("", 0)
    raise ValueError(f"is {value!r}; allowed: a text")


def caption_in(data: bytes, ending: str) -> tuple[str, int]:
    """The caption in the file beside a clip, and how many further ones there are; "" for none.

    Args:
        data: the file.
        ending: ".json", or that of a text, all of whose lines are the caption.

    Raises:
        ValueError: it cannot be read.
    """
    text = decoded(data)
    if ending != ".json":
        return one_line(text), 0
    try:
        parsed = json.loads(text, object_pairs_hook=Pairs)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    return caption_of(parsed)


def rows_of(data: bytes, name: str) -> list[Row]:
    """The rows of a table.

    Args:
        data: the file.
        name: how messages call it; its ending says what it is.

    Raises:
        ValueError: it cannot be read, or a row is not what it should be; the message names the line.
    """
    ending = name.rpartition(".")[2].lower()
    try:
        text = decoded(data)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    try:
        if ending in ("csv", "tsv"):
            return list(_csv_rows(text, name, tab=ending == "tsv"))
        if ending == "json":
            return list(_json_rows(json.loads(text, object_pairs_hook=Pairs), name))
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [_object_row(_json_line(line, name, n), f"{name}, line {n}") for n, line in lines]
    except (json.JSONDecodeError, csv.Error, RecursionError) as error:
        hint = " Several objects, one a line, are called .jsonl." if "Extra data" in str(error) else ""
        raise ValueError(f"{name} cannot be read: {error}.{hint} {_FORMS}") from error


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs: a dict would hide a file that is named twice."""


def _column(name: Any) -> str:
    return "_".join(str(name).replace("\ufeff", "").replace("-", " ").casefold().split())


def _values(pairs: Iterable[tuple[Any, Any]], columns: Sequence[str]) -> list[Any]:
    """What stands in the named columns, in the order of ``columns``."""
    named = [(_column(name), value) for name, value in pairs]
    return [value for column in columns for name, value in named if name == column]


def _of_columns(pairs: Pairs) -> tuple[str, int]:
    """The first column that has a caption; a value of another kind is an error only where none has."""
    wrong: ValueError | None = None
    for value in _values(pairs, CAPTION_COLUMNS):
        try:
            caption, others = caption_of(value)
        except ValueError as error:
            wrong = wrong or error
            continue
        if caption:
            return caption, others
    if wrong is not None:
        raise wrong
    return "", 0


def _json_line(line: str, name: str, number: int) -> Any:
    try:
        return json.loads(line, object_pairs_hook=Pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {number} cannot be read: {error}. {_FORMS}") from error


def _json_rows(parsed: Any, name: str) -> Iterator[Row]:
    if isinstance(parsed, Pairs):
        for file, value in parsed:
            yield _row((file,), value, name)
    elif isinstance(parsed, list):
        for number, value in enumerate(parsed, 1):
            yield _object_row(value, f"{name}, row {number}")
    else:
        raise ValueError(f"{name} is {parsed!r}. {_FORMS}")


def _object_row(value: Any, where: str) -> Row:
    """A row that is an object with a column for the file and one for the caption."""
    if not isinstance(value, Pairs):
        raise ValueError(f"{where} has a row {value!r}; allowed: objects with a file and a caption.")
    columns = {_column(name) for name, _ in value}
    if not columns & set(FILE_COLUMNS) or not columns & set(CAPTION_COLUMNS):
        raise ValueError(_wrong_columns(where, [name for name, _ in value]))
    files = tuple(str(f) for f in _values(value, FILE_COLUMNS) if isinstance(f, (str, int)) and str(f).strip())
    return _row(files, value, where)


def _row(files: tuple[str, ...], value: Any, where: str) -> Row:
    try:
        caption, others = caption_of(value)
    except ValueError as error:
        raise ValueError(f"{where}: the caption of {files[0] if files else 'a row'} {error}.") from error
    return Row(where=where, files=files, caption=caption, others=others)


def _wrong_columns(where: str, got: Sequence[Any]) -> str:
    return (
        f"{where} has the columns {', '.join(map(str, got))}; needed: one of {', '.join(FILE_COLUMNS)} and one of "
        f"{', '.join(CAPTION_COLUMNS)}, in a first line of .csv and .tsv."
    )


def _csv_rows(text: str, name: str, *, tab: bool) -> Iterator[Row]:
    """Rows of CSV or TSV; the delimiter is the one under which the header has the columns."""
    text = text.lstrip("\ufeff")
    header: list[str] = []
    delimiters = sorted(_DELIMITERS, key=lambda d: (d == "\t") != tab)
    for delimiter in delimiters:
        header = next(
            (r for r in csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True) if any(map(str.strip, r))),
            [],
        )
        columns = {_column(c) for c in header}
        if columns & set(FILE_COLUMNS) and columns & set(CAPTION_COLUMNS):
            break
    else:
        first = next(csv.reader(_lines(text), delimiter=delimiters[0]), [])
        raise ValueError(_wrong_columns(name, first))
    reader = csv.reader(_lines(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    began, headed = 0, False
    for fields in reader:
        line, began = began + 1, reader.line_num
        if not any(map(str.strip, fields)):
            continue
        if not headed:
            headed = True
            continue
        if len(fields) > len(header) and any(map(str.strip, fields[len(header) :])):
            raise ValueError(
                f"{name}, line {line} has {len(fields)} fields and the first line {len(header)} "
                f"({delimiter.join(header)}): got {fields!r}. A caption with {delimiter!r} in it needs quotes: "
                f'"{delimiter.join(fields[len(header) - 1 :])}".'
            )
        yield _object_row(
            Pairs((c, fields[i] if i < len(fields) else "") for i, c in enumerate(header)), f"{name}, line {line}"
        )


def _lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")
