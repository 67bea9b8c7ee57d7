"""Moved: ``python -m training.mini.control``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.evaluate_control")
