"""How deeply a pickle nests its tuples, found without running it.

A tuple is hashed when it becomes a key, and one of forty levels that holds the level below twice costs 2^40 hashes: a
file of a few hundred bytes stops the process for hours. PyTorch's own nest three levels.
"""

from __future__ import annotations

import pickletools
from typing import IO, Any, Final

DEEPEST: Final = 16
_MARK: Final = -1
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def nests_too_deeply(data: bytes | IO[bytes]) -> bool:
    """Whether a pickle makes tuples of more than `DEEPEST` levels. What cannot be followed is left to the reader.

    Args:
        data: The pickle, or a file at its beginning.
    """
    stack: list[int] = []
    memo: dict[Any, int] = {}
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if _step(opcode, argument, stack, memo) > DEEPEST:
                return True
    except (ValueError, IndexError, KeyError):
        return False  # damaged: the reader says so, and stops there too
    return False


def _step(opcode: Any, argument: Any, stack: list[int], memo: dict[Any, int]) -> int:
    """Follow one opcode; the depth of what it leaves on top."""
    name = opcode.name
    if name == "MARK":
        stack.append(_MARK)
        return 0
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        return 0
    if name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "DUP":
        stack.append(stack[-1])
    elif name in _TUPLES:
        stack.append(1 + max(_pop(stack, _TUPLES[name]), default=0))
    elif name == "TUPLE":
        stack.append(1 + max(_pop_to_mark(stack), default=0))
    else:
        before, after = opcode.stack_before, opcode.stack_after
        if pickletools.markobject in before:
            _pop_to_mark(stack)
            below = before.index(pickletools.markobject)
        else:
            below = len(before)
        _pop(stack, below)
        # Containers are as deep as nothing: they have no hash. What a call makes is a tensor or a size.
        stack.extend([0] * len(after))
    return stack[-1] if stack else 0


def _pop(stack: list[int], count: int) -> list[int]:
    return [stack.pop() for _ in range(count)]


def _pop_to_mark(stack: list[int]) -> list[int]:
    popped = []
    while (depth := stack.pop()) != _MARK:
        popped.append(depth)
    return popped
