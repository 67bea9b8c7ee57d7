"""Worlds that the embedded families are trained on."""
