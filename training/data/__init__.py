"""Corpora: the rendered world of captioned clips and its caches."""
