"""Moved: ``python -m training.mini.compositional``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.compositional")
