"""Hands freed memory back to the system, or keeps it.

glibc keeps freed blocks of up to 32 MB in its heap, where the survivors between them stop it from shrinking: a
conversion that never holds more than a few blocks was seen to grow to 3.6 GB, and a picture of 448 pixels leaves 0.3 GB
behind. Trimming now and then keeps it flat. Other C libraries have other habits; there nothing is done.
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
    except (OSError, AttributeError):  # another C library
        return None


_trim = _find_trim()


_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD, _ARENAS = -3, -1, -2, -8  # parameters of mallopt, from malloc.h


def keep_heap() -> bool:
    """For a process that makes and frees the same large blocks all day: freed memory stays with it, in one heap.

    Otherwise every block over 32 MB, and every block a second thread frees on top of its heap, comes back as pages that
    the system has to clear again (docs/LOG.md has what that cost training). False where the C library
    has no such switch, and nothing is done there.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = ((_ARENAS, 1), (_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)


def trim_heap() -> None:
    """Give all free pages of the heap back. Milliseconds; the next user of such a page waits for a new one."""
    if _trim is not None:
        _trim(0)


class HeapTrimmer:
    """Call ``used`` with the bytes worked through; every ``period`` bytes the heap is trimmed."""

    def __init__(self, period: int = 256 << 20) -> None:
        self._period = period
        self._since = 0

    def used(self, count: int) -> None:
        self._since += count
        if self._since >= self._period:
            self._since = 0
            trim_heap()
