"""What a process says of itself and of the machine while it is measured. Standard library alone."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

CONTENDED = 0.10  # cores used by others or stolen, above which a measurement is listed apart
_GIB = 1 << 30


@dataclass(frozen=True)
class Resident:
    """GiB: the peak so far, now, and the part of now that is not a mapped file."""

    peak: float
    now: float
    anonymous: float


def resident() -> Resident:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    gib = {name: int(lines[name].split()[0]) * 1024 / _GIB for name in ("VmHWM", "VmRSS", "RssAnon")}
    return Resident(gib["VmHWM"], gib["VmRSS"], gib["RssAnon"])


class Watch:
    """CPU used by other processes and stolen by the host since it was made, in cores."""

    def __init__(self) -> None:
        self._start = self._read()

    def others(self) -> dict[str, float]:
        seconds, busy, stolen, own = (max(now - then, 0.0) for now, then in zip(self._read(), self._start, strict=True))
        seconds = max(seconds, 1e-3)
        return {"foreign": round(max(busy - own, 0) / seconds, 3), "stolen": round(stolen / seconds, 3)}

    @staticmethod
    def _read() -> tuple[float, float, float, float]:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        tick = os.sysconf("SC_CLK_TCK")
        own = os.times()
        user, nice, system, _, _, irq, softirq, stolen = fields[:8]
        return time.time(), (user + nice + system + irq + softirq) / tick, stolen / tick, own.user + own.system


def warm(path: Path) -> int:
    """Read a file, or every file of a folder, so that loading finds it in the page cache. Returns its bytes."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    total = 0
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while block := stream.read(1 << 24):
                total += len(block)
    return total
