"""Moved: ``python -m training.mini.make``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.make_mini")
