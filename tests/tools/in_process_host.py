"""The host's code in this process, without a server, and the pack loaded the way the host loads it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import setup

EXTRAS = (
    "custom_sampler",
    "video",
    "video_model",
    "freelunch",
    "context_windows",
    "model_advanced",
    "model_merging",
    "mask",
    "hunyuan",
    "depth_anything_3",
    "dataset",
    "primitive",
    "sag",
    "pag",
    "hypertile",
    "tomesd",
    "easycache",
)


def load_host(pack: Path, base: Path | None = None, tree: Path | None = None) -> ModuleType:
    """The host's module ``nodes`` with its mappings filled: the nodes used here, and the pack's.

    Args:
        pack: Folder of the pack.
        base: Base directory with models, input and output; None leaves the host's own.
        tree: The host's source tree; None takes the newest of the setup.

    Raises:
        RuntimeError: If the host cannot load a part.
    """
    tree = tree or setup.host_tree()
    # First in the path: the pack has a folder `nodes` too.
    sys.path.insert(0, str(tree))
    from comfy.cli_args import args

    args.cpu = True
    if base is not None:
        args.base_directory = str(base)
    host_nodes = importlib.import_module("nodes")
    if Path(host_nodes.__file__ or "").parent != tree:
        raise RuntimeError(f"`nodes` is {host_nodes.__file__}, not the host's")
    for name in EXTRAS:
        path = tree / "comfy_extras" / f"nodes_{name}.py"
        if path.is_file() or tree == setup.host_tree():  # an older host lacks some
            _load(host_nodes, path, "comfy_extras")
    _load(host_nodes, pack, "custom_nodes")
    return host_nodes


def _load(host_nodes: ModuleType, path: Path, parent: str) -> None:
    if not asyncio.run(host_nodes.load_custom_node(str(path), module_parent=parent)):
        raise RuntimeError(f"the host could not load {path}")
