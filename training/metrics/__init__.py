"""Measures of generated video: Frechet video distance and agreement with the prompt."""
