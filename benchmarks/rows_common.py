"""What the benchmarks of the row kernels (norm, embedding, sampling) share: timing one thread, and a line of text."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from tinygptv_fast import _native

SECONDS = 0.25
native: Any = _native  # its stubs ask for a Buffer, which numpy's arrays are for mypy only from Python 3.12 on


def microseconds(call: Callable[[], object]) -> dict[str, float]:
    """p10, median and p90 of calls over SECONDS, in microseconds, at least 20 of them; the first is not counted."""
    call()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 20 or time.perf_counter() < start + SECONDS:
        begin = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - begin))
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return {"us_p10": tenths[0], "us_median": statistics.median(times), "us_p90": tenths[-1]}


def record(benchmark: str, what: str, isa: str, moved: int, times: dict[str, float]) -> dict[str, Any]:
    """One result, printed: ``moved`` bytes a call must read and write give GB/s (from the cache, as in a model)."""
    rate = moved / times["us_median"] / 1e3
    spread = "/".join(f"{times[k]:.2f}" for k in ("us_p10", "us_median", "us_p90"))
    print(f"{isa:<11} {what:<36} {spread:>24} us {rate:>7.1f} GB/s", flush=True)
    common = {"benchmark": benchmark, "cpu": _native.cpu_brand(), "isa": isa, "what": what, "bytes": moved}
    return common | times | {"gbytes_per_s": rate, "load_average": os.getloadavg()[0]}
