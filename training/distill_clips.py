"""Moved: ``python -m training.mini.distill_clips``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.distill_clips")
