"""Moved: ``python -m training.mini.autoencoder``."""

from .moved import run_moved

if __name__ == "__main__":
    run_moved("training.train_autoencoder")
