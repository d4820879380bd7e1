"""Hands freed memory back to the system.

glibc keeps freed blocks of up to 32 MB in its heap, where the survivors between them stop it from shrinking: a
conversion that never holds more than a few blocks was seen to grow to 3.6 GB. Trimming now and then keeps it flat.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return trim
    except (OSError, AttributeError):  # another C library, which has other habits
        return None


_trim = _find_trim()


class HeapTrimmer:
    """Call ``used`` with the bytes worked through; every ``period`` bytes the heap is trimmed."""

    def __init__(self, period: int = 256 << 20) -> None:
        self._period = period
        self._since = 0

    def used(self, count: int) -> None:
        self._since += count
        if self._since >= self._period and _trim is not None:
            self._since = 0
            _trim(0)
