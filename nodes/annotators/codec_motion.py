"""The motion vectors that a video encoder finds, as the authors' motion condition has them.

The authors re-encode a clip as MPEG-4 and read the vectors back (VideoComposer's ``datasets.py``, lines 150-153). Here
the same happens in memory, through PyAV, which comes with ComfyUI.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

CODEC: Final = "mpeg4"
LARGEST: Final = 8176
"""Pixels a side, of whole blocks, that MPEG-4 can write."""
RATES: Final = (1, 240)
"""Frames per second that are told to the encoder; MPEG-4 has no clock for extreme ones, and the vectors do not depend
on it."""
BLOCK: Final = 16
"""Pixels of a macroblock's side; the clip's border is repeated up to a multiple of it."""
# Fine quantisation, so that vectors follow the picture and not the encoder's errors; only the first frame, and cuts,
# stand alone (by default the encoder would also restart every 12 frames, and those frames would have no motion).
_OPTIONS: Final = {"qmin": "2", "qmax": "4", "g": "600", "bf": "0"}


def codec_motion(
    frames: Tensor, fps: float = 8.0, fill: bool = False, done: Callable[[int], None] | None = None
) -> Tensor:
    """Displacement since the frame before, from MPEG-4 motion vectors.

    Args:
        frames: ``[F, H, W, 3]`` in [0, 1].
        fps: Of the encoded clip.
        fill: Spread each vector over its block. Off, as for the authors: it is at the block's centre alone, and the
            pixels around are zero.
        done: Told after each frame how many are done.

    Returns:
        float32 ``[F, 2, H, W]`` on the CPU, in pixels (halves of a pixel), x to the right and y down; zero in the first
        frame, in frames that the encoder drew anew and in blocks without a vector.

    Raises:
        ValueError: If the frames are larger than the codec can write.
    """
    height, width = frames.shape[1:3]
    if max(height, width) > LARGEST:
        raise ValueError(
            f"The frames are {width}x{height}; allowed: at most {LARGEST} pixels a side for codec vectors. Make "
            f"them smaller with Prepare Condition Frames, or choose optical flow."
        )
    file = _encode(frames, fps, done)
    motion = torch.zeros(len(frames), 2, height, width)
    for index, vectors in enumerate(_decoded_vectors(file)):
        if vectors is not None and index < len(motion):
            motion[index] = torch.from_numpy(_placed(vectors, height, width, fill))
    return motion


def _encode(frames: Tensor, fps: float, done: Callable[[int], None] | None) -> io.BytesIO:
    import av

    file = io.BytesIO()
    height, width = frames.shape[1:3]
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream(CODEC, rate=min(max(RATES[0], round(fps)), RATES[1]), options=dict(_OPTIONS))
        stream.width, stream.height, stream.pix_fmt = width + -width % BLOCK, height + -height % BLOCK, "yuv420p"
        for index, frame in enumerate(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_padded(frame), format="rgb24")))
            if done is not None:
                done(index + 1)
        container.mux(stream.encode())
    file.seek(0)
    return file


def _padded(frame: Tensor) -> np.ndarray:
    """uint8 ``[H, W, 3]`` of whole blocks."""
    pixels = (frame.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    return np.pad(pixels, ((0, -pixels.shape[0] % BLOCK), (0, -pixels.shape[1] % BLOCK), (0, 0)), mode="edge")


def _decoded_vectors(file: io.BytesIO) -> list[np.ndarray | None]:
    """One table of vectors per frame; None where the encoder used none."""
    import av

    with av.open(file, "r") as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.options = {"flags2": "+export_mvs"}
        tables = []
        for frame in container.decode(stream):
            found: Any = frame.side_data.get("MOTION_VECTORS")
            tables.append(None if found is None else found.to_ndarray())
        return tables


def _placed(vectors: np.ndarray, height: int, width: int, fill: bool) -> np.ndarray:
    """A table of vectors as a picture ``[2, H, W]``.

    The encoder's vector points from a block to where its content was in the frame named by ``source`` (-1 is the one
    before), in units of ``1 / motion_scale`` pixels: times ``source`` it is the way that the content came.
    """
    picture = np.zeros((2, height, width), np.float32)
    scale = vectors["motion_scale"].astype(np.float32)
    moved = np.stack([vectors["motion_x"], vectors["motion_y"]], 1) * (vectors["source"] / scale)[:, None]
    for vector, x, y, w, h in zip(moved, vectors["dst_x"], vectors["dst_y"], vectors["w"], vectors["h"], strict=True):
        x, y, half_w, half_h = int(x), int(y), int(w) // 2, int(h) // 2
        if fill:
            rows, columns = slice(max(0, y - half_h), y + half_h), slice(max(0, x - half_w), x + half_w)
            picture[:, rows, columns] = vector[:, None, None]
        elif 0 <= x < width and 0 <= y < height:
            picture[:, y, x] = vector
    return picture
