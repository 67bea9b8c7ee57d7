"""Moved: ``python -m training.mini.recognizer``."""

from ..moved import run_moved

if __name__ == "__main__":
    run_moved("training.metrics.recognizer")
