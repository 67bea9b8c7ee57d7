"""Settings written beside the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from ..diffusion.prediction import PREDICTIONS
from .errors import CheckpointError

log = logging.getLogger(__name__)

PREDICTION_KEY: Final = "videolcm.prediction"
DEFAULT_PREDICTION: Final = "v"


def read_prediction(
    metadata: Mapping[str, str] | None, override: str | None = None, file: str = "this checkpoint"
) -> str:
    """What a network predicts: the override, else the file's metadata, else "v" with a line in the log.

    VideoLCM and TF-T2V predict v, the original ModelScope eps; their files have the same keys and do not say.

    Args:
        metadata: Of the file.
        override: One of `prediction.PREDICTIONS`; wins over the file.
        file: Its name, for messages.

    Raises:
        CheckpointError: If the file names an unknown prediction type.
        ValueError: If the override is unknown.
    """
    allowed = ", ".join(PREDICTIONS)
    if override is not None:
        if override not in PREDICTIONS:
            raise ValueError(f"prediction is {override!r}; allowed: {allowed}. Choose one of these.")
        return override
    found = (metadata or {}).get(PREDICTION_KEY)
    if found is None:
        log.info("%s does not say what it predicts; taking %r. Override it for eps networks.", file, DEFAULT_PREDICTION)
        return DEFAULT_PREDICTION
    if found not in PREDICTIONS:
        raise CheckpointError(file, f"{PREDICTION_KEY} {found!r}", allowed, "Override the prediction type.")
    return found
