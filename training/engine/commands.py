"""How every training command ends: a last line that says what to do, and an exit status that scripts can read.

Status 0: done. 1: an error that the user can mend, told in one paragraph. 130, 143: stopped by Ctrl-C or SIGTERM.
Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

GOES_ON = "stopped; the same command goes on"
_OURS = ("training", "videolcm_core")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that unwinds like Ctrl-C."""


def run_command(main: Callable[[], object], stopped: str = GOES_ON) -> NoReturn:
    """Run a command to its end and leave the process with its exit status.

    Args:
        main: the command; a whole number that it returns is the status.
        stopped: what is said after Ctrl-C and SIGTERM.

    Raises:
        SystemExit: always, but for faults of ours, which are raised as they are.
    """
    _terminate_as_interrupt()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console of few characters shows the others escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _status(main, stopped)
    finally:
        leave_group()
    raise SystemExit(status)


def leave_group() -> None:
    """Close the group of processes that this one is in, if any.

    A process that ends without it dies now and then of "terminate called without an active exception" (SIGABRT): the
    threads of gloo are still running when the interpreter takes them down.
    """
    if "torch.distributed" not in sys.modules:
        return
    distributed = sys.modules["torch.distributed"]
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _terminate_as_interrupt() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _status(main: Callable[[], object], stopped: str) -> int:
    try:
        result = main()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt as error:
        print(f"\n{stopped}", file=sys.stderr, flush=True)
        return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # what reads our output was closed, as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not is_users(error):
            raise
        print(f"\nerror: {told(error)}", file=sys.stderr, flush=True)
        return 1


def is_users(error: Exception) -> bool:
    """Whether an error is one that the user can mend: wrong values and files, a full disk, a package or memory missing.

    Errors of files, checkpoints and films are kinds of ValueError and OSError.
    """
    if isinstance(error, ImportError):  # of a package that is optional; a part of ours that is missing is our fault
        return (error.name or "").split(".")[0] not in _OURS
    return isinstance(error, (ValueError, OSError, FloatingPointError, _out_of_memory()))


def told(error: Exception) -> str:
    """An error in words."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = str(error) or type(error).__name__
    if isinstance(error, _out_of_memory()):
        return f"{text.splitlines()[0]} Give a smaller --batch, more --accumulation, or --checkpointing where there is."
    return text


def _out_of_memory() -> type[Exception]:
    """The device's, where torch was imported at all."""
    torch = sys.modules.get("torch")
    return torch.cuda.OutOfMemoryError if torch is not None else MemoryError
