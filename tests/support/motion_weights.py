"""Weights of narrow motion modules, as files hold them."""

import re

from recipe import recipe_fill

from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork
from videolcm_core.networks.animatediff.positions import positional_encoding

NARROW = (32, 64, 96, 96)
BLOCK = "down_blocks.1.motion_modules.0.temporal_transformer"


def motion(**sizes):
    return recipe_fill(MotionNetwork(MotionConfig(**{"channels": NARROW, **sizes})), seed=3, gain=0.8).state_dict()


def with_tables(weights, frames):
    """As AnimateDiff's files: a table of positions in every attention."""
    tables = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"(.+\.attention_blocks\.\d)\.to_q\.weight", key):
            tables[f"{match[1]}.pos_encoder.pe"] = positional_encoding(frames, value.shape[1])[None]
    return {**weights, **tables}
