"""The CLIP of all-in-one checkpoints: the host's own CLIP text model, in the sizes of the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ...videolcm_core.files.errors import CheckpointError, name_some
from ...videolcm_core.files.loading import check_real, check_weights
from ...videolcm_core.networks.text_encoder import TextConfig, TextEncoder
from .. import host

CLIP_TOKENS: Final = 49408
CLIP_LENGTH: Final = 77
START_TOKEN: Final = 49406  # it and the end's come after all words
HOST_PREFIX: Final = "clip_l."
TEXT_MODEL: Final = "transformer.text_model."
TOKENS_KEY: Final = f"{TEXT_MODEL}embeddings.token_embedding.weight"
POSITIONS_KEY: Final = f"{TEXT_MODEL}embeddings.position_embedding.weight"
_OPTIONAL: Final = ("vocabulary", "logit_scale", "transformer.text_projection.weight")
_LAYER: Final = re.compile(rf"{re.escape(TEXT_MODEL)}encoder\.layers\.(\d{{1,6}})\.")
# Of the largest CLIP, twice: the token table alone is 49408 rows of this width, whatever the file holds of it.
_MOST: Final = {
    "hidden_size": 2560,
    "num_hidden_layers": 64,
    "intermediate_size": 10_240,
}
_WHOLE: Final = (torch.int64, torch.int32, torch.int16, torch.uint8)
_NEXT: Final = "Only CLIP text encoders are supported; get the file again, or use Load CLIP."


def text_target(config: Mapping[str, Any], known: frozenset[int] | None = None) -> Any:
    """The host's description of a text encoder of these sizes.

    Args:
        config: In the names of a CLIP ``config.json``.
        known: Token ids that the encoder has a row of its own for; None where it knows all of CLIP's.
    """
    width = int(config["hidden_size"])

    class Encoder(host.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class ClipModel(host.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Encoder)

    class WordTokenizer(host.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory, embedding_size=width, tokenizer_data=tokenizer_data or {}
            )

    class Tokenizer(host.SD1Tokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] | None = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, tokenizer=WordTokenizer
            )

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Any:
            tokens = super().tokenize_with_weights(text, return_word_ids, **kwargs)
            if known is not None:
                host.tell(*unknown_note(tokens, self.clip_l.inv_vocab, known))
            return tokens

    return host.ClipTarget(Tokenizer, ClipModel)


def unknown_note(tokens: Mapping[str, Any], words: Mapping[int, str], known: frozenset[int]) -> list[str]:
    """A sentence about words of a prompt that a small text encoder never saw, and those that it knows.

    Args:
        tokens: The host's, ``(id, weight, ...)`` by encoder and row.
        words: CLIP's pieces of words by id; those that end a word end in ``</w>``.
        known: Ids that the encoder knows.
    """
    unknown: list[str] = []
    word, new = "", False
    for row in next(iter(tokens.values())):
        for token, *_ in row:
            if not isinstance(token, int) or token >= START_TOKEN:
                continue
            piece = words.get(token, "")
            word, new = word + piece.removesuffix("</w>"), new or token not in known
            if piece.endswith("</w>"):
                if new and word not in unknown:
                    unknown.append(word)
                word, new = "", False
    if not unknown:
        return []
    whole = sorted(words[i].removesuffix("</w>") for i in known if words.get(i, "").endswith("</w>"))
    return [
        f"this model's text encoder does not know {', '.join(unknown[:10])}: such words are ignored. It knows: "
        f"{', '.join(word for word in whole if word.isalpha())}."
    ]


def check_text(tensors: Mapping[str, Tensor], prefix: str, name: str) -> None:
    """Refuse a text encoder of other shapes than a CLIP's, before anything of its sizes is allocated.

    Args:
        tensors: Keys after ``cond_stage_model.``, with or without the host's own prefix.
        prefix: Before them in the file, for messages.
        name: File name, for messages.

    Raises:
        CheckpointError: Naming the first tensor that is missing, unexpected, of another shape or no real number.
    """
    given = {key.removeprefix(HOST_PREFIX): value for key, value in tensors.items()}
    layers = {int(match[1]) for key in given if (match := _LAYER.match(key))}
    sizes = {
        "hidden_size": _length(given, TOKENS_KEY, 1, prefix, name),
        "max_position_embeddings": _length(given, POSITIONS_KEY, 0, prefix, name),
        "intermediate_size": _length(given, f"{TEXT_MODEL}encoder.layers.0.mlp.fc1.weight", 0, prefix, name),
        "num_hidden_layers": len(layers),
    }
    too_large = [f"{size} {sizes[size]}" for size, most in _MOST.items() if sizes[size] > most]
    if too_large:
        most = ", ".join(f"{size} {most}" for size, most in _MOST.items())
        raise CheckpointError(name, f"a text encoder of {too_large[0]}", f"at most {most}", _NEXT)
    if sizes["max_position_embeddings"] != CLIP_LENGTH:
        got = f"a text encoder of {sizes['max_position_embeddings']} positions"
        raise CheckpointError(name, got, f"{CLIP_LENGTH}, the length of every prompt", _NEXT)
    check_real({prefix + TOKENS_KEY: given[TOKENS_KEY]}, name)
    words = given.get("vocabulary")
    if words is not None and (words.ndim != 1 or words.dtype not in _WHOLE):
        got = f"{prefix}vocabulary of shape {list(words.shape)[:4]} and type {words.dtype}"
        raise CheckpointError(name, got, "a list of whole numbers", _NEXT)
    config = TextConfig(
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        intermediate_size=sizes["intermediate_size"],
    )
    with torch.device("meta"):
        network = TextEncoder(torch.zeros(0, dtype=torch.int32), config)
    expected = {key: value for key, value in network.state_dict().items() if key != "vocabulary"}
    expected[TOKENS_KEY] = given[TOKENS_KEY]  # its rows are checked with the vocabulary
    weights = {prefix + key: value for key, value in given.items() if key in expected or key not in _OPTIONAL}
    check_weights(weights, {prefix + key: value for key, value in expected.items()}, name)


def _length(given: Mapping[str, Tensor], key: str, axis: int, prefix: str, name: str) -> int:
    """Length of an axis of a matrix that shows a size."""
    value = given.get(key)
    if value is None or value.ndim != 2 or 0 in value.shape:
        got = f"no {prefix}{key} among {name_some(sorted(given), 3) or 'nothing'}"
        if value is not None:
            got = f"{prefix}{key} of shape {list(value.shape)[:8]}"
        raise CheckpointError(name, got, "the matrices of a CLIP text encoder", _NEXT)
    return value.shape[axis]


def text_state_dict(state_dict: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Text encoder tensors in the host's key names, with the token table at full size.

    Args:
        state_dict: Keys after ``cond_stage_model.``, with or without the host's own prefix.
        name: File name, for messages.

    Raises:
        CheckpointError: If the token table does not fit its vocabulary.
    """
    tensors = {key.removeprefix(HOST_PREFIX): value for key, value in state_dict.items()}
    vocabulary = tensors.pop("vocabulary", None)
    table = tensors[TOKENS_KEY]
    if vocabulary is not None:
        tensors[TOKENS_KEY] = _full_table(table, vocabulary, name)
    elif table.shape[0] != CLIP_TOKENS:
        got = f"a token table of {table.shape[0]} rows without a vocabulary"
        allowed = f"{CLIP_TOKENS} rows, or a `vocabulary` that names them"
        raise CheckpointError(name, got, allowed, "Export the checkpoint again.")
    # The host's CLIP has a projection that nothing here uses; left out, it would be unset memory in saved files.
    tensors.setdefault("transformer.text_projection.weight", torch.eye(table.shape[1]))
    return {f"{HOST_PREFIX}{key}": value for key, value in tensors.items()}


