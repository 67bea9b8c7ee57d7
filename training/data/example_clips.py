"""Moved: ``python -m training.mini.example_clips``."""

from ..moved import run_moved

if __name__ == "__main__":
    run_moved("training.data.example_clips")
