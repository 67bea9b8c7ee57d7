"""Distil on your own cached clips: ``python -m training.mini.distill_clips --cache DIR --out FILE --export FILE``.

The same as ``python -m training.distill`` with the small recipe, its images and the embedded teacher. ``--cache`` is a
folder that ``python -m training.data.cache`` made of clips and images with captions, with the same teacher's encoders.
"""

from __future__ import annotations

import sys

from .. import distill
from ..engine.commands import run_command

DEFAULTS = (
    "--recipe",
    "mini",
    "--images",
    "1",
    "--steps",
    "1000",
    "--teacher",
    "models/videolcm-mini-teacher.safetensors",
)


def main(arguments: list[str] | None = None) -> None:
    """Command line: `distill.main` with other defaults."""
    distill.main([*DEFAULTS, *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    run_command(main)
