"""Error of the int4 formats on N(0,1) weights, beside the limits, llama.cpp's Q4_0 rule and plain rounding.

    python benchmarks/quantize_error.py [--rows 2048] [--columns 4096] [--save]

Exit code 1 when a limit is not met. ``--save`` appends JSON lines to benchmarks/results/quantize_error.jsonl.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from quantize_common import LIMITS, append, q4_0, rmse, round_to_nearest
from tinygptv_fast.quantize.int4 import GROUP_SIZES, dequantize_int4, quantize_int4


def measure(w: torch.Tensor, kind: str) -> list[dict[str, Any]]:
    """One record per group size and symmetry; ``limit`` only for normal weights."""
    records = []
    for symmetric in (True, False):
        for group in GROUP_SIZES:
            t = quantize_int4(w, group, symmetric)
            records.append(
                {
                    "benchmark": "quantize_error",
                    "weights": kind,
                    "samples": w.numel(),
                    "format": "symmetric" if symmetric else "asymmetric",
                    "group": group,
                    "bits_per_weight": 8 * t.nbytes / w.numel(),
                    "rmse": rmse(w, dequantize_int4(t)),
                    "limit": LIMITS[symmetric][group] if kind == "normal" else None,
                    "q4_0_rule": rmse(w, q4_0(w, group)),
                    "round_to_nearest": rmse(w, round_to_nearest(w, group)),
                }
            )
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--columns", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.rows < 1 or arguments.columns < 128 or arguments.columns % 128:
        parser.error("--rows must be positive and --columns a multiple of 128")

    w = torch.randn(arguments.rows, arguments.columns, generator=torch.Generator().manual_seed(arguments.seed))
    outliers = w.clone()
    outliers[:, ::500] *= 60  # 0.2 % of the columns
    records = measure(w, "normal") + measure(outliers, "0.2 % of columns x 60")
    print(
        f"{'weights':<22} {'format':<11} {'group':>5} {'bits':>6} {'rmse':>8} {'limit':>8} {'Q4_0':>8} {'nearest':>8}"
    )
    failed = 0
    for r in records:
        limit = "" if r["limit"] is None else f"{r['limit']:.4f}"
        print(
            f"{r['weights']:<22} {r['format']:<11} {r['group']:>5} {r['bits_per_weight']:>6.3f} {r['rmse']:>8.5f} "
            f"{limit:>8} {r['q4_0_rule']:>8.5f} {r['round_to_nearest']:>8.5f}"
        )
        failed += r["limit"] is not None and r["rmse"] > r["limit"]
    if arguments.save:
        append("quantize_error.jsonl", records)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