def _full_table(table: Tensor, vocabulary: Tensor, name: str) -> Tensor:
    ids = vocabulary.long()
    if table.shape[0] != len(ids) + 1 or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < CLIP_TOKENS):
        got = f"a token table of {table.shape[0]} rows for a vocabulary of {len(ids)}"
        allowed = f"one row more than the vocabulary, ids below {CLIP_TOKENS}"
        raise CheckpointError(name, got, allowed, "Export the checkpoint again.")
    # Row 0 is the word the encoder does not know.
    full = table[:1].repeat(CLIP_TOKENS, 1)
    full[ids] = table[1:]
    return full


def text_config(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Sizes of the encoder: from the metadata, else from the tensors' shapes.

    Args:
        state_dict: Of `text_state_dict`.
        config: Of the metadata, or None. Heads cannot be seen in shapes: without metadata they are 64 wide, as in
            every CLIP.

    Raises:
        ValueError: If the heads do not divide the width.
    """
    tokens, positions = (state_dict[f"{HOST_PREFIX}{key}"] for key in (TOKENS_KEY, POSITIONS_KEY))
    layers = {key.split(".encoder.layers.")[1].split(".")[0] for key in state_dict if ".encoder.layers." in key}
    width = tokens.shape[1]
    heads = (config or {}).get("num_attention_heads", max(1, width // 64))
    if width % heads:
        raise ValueError(f"a text encoder {width} wide with {heads} heads (videolcm.text_config)")
    feed_forward = state_dict[f"{HOST_PREFIX}{TEXT_MODEL}encoder.layers.0.mlp.fc1.weight"]
    return {
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
        "eos_token_id": 49407,
        "layer_norm_eps": 1e-5,
        "model_type": "clip_text_model",
        **(config or {}),
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "intermediate_size": feed_forward.shape[0],
        "max_position_embeddings": positions.shape[0],
        "vocab_size": CLIP_TOKENS,
    }
