"""What every broken input is held to: the right error, named, short, soon and in little memory."""

import sys
import time
from pathlib import Path

MOST_TEXT = 1500
SECONDS = 10.0
MEGABYTES = 400
FORBIDDEN = ("weights_only", "add_safe_globals", "Traceback", "0x7f")


def _kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def limited(call, allowed, name=None, seconds=SECONDS, megabytes=MEGABYTES):
    """Run ``call`` within the limits.

    Args:
        call: Without arguments.
        allowed: Exceptions that it may raise.
        name: What the error's text has to name.
        seconds: It may take.
        megabytes: It may take above what the process has.

    Returns:
        The error, or None if it ran.
    """
    linux, rest, error = sys.platform == "linux", 0, None
    if linux:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        rest = _kilobytes("VmRSS")
    begun = time.monotonic()
    try:
        call()
    except allowed as raised:
        error = raised
    took = time.monotonic() - begun
    assert took < seconds, f"{took:.1f} s"
    if linux:
        grown = (_kilobytes("VmHWM") - rest) / 1024
        assert grown < megabytes, f"{grown:.0f} MB"
    if error is not None:
        text = str(error)
        assert 20 < len(text) <= MOST_TEXT, text[:3000]
        assert name is None or name in text, text
        assert not any(word in text for word in FORBIDDEN), text
    return error
