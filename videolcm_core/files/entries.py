"""What an entry of a checkpoint's metadata may be: how its text is read, which values are allowed, how it is written.

One line of `ENTRIES` for each entry; readers, writers and everything that takes the same value from elsewhere (a node's
input, a recipe) ask here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..diffusion.prediction import PREDICTIONS
from ..diffusion.schedule import BETA_SCHEDULES, BETA_START, NUM_TIMESTEPS
from .errors import SettingsError, shorten

PREFIX: Final = "videolcm."
FORMAT: Final = 1
SAMPLINGS: Final = ("lcm", "teacher")
GROUP_NORMS: Final = ("frame", "video")
"""Over what the group norm of a motion module takes its statistics: each frame alone, or all frames of a video."""
_SPELLED: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_MOST_JSON: Final = 100_000
_ACTIVATIONS: Final = ("quick_gelu", "gelu", "gelu_pytorch_tanh")  # those that the host's CLIP has
_TEXT_SIZES: Final = {
    "hidden_size": 16_384,
    "num_hidden_layers": 256,
    "num_attention_heads": 1024,
    "intermediate_size": 131_072,
    "max_position_embeddings": 16_384,
    "vocab_size": 10_000_000,
}


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        read: From its text, stripped of white space, to a value; ValueError where that cannot be.
        holds: Whether a value is allowed.
        allowed: Which are, in words.
        hint: What to do, or what is usual.
    """

    read: Callable[[str], Any]
    holds: Callable[[Any], bool]
    allowed: str
    hint: str = "Write an allowed value into the file's metadata, or export the file again."


def read_entry(name: str, text: object, file: str) -> Any:
    """The value of an entry.

    Args:
        name: Without ``videolcm.``; one of `ENTRIES`.
        text: Of the file.
        file: Its name, for messages.

    Raises:
        SettingsError: If it cannot be read or is not allowed; the text has file, value, what is allowed and a hint.
    """
    entry, said = ENTRIES[name], str(text)
    try:
        value = entry.read(said.strip())
        if entry.holds(value):
            return value
    except (ValueError, OverflowError, RecursionError):
        pass
    raise SettingsError(file, name, f"{PREFIX}{name} {shorten(ascii(said), 120)}", entry.allowed, entry.hint)


def check_value(name: str, value: Any) -> None:
    """Refuse a value that its entry does not allow.

    Raises:
        ValueError: Naming the value and what is allowed.
    """
    entry = ENTRIES[name]
    if not entry.holds(value):
        raise ValueError(f"{name} is {shorten(ascii(value), 120)}; allowed: {entry.allowed}. {entry.hint}")


