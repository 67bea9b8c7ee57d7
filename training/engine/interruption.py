"""Ctrl-C and termination: the step in flight is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .commands import Terminated


class Stop:
    """Set by the first Ctrl-C or termination signal; the second one is not caught."""

    def __init__(self) -> None:
        self.asked = False
        self.error: type[KeyboardInterrupt] = KeyboardInterrupt

    @contextmanager
    def caught(self) -> Iterator[Stop]:
        """Catch signals inside the block; only a program's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def ask(number: int, _: Any) -> None:
            self.asked, self.error = True, Terminated if number == signal.SIGTERM else KeyboardInterrupt
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
