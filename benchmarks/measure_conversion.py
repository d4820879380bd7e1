"""Converts a set of files and appends one JSON line with what it cost: memory, time, bytes.

Peak anonymous memory is the largest RssAnon of /proc/self/status, sampled every 20 ms during the conversion: pages of
mapped files are not in it, since the system may take them back. CPU seconds are printed beside wall seconds because
other programs may share the machine.

    python benchmarks/make_full_size.py --out full_size
    python benchmarks/measure_conversion.py full_size --out converted
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from make_full_size import PHI, QFORMER, STAGE, VISION
from tinygptv_fast import convert
from tinygptv_fast.checkpoint.directory import open_directory

RESULTS = Path(__file__).parent / "results" / "conversion.jsonl"


class AnonymousMemory(threading.Thread):
    """Samples RssAnon of this process until ``stop``; ``peak`` is in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.02):
            self.peak = max(self.peak, anonymous_bytes())

    def stop(self) -> int:
        self._stopping.set()
        self.join()
        return self.peak


def anonymous_bytes() -> int:
    """RssAnon now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no RssAnon; this measurement needs Linux")


def directory_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure(source: Path, out: Path, quantization: str, threads: int, quiet: bool) -> dict[str, Any]:
    """Convert and return the figures."""
    torch.set_num_threads(threads)
    before = anonymous_bytes()
    memory, start, used = AnonymousMemory(), time.perf_counter(), time.process_time()
    memory.start()
    with Progress(disable=quiet) as progress:
        task = progress.add_task("converting", total=None)
        receipt = convert(
            phi=source / PHI,
            vision=source / VISION,
            qformer=source / QFORMER,
            checkpoint=source / STAGE,
            out=out,
            quantization=quantization,
            architecture=source / "architecture.json",
            overwrite=True,
            progress=lambda done, total, name: progress.update(task, completed=done, total=total),
        )
    wall, cpu, peak = time.perf_counter() - start, time.process_time() - used, memory.stop()
    start = time.perf_counter()
    open_directory(out)
    return {
        "benchmark": "conversion",
        "quantization": quantization,
        "outliers": bool(json.loads((source / "settings.json").read_text())["outliers"]),
        "source_bytes": directory_bytes(source),
        "output_bytes": directory_bytes(out),
        "rss_anon_before_bytes": before,
        "rss_anon_peak_bytes": peak,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "open_seconds": round(time.perf_counter() - start, 3),
        "relative_l2": {k: max(r.relative_l2 for r in receipt.tensors if r.kind == k) for k in receipt.totals()},
        "threads": threads,
    }


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "git": commit.stdout.strip() or None,
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="what make_full_size.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write (replaced if it is one)")
    parser.add_argument("--quantization", choices=("int4", "int8", "none"), default="int4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file the JSON line is appended to")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    line = json.dumps({**measure(args.source, args.out, args.quantization, args.threads, args.quiet), **_machine()})
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with open(args.results, "a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
