"""Evaluation at any scale: cells (network, sampler, steps), sampled and measured by worker processes, resumable."""
