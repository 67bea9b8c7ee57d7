"""One folder a family of checkpoints: how it is recognised, and its keys."""
