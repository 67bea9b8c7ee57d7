"""Maths and networks of latent consistency video models.

Depends on torch, einops and safetensors only. Everything here speaks of variance-preserving
coefficients ``alpha_t``, ``sigma_t`` and integer timesteps ``t``; no host and no trainer is known.
"""
