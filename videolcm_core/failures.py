"""What reading a damaged file may raise: one table for films, images and model files."""

from __future__ import annotations

import struct
import zlib
from typing import Final

READING: Final[tuple[type[Exception], ...]] = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    EOFError,
    LookupError,
    AttributeError,
    AssertionError,
    SyntaxError,
    struct.error,
    zlib.error,
)
"""Found by fuzzing: nearly every built-in exception. MemoryError and OverflowError come from absurd sizes,
AttributeError from streams without decoder. A reader adds those of its own libraries."""
