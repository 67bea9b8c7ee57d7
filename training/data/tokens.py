"""CLIP's byte-pair tokens, from the merge list in the package ``clip-anytorch``, with the ``tokenizers`` library."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib import metadata

import torch
from torch import Tensor

from videolcm_core.networks.text_encoder import END, START

LENGTH = 77
_MERGES = 49152 - 256 - 2


@lru_cache(maxsize=1)
def _tokenizer():
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    path = next(f for f in metadata.files("clip-anytorch") or [] if f.name == "bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_binary()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines)]
    alphabet = _byte_alphabet()
    words = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]
    vocabulary = {w: i for i, w in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_alphabet() -> list[str]:
    """The printable stand-in of each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = len([b for b in range(256) if b not in printable])
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(others)]


def tokenize(texts: list[str], pad: int = END) -> Tensor:
    """Texts to CLIP ids: start, words, end, padded with end; cut at 77.

    Args:
        texts: prompts.
        pad: id after the end: CLIP's is the end token, OpenCLIP's 0.

    Returns:
        long ``[B, 77]``.
    """
    out = torch.full((len(texts), LENGTH), pad, dtype=torch.long)
    for row, text in zip(out, texts, strict=True):
        ids = [START, *_tokenizer().encode(text).ids[: LENGTH - 2], END]
        row[: len(ids)] = torch.tensor(ids)
    return out


def token_counts(texts: list[str]) -> list[int]:
    """How many CLIP ids each text has, start and end included; beyond `LENGTH` its end is cut."""
    return [len(encoded.ids) + 2 for encoded in _tokenizer().encode_batch(texts)]


def vocabulary_of(texts: list[str]) -> Tensor:
    """Sorted CLIP ids that occur in the texts, start and end included."""
    return torch.unique(tokenize([*texts, ""]))
