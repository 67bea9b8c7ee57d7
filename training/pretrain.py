"""Moved: ``python -m training.mini.pretrain``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.pretrain")
