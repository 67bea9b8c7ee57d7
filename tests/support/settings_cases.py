"""Metadata of checkpoints for tests: what released shapes are, partly labelled files, and values that are refused."""

from __future__ import annotations

VCOMPOSER = ("depth", "masked", "sketch", "motion", "image", "local_image", "single_sketch")

# Changes to the released text-to-video shape, and what such a file without metadata is: family, prediction, zero
# terminal SNR, student or teacher (None: either), width and height.
RELEASED: dict[str, tuple[dict, tuple]] = {
    "t2v": ({}, ("tf-t2v", "v", True, None, 448, 256)),
    "tft2v_t2v": ({"conditions": ("image",)}, ("tf-t2v", "v", True, "teacher", 448, 256)),
    "vcomposer": ({"conditions": VCOMPOSER}, ("videocomposer", "v", True, None, 448, 256)),
    "first videocomposer": (
        {"conditions": VCOMPOSER, "num_image_tokens": 1},
        ("videocomposer", "eps", False, "teacher", 256, 256),
    ),
    "t2vbase": ({"concat_channels": 0}, ("modelscope", "eps", False, "teacher", 256, 256)),
}

# Entries of a partly labelled file, and what they decide about every shape; what they do not is the shape's.
PARTLY: dict[str, tuple[dict[str, str], dict]] = {
    "nothing": ({}, {}),
    "head_dim": ({"head_dim": "64"}, {}),
    "eps": ({"prediction": "eps"}, {"prediction": "eps", "zero_terminal_snr": False, "sampling": "teacher"}),
    "v": ({"prediction": "v"}, {"prediction": "v", "zero_terminal_snr": True}),
    "x_0": ({"prediction": "x_0"}, {"prediction": "x_0"}),
    "eps on zero snr": (
        {"prediction": "eps", "zero_terminal_snr": "true"},
        {"prediction": "eps", "zero_terminal_snr": True, "sampling": "teacher"},
    ),
    "v on plain": (
        {"prediction": "v", "zero_terminal_snr": "false"},
        {"prediction": "v", "zero_terminal_snr": False},
    ),
    "zero snr": ({"zero_terminal_snr": "true"}, {"prediction": "v", "zero_terminal_snr": True}),
    "plain": ({"zero_terminal_snr": "false"}, {"zero_terminal_snr": False}),
    "lcm": ({"sampling": "lcm"}, {"sampling": "lcm"}),
    "teacher": ({"sampling": "teacher"}, {"sampling": "teacher"}),
    "eps student": (
        {"prediction": "eps", "sampling": "lcm"},
        {"prediction": "eps", "zero_terminal_snr": False, "sampling": "lcm"},
    ),
    "grid": ({"original_steps": "100", "timestep_scaling": "4"}, {"original_steps": 100, "timestep_scaling": 4.0}),
    "linear": ({"beta_schedule": "linear"}, {"beta_schedule": "linear"}),
    "image to video": ({"beta_end": "0.014"}, {"beta_end": 0.014}),
    "clips": (
        {"width": "320", "height": "192", "frames": "24", "fps": "7.5"},
        {"width": 320, "height": 192, "frames": 24, "fps": 7.5},
    ),
    "mini": (
        {"family": "videolcm-mini"},
        {"family": "videolcm-mini", "width": 64, "height": 64, "dropout": 0.0, "latent_scale": 1.0},
    ),
}

# Spellings that mean one value.
SPELLED: list[tuple[str, str, object]] = [
    *(("zero_terminal_snr", text, True) for text in ("true", "True", "TRUE", "1", "yes", "Yes", "on", " true ")),
    *(("zero_terminal_snr", text, False) for text in ("false", "False", "0", "no", "OFF", "\tfalse\n")),
    *(("sampling", text, "lcm") for text in ("lcm", "LCM", "Lcm", " lcm")),
    *(("sampling", text, "teacher") for text in ("teacher", "Teacher", "TEACHER")),
    *(("prediction", text, "eps") for text in ("eps", "EPS", "Eps ")),
    ("prediction", "V", "v"),
    ("prediction", "X_0", "x_0"),
    ("beta_schedule", "Scaled_Linear", "scaled_linear"),
    ("group_norm", " Video", "video"),
    ("original_steps", "+50", 50),
    ("timestep_scaling", "10", 10.0),
    ("timestep_scaling", "1e1", 10.0),
    ("timestep_scaling", ".5", 0.5),
    ("fps", "8.0", 8),
    ("latent_rgb_bias", "[0, 1.5, -2]", (0, 1.5, -2)),
    ("w_range", "[5, 15.0]", (5, 15.0)),
    ("method", " mcm ", "mcm"),
    ("text_config", '{"hidden_size": 64, "unknown": [1]}', {"hidden_size": 64, "unknown": [1]}),
]

