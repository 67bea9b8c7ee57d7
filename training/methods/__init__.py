"""One file per paper: a batch in, a loss for each sample out."""
