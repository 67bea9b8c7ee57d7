"""Finding a folder's files: links followed, and names that people and programs wrote in their own ways.

A table made on another system names the same file in other bytes: accents composed or taken apart (NFC, NFD), other
capitals, backslashes, ``./`` in front, ``%20`` for a space. `FileNames` compares as loosely as needed and no looser.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath


def find_files(folder: Path) -> tuple[list[str], dict[str, str]]:
    """All files below a folder, without hidden ones; linked folders are followed.

    A folder that several links name, or that contains itself, is walked once: under its own name where it lies in
    ``folder``, else under the first link's.

    Returns:
        the files relative to ``folder`` with "/", sorted, and those that cannot be used with the reason.

    Raises:
        OSError: a folder cannot be read.
    """
    seen, found, unusable = {os.path.realpath(folder)}, list[str](), dict[str, str]()
    links, waiting = list[PurePosixPath](), [PurePosixPath()]
    while waiting or links:
        # Links wait until all real folders were walked: a file keeps the name that its own place gives it.
        if not waiting:
            link = links.pop(0)
            real = os.path.realpath(folder / link)
            if real in seen:
                continue
            seen.add(real)
            waiting.append(link)
        place = waiting.pop()
        for entry in _entries(folder / place):
            name = place / entry.name
            if entry.name.startswith("."):
                continue
            if not _printable(entry.name):
                unusable[name.as_posix().encode(errors="backslashreplace").decode()] = "its name is no UTF-8: rename it"
            elif os.path.isdir(folder / name):  # not the entry's own test, which raises at a link to itself
                if entry.is_symlink():
                    links.append(name)
                else:
                    seen.add(os.path.realpath(folder / name))
                    waiting.append(name)
            elif os.path.isfile(folder / name):
                found.append(name.as_posix())
            elif entry.is_symlink():
                unusable[name.as_posix()] = f"broken link: {os.readlink(folder / name)} is not there"
    return sorted(found), unusable


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _printable(name: str) -> bool:
    """Whether a name is text: bytes of another encoding reach Python as lone surrogates, which no report can show."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def canonical(name: str) -> str:
    """A name in the one form that is compared: composed accents, "/", nothing superfluous."""
    return PurePosixPath(unicodedata.normalize("NFC", name.strip()).replace("\\", "/")).as_posix()


def caseless(name: str) -> str:
    """`canonical` without capitals."""
    return unicodedata.normalize("NFC", canonical(name).casefold())


def unescaped(name: str) -> str:
    """A name with ``%20`` and its kin read as what they stand for; as it is where that is no UTF-8."""
    parts = re.split("((?:%[0-9A-Fa-f]{2})+)", name)
    try:
        parts[1::2] = [bytes.fromhex(part.replace("%", "")).decode("utf-8") for part in parts[1::2]]
    except UnicodeDecodeError:
        return name
    return "".join(parts)


_FORMS: tuple[Callable[[str], str], ...] = (str, canonical, caseless)


class FileNames:
    """Files that can be found by names that somebody wrote down.

    Args:
        names: the files, relative to one folder, with "/".
        folder: that folder, for names that go through its links or give whole paths; None leaves the disk alone.
    """

    def __init__(self, names: Iterable[str], folder: Path | None = None) -> None:
        self.names, self.folder = tuple(names), folder
        self._forms: list[dict[str, list[str]]] = [defaultdict(list) for _ in _FORMS]
        self._stems: dict[str, list[str]] = defaultdict(list)
        self._real = {self._resolved(name): name for name in self.names} if folder is not None else {}
        for name in self.names:
            for form, known in zip(_FORMS, self._forms, strict=True):
                known[form(name)].append(name)
            self._stems[caseless(name).rpartition(".")[0]].append(name)

    def find(self, wanted: str, within: str = "") -> str | None:
        """The file that a name means, None where it means none.

        Tried in turn: the name as it is; in its one form; without capitals; the same with ``%20`` read as a space;
        with the folder's own name in front taken away; through links; without ending.

        Args:
            wanted: what stands in a table.
            within: folder of the table; names are relative to it, or to the whole.

        Raises:
            ValueError: it may be two files.
        """
        written = self._written(wanted, within)
        for name in written:
            if (found := self.called(name)) is not None:
                return found
        if self.folder is not None:
            for name in written:
                if (linked := self._real.get(self._resolved(canonical(name)))) is not None:
                    return linked
        for name in written:
            if stems := self._stems.get(caseless(name)):
                return self._one(stems, wanted)
        return None

    def called(self, name: str) -> str | None:
        """The file of this name, whatever its Unicode form and its capitals.

        Raises:
            ValueError: it may be two files.
        """
        for form, known in zip(_FORMS, self._forms, strict=True):
            if found := known.get(form(name)):
                return self._one(found, name)
        return None

    def _written(self, wanted: str, within: str) -> list[str]:
        """The names that a written one may stand for, the most literal first."""
        names = [f"{within}/{wanted}", wanted] if within else [wanted]
        if self.folder is not None:
            whole = canonical(wanted)
            for start in {str(self.folder.absolute()), str(self.folder.resolve()), self.folder.resolve().name}:
                if whole.startswith(front := canonical(start) + "/"):
                    names.append(whole[len(front) :])
        return list(dict.fromkeys([*names, *(unescaped(name) for name in names)]))

    def _resolved(self, name: str) -> str:
        """Where a file lies; its own name stays, since linked files are files of their own."""
        assert self.folder is not None
        path = self.folder / name
        try:
            return os.path.join(os.path.realpath(path.parent), path.name)
        except (OSError, ValueError):  # no name for this system
            return ""

    @staticmethod
    def _one(found: list[str], wanted: str) -> str:
        if len(found) > 1:
            raise ValueError(
                f"{wanted!r} may be {' or '.join(map(repr, sorted(found)[:3]))}; needed: a name that means one file. "
                "Write it exactly as the file is called, with its ending."
            )
        return found[0]
