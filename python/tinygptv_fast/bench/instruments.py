"""What a measurement looks at besides the work itself: the clock, the read bandwidth, who else used the processor.

The seam of the tests: everything else in this package is handed these.
"""

from __future__ import annotations

import time
from typing import Protocol

from .. import _native
from ..errors import UnsupportedError
from .noise import Reading, read_noise

PROBE_BYTES = 1 << 30
PEAK_PASSES = 25  # of a few milliseconds each


class Instruments(Protocol):
    """Asked directly before and directly after each measured block."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def bandwidth(self) -> float:
        """Bytes per second that can be read from memory now."""
        ...

    def noise(self) -> Reading:
        """CPU counters now."""
        ...


class MachineInstruments:
    """This machine's. Keeps ``PROBE_BYTES`` of huge pages to read from, and as many threads as the work has."""

    def __init__(self, threads: int) -> None:
        self._probe = _native.BandwidthProbe(threads, PROBE_BYTES)
        self._probe.measure(1)

    def now(self) -> float:
        return time.perf_counter()

    def bandwidth(self) -> float:
        return float(self._probe.measure(1))

    def noise(self) -> Reading:
        return read_noise()


def int8_peak(threads: int, isa: str) -> float | None:
    """Operations per second in registers on this instruction set; None on one without such instructions."""
    try:
        return float(_native.int8_peak(threads, isa, PEAK_PASSES))
    except UnsupportedError:
        return None
