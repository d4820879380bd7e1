"""Speed of the native int4 search, after checking that it gives the torch twin's bytes.

    python benchmarks/quantize_speed.py [--save] [--repeats 5] [--threads N]

Prints weights per second and what that means for the model's 2.65e9 weights. CPU seconds are reported beside wall
seconds: on a shared machine only the first says what the kernel costs. Operations are counted per weight from the
kernel's source (quantize_int4_body.h), so lane operations per second can be held against the CPU's vector width.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.quantize.int4 import quantize_int4

MODEL_WEIGHTS = 2.648e9  # int4 weights of the full-size model
ISAS = ("portable", "avx2", "avx512")
# Operations per weight: 36 pairs of 15, two refinements of 18, norm and checks 8, store 11; asymmetric adds 20 zero
# pairs of 15 and two refinements.
OPERATIONS = {True: 36 * 15 + 2 * 18 + 8 + 11, False: 36 * 15 + 20 * 15 + 4 * 18 + 8 + 11}


def check(group: int, symmetric: bool) -> None:
    """Raises unless native and torch agree on a small matrix with a short last group."""
    w = torch.randn(96, 515, generator=torch.Generator().manual_seed(1))
    a, b = (quantize_int4(w, group, symmetric, backend=backend) for backend in ("native", "torch"))
    if not (torch.equal(a.qweight, b.qweight) and torch.equal(a.scales, b.scales)):
        raise SystemExit(f"native and torch differ: group {group}, symmetric {symmetric}")


def measure(w: torch.Tensor, isa: str, group: int, symmetric: bool, threads: int, repeats: int) -> dict[str, Any]:
    """Quantise ``w`` ``repeats`` times after one warm-up."""
    os.environ["TINYGPTV_CPU_ISA"] = isa
    check(group, symmetric)
    wall, cpu = [], []
    for _ in range(repeats + 1):
        w0, c0 = time.perf_counter(), time.process_time()
        quantize_int4(w, group, symmetric, threads=threads)
        wall.append(time.perf_counter() - w0)
        cpu.append(time.process_time() - c0)
    quantiles = statistics.quantiles(wall[1:], n=10, method="inclusive")
    cpu_median = statistics.median(cpu[1:])
    return {
        "benchmark": "quantize_speed",
        "cpu": _native.cpu_brand(),
        "isa": isa,
        "group": group,
        "format": "symmetric" if symmetric else "asymmetric",
        "threads": threads,
        "weights": w.numel(),
        "wall_s_median": statistics.median(wall[1:]),
        "wall_s_p10": quantiles[0],
        "wall_s_p90": quantiles[-1],
        "cpu_s_median": cpu_median,
        "weights_per_cpu_s": w.numel() / cpu_median,
        "lane_operations_per_cpu_s": OPERATIONS[symmetric] * w.numel() / cpu_median,
        "model_cpu_s": MODEL_WEIGHTS * cpu_median / w.numel(),
        "load_average": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2560)
    parser.add_argument("--columns", type=int, default=10240)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.columns, arguments.threads) < 1 or arguments.repeats < 2:
        parser.error("--rows, --columns and --threads must be positive, --repeats at least 2")

    w = torch.randn(arguments.rows, arguments.columns, generator=torch.Generator().manual_seed(0))
    records = []
    header = f"{'isa':<9} {'format':<11} {'group':>5} {'wall ms p10/50/90':>22} {'cpu ms':>8} {'Mw/cpu-s':>9}"
    print(f"{header} {'Gop/cpu-s':>9} {'model cpu-s':>11}")
    for isa in (isa for isa in ISAS if isa in _native.isas()):
        for symmetric in (True, False):
            for group in (32, 128):
                r = measure(w, isa, group, symmetric, arguments.threads, arguments.repeats)
                records.append(r)
                ms = "/".join(f"{1e3 * r[k]:.0f}" for k in ("wall_s_p10", "wall_s_median", "wall_s_p90"))
                print(
                    f"{isa:<9} {r['format']:<11} {group:>5} {ms:>22} {1e3 * r['cpu_s_median']:>8.0f} "
                    f"{r['weights_per_cpu_s'] / 1e6:>9.1f} {r['lane_operations_per_cpu_s'] / 1e9:>9.1f} "
                    f"{r['model_cpu_s']:>11.1f}"
                )
    if arguments.save:
        append("quantize_speed.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
