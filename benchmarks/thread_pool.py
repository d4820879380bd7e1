"""What a barrier of the thread pool costs: spinning against parked, one phase against a decoder step's 96.

    python benchmarks/thread_pool.py [--save] [--rounds 2000] [--threads N]

Each line gives nanoseconds per phase (median, p10, p90, p99 over the rounds) of empty phases, so that wake-up and
barriers are all there is. The rows of each pass alternate, because a shared machine is never the same twice; the load
average stands beside them. The barriers themselves are checked by csrc/tests/thread_pool_test.cc.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from typing import Any

from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash

STEP_PHASES = 96  # 32 layers of three
PASSES = 10
# name, spin_ns (-1: the pool's choice), phases, idle time before each round
CASES = (
    ("step, spinning", -1, STEP_PHASES, 0),
    ("step, parking at once", 0, STEP_PHASES, 0),
    ("one phase, spinning", -1, 1, 0),
    ("one phase, parking at once", 0, 1, 0),
    ("one phase after 1 ms idle", -1, 1, 1_000_000),
)


def summary(times: list[float]) -> dict[str, float]:
    """Median and percentiles, in nanoseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "median_ns": round(statistics.median(times)),
        "p10_ns": round(cuts[9]),
        "p90_ns": round(cuts[89]),
        "p99_ns": round(cuts[98]),
    }


def measure(threads: int, rounds: int) -> list[dict[str, Any]]:
    """One record per case, its rounds spread over interleaved passes."""
    times: dict[str, list[float]] = {name: [] for name, *_ in CASES}
    for _ in range(PASSES):
        for name, spin_ns, phases, pause_ns in CASES:
            some = max(1, rounds // PASSES // (10 if pause_ns else 1))
            times[name] += _native.barrier_times(
                threads=threads, spin_ns=spin_ns, phases=phases, rounds=some, pause_ns=pause_ns
            )
    common = {"benchmark": "thread_pool", "cpu": _native.cpu_brand(), "threads": threads}
    load = {"load_average": os.getloadavg()[0], "cpus": len(_native.affinity_cpus())}
    return [
        {**common, "case": name, "phases": phases, "rounds": len(times[name]), **summary(times[name]), **load}
        for name, _, phases, _ in CASES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="append to benchmarks/results/thread_pool.jsonl")
    parser.add_argument("--rounds", type=int, default=2000, help="rounds per case, at least 20")
    parser.add_argument("--threads", type=int, help="default: all physical cores, and twice as many as CPUs")
    arguments = parser.parse_args()
    if arguments.rounds < 20:
        parser.error(f"--rounds is {arguments.rounds}, expected at least 20")
    counts = [arguments.threads] if arguments.threads else [_native.physical_cores(), 2 * len(_native.affinity_cpus())]
    records = [record for threads in counts for record in measure(threads, arguments.rounds)]
    for record in records:
        print(json.dumps({**record, "commit": git_hash()}))
    if arguments.save:
        append("thread_pool.jsonl", records)


if __name__ == "__main__":
    main()