def write_entry(value: Any) -> str:
    """The text of a value: words as they are, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(dict(value) if isinstance(value, Mapping) else value)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # NaN is not


def _read_number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return float(text)


def _read_whole(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _read_rate(text: str) -> float:
    number = _read_number(text)
    return int(number) if number.is_integer() else number


def _read_flag(text: str) -> bool:
    if text.lower() not in _SPELLED:
        raise ValueError(text)
    return _SPELLED[text.lower()]


def _read_json(text: str) -> Any:
    if len(text) > _MOST_JSON:
        raise ValueError("too long")
    return json.loads(text)


def _read_row(text: str) -> tuple[Any, ...]:
    value = _read_json(text)
    if not isinstance(value, list):
        raise ValueError(text)
    return tuple(tuple(row) if isinstance(row, list) else row for row in value)


def _is_row(value: Any, length: int) -> bool:
    return isinstance(value, tuple) and len(value) == length and all(_is_number(v, -1e4, 1e4) for v in value)


def _is_range(value: Any) -> bool:
    return (isinstance(value, tuple) and len(value) == 2 and all(_is_number(v, -1, 1000) for v in value)) and value[
        0
    ] <= value[1]


def _is_text_config(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    sizes_hold = all(_is_whole(value[n], 1, most) for n, most in _TEXT_SIZES.items() if n in value)
    width, heads = value.get("hidden_size", 0), value.get("num_attention_heads", 1)
    return (
        sizes_hold
        and width % heads == 0
        and value.get("hidden_act", "quick_gelu") in _ACTIVATIONS
        and _is_number(value.get("layer_norm_eps", 1e-5), 1e-12, 1)
        and _is_whole(value.get("eos_token_id", 0), 0, 10_000_000)
    )


def _choice(names: tuple[str, ...], hint: str) -> Entry:
    return Entry(str.lower, lambda value: value in names, ", ".join(names), hint)


def _whole(low: int, high: int, hint: str = Entry.hint) -> Entry:
    return Entry(_read_whole, lambda value: _is_whole(value, low, high), f"{low} to {high}", hint)


def _number(low: float, high: float, hint: str = Entry.hint, words: str = "") -> Entry:
    allowed = words or f"a number from {low:g} to {high:g}"
    return Entry(_read_number, lambda value: _is_number(value, low, high), allowed, hint)


def _words(most: int) -> Entry:
    return Entry(str, lambda value: isinstance(value, str) and len(value) <= most, f"at most {most} characters")


def _names(most: int) -> Entry:
    def holds(value: Any) -> bool:
        return (
            isinstance(value, tuple) and len(value) <= most and all(isinstance(v, str) and len(v) < 100 for v in value)
        )

    return Entry(_read_row, holds, "a JSON list of names")


_SIZE_HINT: Final = "It is the size of the videos that the network was trained on."
ENTRIES: Final[dict[str, Entry]] = {
    "format": _whole(1, FORMAT, "The file was written by a newer version; update ComfyUI-VideoLCM."),
    "family": _words(100),
    "prediction": _choice(PREDICTIONS, "Say what the network predicts; VideoLCM predicts v, ModelScope eps."),
    "beta_schedule": _choice(BETA_SCHEDULES, "VideoLCM uses scaled_linear, AnimateLCM linear."),
    "beta_end": _number(BETA_START, 0.5, "Stable Diffusion uses 0.012, AnimateLCM's image-to-video 0.014."),
    "zero_terminal_snr": Entry(_read_flag, lambda v: isinstance(v, bool), "true, false (also 1, 0, yes, no, on, off)"),
    "sampling": _choice(SAMPLINGS, "Say lcm for a consistency model, teacher for a plain diffusion model."),
    "original_steps": _whole(1, NUM_TIMESTEPS, "VideoLCM was distilled on 50."),
    "timestep_scaling": _number(0.01, 1000, "VideoLCM uses 10, MCM uses 4."),
    "w": _number(-1, 1000),
    "w_range": Entry(_read_row, _is_range, "a JSON list of two numbers from -1 to 1000, the smaller first"),
    "cfg": _number(0, 1000),
    "steps": _whole(1, NUM_TIMESTEPS),
    "sampler": _words(100),
    "scheduler": _words(100),
    "conditions": _names(100),
    "width": _whole(8, 16_384, _SIZE_HINT),
    "height": _whole(8, 16_384, _SIZE_HINT),
    "frames": _whole(1, 100_000, "It is the length of the videos that the network was trained on."),
    "fps": Entry(
        _read_rate,
        lambda value: _is_number(value, 1e-3, 1000),
        "a number from 0.001 to 1000",
        "It is the rate of the videos that the network was trained on.",
    ),
    "group_norm": _choice(
        GROUP_NORMS, "Of motion modules: frame for AnimateDiff and AnimateLCM, video for diffusers and MCM."
    ),
    "head_dim": _whole(1, 16_384, "It is the width of one head of attention; 64 in the authors' networks."),
    "dropout": _number(0, 0.999),
    "latent_scale": _number(1e-6, 1e6),
    "text_config": Entry(
        _read_json, _is_text_config, "a JSON object with the sizes of a CLIP config.json", "Export the file again."
    ),
    "latent_rgb_factors": Entry(
        _read_row,
        lambda value: isinstance(value, tuple) and len(value) == 4 and all(_is_row(row, 3) for row in value),
        "a JSON list of four rows of three finite numbers",
        "Remove the entry, for the preview colours of Stable Diffusion.",
    ),
    "latent_rgb_bias": Entry(
        _read_row,
        lambda value: _is_row(value, 3),
        "a JSON list of three finite numbers",
        "Remove the entry, for a bias of zero.",
    ),
    "base": _words(4096),
    "method": _words(100),
    "recipe": _words(10_000_000),
}
"""By name without ``videolcm.``; the names and their meanings are public and never change."""
