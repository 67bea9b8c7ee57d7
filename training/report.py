"""Moved: ``python -m training.mini.report``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.report")
