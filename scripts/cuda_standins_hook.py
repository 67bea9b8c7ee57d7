"""Loads the CUDA stand-in libraries just before torchvision or torchaudio is imported.

`scripts/setup.py` copies this file into the site-packages of `.venv`, beside a `.pth` file that imports it, and only
where the installed torch is a CPU build. Loading by name at import time needs no LD_LIBRARY_PATH, so every process of
the environment (server, tests, a shell) finds the libraries, and a process that never imports torchvision pays nothing.
"""

import ctypes
import glob
import importlib.abc
import os.path
import sys

LIBRARIES = ("nvidia/*/lib/libcudart.so.*", "videolcm_standins/libc10_cuda.so", "videolcm_standins/libtorch_cuda.so")
WAITING_FOR = ("torchvision", "torchaudio")


class StandInFinder(importlib.abc.MetaPathFinder):
    """Finds no module itself; it only notices the import that needs the libraries."""

    def find_spec(self, fullname, path=None, target=None):
        """Load the stand-ins at the first import of torchvision or torchaudio, then step aside."""
        if fullname in WAITING_FOR:
            sys.meta_path.remove(self)
            folder = os.path.dirname(os.path.abspath(__file__))
            for pattern in LIBRARIES:
                for library in sorted(glob.glob(os.path.join(folder, pattern))):
                    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        return None


sys.meta_path.insert(0, StandInFinder())
