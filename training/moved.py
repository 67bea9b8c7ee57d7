"""Commands that moved: the old names still work, and say the new ones."""

from __future__ import annotations

import runpy
import sys
from typing import Final

MOVED: Final = {
    "training.make_mini": "training.mini.make",
    "training.pretrain": "training.mini.pretrain",
    "training.pretrain_clips": "training.mini.pretrain_clips",
    "training.train_autoencoder": "training.mini.autoencoder",
    "training.sharpen_decoder": "training.mini.decoder",
    "training.train_depth": "training.mini.depth",
    "training.compositional": "training.mini.compositional",
    "training.distill_clips": "training.mini.distill_clips",
    "training.evaluate_control": "training.mini.control",
    "training.report": "training.mini.report",
    "training.data.corpus": "training.mini.corpus",
    "training.data.example_clips": "training.mini.example_clips",
    "training.metrics.recognizer": "training.mini.recognizer",
    "training.metrics.retrieval": "training.mini.retrieval",
}
"""New name of each command by its old one."""


def run_moved(old: str) -> None:
    """Run the command that has another name now, and say so."""
    new = MOVED[old]
    print(f"python -m {old} is called python -m {new} now; the old name goes on to work.", file=sys.stderr)
    runpy.run_module(new, run_name="__main__", alter_sys=True)
