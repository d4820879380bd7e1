"""Who else used the processor while something was measured: other processes, and other machines on the same host.

Reads /proc/stat (in ticks of 10 ms, so a window should last a second) and this process's own CPU time.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq of the line "cpu"
_STEAL = 7


@dataclass(frozen=True)
class Reading:
    """CPU seconds since the machine started: of all processes, stolen by the host, of this process; wall seconds."""

    busy: float
    stolen: float
    own: float
    wall: float


@dataclass(frozen=True)
class Noise:
    """Shares of all CPUs' time in a window, 0..1: what other processes used, and what the host took away."""

    foreign: float
    stolen: float


def read_noise(stat: Path = Path("/proc/stat")) -> Reading:
    """The counters now. ``stat`` is another file in tests."""
    fields = [int(word) for word in stat.read_text(encoding="ascii").splitlines()[0].split()[1:]]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    stolen = fields[_STEAL] if len(fields) > _STEAL else 0
    busy = sum(fields[index] for index in _BUSY)
    return Reading(busy / _TICKS, stolen / _TICKS, usage.ru_utime + usage.ru_stime, time.perf_counter())


def between(before: Reading, after: Reading, cpus: int | None = None) -> Noise:
    """The shares between two readings of a machine with ``cpus`` CPUs (default: this one's)."""
    capacity = max((after.wall - before.wall) * (cpus or os.cpu_count() or 1), 1e-9)
    foreign = (after.busy - before.busy) - (after.own - before.own)
    return Noise(min(max(foreign / capacity, 0.0), 1.0), min(max((after.stolen - before.stolen) / capacity, 0.0), 1.0))
