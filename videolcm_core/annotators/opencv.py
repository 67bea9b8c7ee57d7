"""OpenCV, where nothing else serves: edges, blurs and optical flow."""

from __future__ import annotations

from typing import Any


def opencv(what: str) -> Any:
    """The module ``cv2``, imported when it is first needed.

    Args:
        what: for the message, such as "the sketch".

    Raises:
        ImportError: it is not there or cannot be loaded; the message says what to do. Two packages of OpenCV in one
            Python break each other, so none is asked for where one is.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"{what} needs OpenCV (cv2), which cannot be imported here ({error}); allowed: any one of its packages. "
            "Where there is none, install opencv-python-headless into the Python that runs ComfyUI (the command is in "
            "README, Into your ComfyUI) and restart ComfyUI; where there are two of them, remove one."
        ) from error
    return cv2
