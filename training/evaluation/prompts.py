"""What an evaluation asks for: texts, from a file of the user's or from the held-out shards of a corpus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One text, and what else judges know of it.

    Attributes:
        text: as it is given to the text encoder.
        extra: labels, such as those of a corpus's shard.
    """

    text: str
    extra: Mapping[str, str] = field(default_factory=dict)


def of_corpus(corpus: Corpus) -> list[Prompt]:
    """The held-out shards' captions with their labels, in the corpus's order.

    Raises:
        ValueError: nothing is held out.
    """
    found = [Prompt(text=corpus.shards[i].caption, extra=corpus.shards[i].labels) for i in corpus.held_out]
    if not found:
        raise ValueError(f"{corpus.folder} holds nothing out of training; give prompts of your own: --prompts FILE.")
    return found


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file: text with one a line, or JSON with a list of texts or of ``{"text": ..., more labels}``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no prompts.
    """
    allowed = 'a text file with a prompt a line, or JSON: ["a dog runs", {"text": "a cat sleeps", "place": "indoors"}]'
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            prompts = [_prompt(entry) for entry in json.loads(content)]
        else:
            prompts = [Prompt(text=line.strip()) for line in content.splitlines() if line.strip()]
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the prompts of {path} cannot be read ({type(error).__name__}: {error}); allowed: {allowed}."
        ) from error
    if not prompts:
        raise ValueError(f"{path} holds no prompt; allowed: {allowed}.")
    return prompts


def _prompt(entry: Any) -> Prompt:
    if isinstance(entry, str):
        return Prompt(text=entry)
    labels = {str(k): str(v) for k, v in entry.items() if k not in ("text", "prompt")}
    text = entry.get("text", entry.get("prompt"))
    if not isinstance(text, str):
        raise ValueError(f"{entry!r} has no text")
    return Prompt(text=text, extra=labels)


def in_turn(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """``count`` prompts, each equally often; the i-th is the same for every count."""
    return [prompts[i % len(prompts)] for i in range(count)]
