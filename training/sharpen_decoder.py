"""Moved: ``python -m training.mini.decoder``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.sharpen_decoder")
