"""Moved: ``python -m training.mini.pretrain_clips``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.pretrain_clips")
