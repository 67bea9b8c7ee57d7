"""The networks of the extractor nodes: their files, and their place in the host's memory management."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from ...videolcm_core.annotators.frames import CHUNK
from ...videolcm_core.files.annotator_files import (
    MIDAS,
    MINI_DEPTH,
    PIDINET,
    SKETCH_SIMPLIFICATION,
    Annotator,
    load_annotator,
)
from .. import host
from ..model.unet import attention

FOLDER: Final = host.ANNOTATOR_FOLDER
DEPTH_NETWORKS: Final = (MINI_DEPTH, MIDAS)
# Activations of one call, in bytes per pixel and frame: the widest layers at full size, a few of them at once.
_BYTES_PER_PIXEL: Final = {MIDAS: 4000, MINI_DEPTH: 1000, PIDINET: 2000, SKETCH_SIMPLIFICATION: 1500}


def depth_files() -> list[str]:
    """Names of the depth networks: this pack's and the authors' first, even where their file is absent."""
    sketch = (PIDINET.file, SKETCH_SIMPLIFICATION.file)
    others = [name for name in host.model_files(FOLDER) if name not in sketch]
    return list(dict.fromkeys([*(network.file for network in DEPTH_NETWORKS), *others]))


def annotator_path(name: str) -> str:
    """Full path of an annotator's file.

    Raises:
        FileNotFoundError: Saying where a published file belongs, how large it is and what works without it.
    """
    try:
        return host.model_path(name, FOLDER)
    except FileNotFoundError as error:
        published = next((kind for kind in _BYTES_PER_PIXEL if kind.file == name), None)
        if published is None:
            raise
        raise FileNotFoundError(_absent(published)) from error


def _absent(kind: Annotator) -> str:
    folder = host.user_folder(FOLDER)
    if kind is MINI_DEPTH:
        return f"{kind.file}: it belongs into the pack's folder models/annotators. Install the pack again."
    instead = (
        f"choose {MINI_DEPTH.file} (rendered scenes), or use core's Depth Anything 3 nodes"
        if kind is MIDAS
        else "choose the method canny or pencil, which need no file"
    )
    return (
        f"{kind.file} ({kind.title}, about {kind.size}) is not there, and nothing is downloaded. It is one of the "
        f"files of the authors' release (ModelScope iic/tf-t2v, damo/VideoComposer): put it into {folder}, press R and "
        f"run again; or {instead}."
    )


class Loaded:
    """Networks on their device, for the length of one node's run.

    Args:
        files: What each file may be, by name.
        frames: That they will be run on, ``[F, H, W, 3]``.
    """

    def __init__(self, files: Mapping[str, tuple[Annotator, ...]], frames: Tensor) -> None:
        self.frames = frames
        self.kinds: list[Annotator] = []
        self.networks: list[Any] = []
        for name, allowed in files.items():
            kind, network = load_annotator(annotator_path(name), allowed, host.manual_cast(), attention)
            self.kinds.append(kind)
            self.networks.append(network)
        # The host holds its patchers weakly: they stay loaded while this object lives.
        self._patchers = [host.wrap_network(network) for network in self.networks]
        pixels = CHUNK * frames.shape[1] * frames.shape[2]
        host.load_networks(self._patchers, memory=pixels * max(_BYTES_PER_PIXEL[kind] for kind in self.kinds))

    def run(self, extractor: Callable[..., Tensor], *networks: Any) -> Tensor:
        """Call an extractor of the core on the frames, with progress and interrupts."""
        done = host.frame_progress(len(self.frames))
        return extractor(self.frames, *networks, device=host.load_device(), done=done)