_BAD_NUMBERS = ("", "nan", "NaN", "inf", "-inf", "Infinity", "-1", "1e999", "ten", "1,5", "1_0", "0x10", "None", "[10]")
_BAD_WHOLES = ("", "0", "-1", "1.5", "50.0", "1e2", "nan", "fifty", "5_0", "٥٠", "true", "9" * 5000, "1" * 18)
_ROW = "[0.1, 0.2, 0.3]"
HOSTILE: list[tuple[str, str]] = [
    *(("timestep_scaling", text) for text in (*_BAD_NUMBERS, "0", "0.0", "1e-300", "1e300", "1001")),
    *(("original_steps", text) for text in (*_BAD_WHOLES, "1001")),
    *((name, text) for name in ("width", "height", "frames") for text in _BAD_WHOLES),
    *(("width", text) for text in ("7", "16385")),
    *(("fps", text) for text in (*_BAD_NUMBERS, "0", "1001")),
    *((name, text) for name in ("w", "cfg", "latent_scale") for text in ("nan", "inf", "-2", "1e999", "two")),
    *(("steps", text) for text in ("0", "1001", "four", "nan")),
    *(("dropout", text) for text in ("1", "-0.1", "nan", "all")),
    *(("head_dim", text) for text in ("0", "-64", "sixty", "64.5")),
    *(("format", text) for text in ("0", "2", "one", "1.0")),
    *(("zero_terminal_snr", text) for text in ("", "maybe", "2", "yess", "None", "true false", "10", "t" * 9999)),
    *(("sampling", text) for text in ("", "euler", "l c m", "student", "lcm,teacher", "\x00lcm", "lcm" * 9999)),
    *(("prediction", text) for text in ("", "flow", "score", "v_prediction", "epsilon", "x0", "\n\x1b[31m")),
    *(("beta_end", text) for text in ("", "0", "0.0001", "-0.012", "0.51", "nan", "inf", "0,012")),
    *(("group_norm", text) for text in ("", "frames", "both", "1")),
    *(("beta_schedule", text) for text in ("", "cosine", "squaredcos_cap_v2", "linear linear")),
    *(("conditions", text) for text in ("depth", "{}", "[1]", '["a", null]', "[[]]", "null", "[" * 5000)),
    *(("family", text) for text in ("x" * 101,)),
    *(("sampler", text) for text in ("x" * 101,)),
    *(("method", text) for text in ("x" * 101,)),
    *(("w_range", text) for text in ("", "5", "[5]", "[15, 5]", "[5, 15, 25]", "[NaN, 5]", "[5, 1e999]", '["a", "b"]')),
    *(
        ("latent_rgb_factors", text)
        for text in (
            "",
            "null",
            "1",
            "{}",
            "[]",
            _ROW,
            f"[{_ROW}, {_ROW}, {_ROW}]",
            f"[{', '.join([_ROW] * 5)}]",
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2]]",
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, NaN]]",
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, Infinity]]",
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, 1e999]]",
            f'[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, "0.3"]]',
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, true]]",
            f"[{_ROW}, {_ROW}, {_ROW}, [0.1, 0.2, null]]",
            f"[{_ROW}, {_ROW}, {_ROW}, 3]",
            f"[{_ROW}, {_ROW}, {_ROW}, {_ROW}",
            "[" * 100_000,
            f"[{'9' * 5000}]",
        )
    ),
    *(
        ("latent_rgb_bias", text)
        for text in ("", "0", "[0, 0]", "[0, 0, 0, 0]", "[NaN, 0, 0]", "[[0, 0, 0]]", "[-Infinity, 0, 0]", "{}")
    ),
    *(
        ("text_config", text)
        for text in (
            "",
            "[]",
            "1",
            "{",
            "{hidden_size: 64}",
            '{"hidden_size": -64}',
            '{"hidden_size": 1e9}',
            '{"hidden_size": 1000000000}',
            '{"hidden_size": "64"}',
            '{"hidden_size": 64, "num_attention_heads": 0}',
            '{"hidden_size": 64, "num_attention_heads": 5}',
            '{"num_hidden_layers": 1000000}',
            '{"num_hidden_layers": true}',
            '{"hidden_act": "os.system"}',
            '{"hidden_act": ["gelu"]}',
            '{"layer_norm_eps": NaN}',
            '{"eos_token_id": -1}',
            '{"a":' * 20_000,
            '{"a": "' + "x" * 200_000 + '"}',
        )
    ),
]
