"""int8, bf16 and f32 products on the matrices of Phi-2, after checking the answer: GB/s, GOP/s, torch beside them.

    python benchmarks/matmul.py [--save] [--kinds int8 bf16 f32] [--tokens 1 8 256] [--isas avx512 avx2] [--torch]

Measured as benchmarks/int4_matmul.py does. ``--torch`` also times torch.nn.functional.linear in float32 with as many
threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from int4_matmul import ROTATED_BYTES, measure, show
from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.ops import int8_matmul, matmul, pack_float, pack_int8
from tinygptv_fast.quantize.int8 import Int8Tensor
from tinygptv_fast.reference.int8_matmul import int8_matmul_parts

SHAPES = ("10240x2560", "2560x10240")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def close(y: torch.Tensor, truth: torch.Tensor, bound: torch.Tensor, what: str) -> None:
    """Raises unless y is within ``bound``: half a unit of float32 for each addition."""
    if not bool(((y.double() - truth).abs() <= bound).all()):
        raise SystemExit(f"{what}: the product differs from its twin")


def prepared(kind: str, rows: int, columns: int) -> tuple[list[Any], Callable[..., Any]]:
    """Copies of one packed matrix, enough that no call finds its own in the cache, and their product, checked on the
    first and last 64 rows."""
    generator = torch.Generator().manual_seed(rows + columns)
    x = torch.randn(9, columns, generator=generator)
    ends = torch.cat([torch.arange(64), torch.arange(rows - 64, rows)])
    if kind == "int8":
        levels = torch.randint(-127, 128, (rows, columns), dtype=torch.int8, generator=generator)
        w = Int8Tensor(levels, torch.rand(rows, generator=generator) * 0.01)
        weights: list[Any] = [pack_int8(w)]
        truth, magnitude = int8_matmul_parts(x, Int8Tensor(w.qweight[ends], w.scales[ends]))
        close(int8_matmul(x, weights[0])[:, ends], truth, (columns / 32 + 2) * 2.0**-24 * magnitude, kind)
        weights += [pack_int8(w) for _ in range(ROTATED_BYTES // weights[0].nbytes)]
        return weights, int8_matmul
    dense = torch.randn(rows, columns, generator=generator).to(DTYPES[kind]).float()
    weights = [pack_float(dense, dtype=DTYPES[kind])]
    part = dense[ends].double()
    bound = columns * 2.0**-24 * (x.double().abs() @ part.abs().t())
    close(matmul(x, weights[0])[:, ends], x.double() @ part.t(), bound, kind)
    weights += [pack_float(dense, dtype=DTYPES[kind]) for _ in range(ROTATED_BYTES // weights[0].nbytes)]
    return weights, matmul


def time_torch(rows: int, columns: int, tokens: int, threads: int) -> None:
    torch.set_num_threads(threads)
    x, w = torch.randn(tokens, columns), torch.randn(rows, columns)
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - begin)
    torch.set_num_threads(1)
    rate = 2 * tokens * rows * columns / statistics.median(times) / 1e9
    print(f"torch f32  {rows}x{columns} {tokens:>6} {rate:>6.0f} GFLOP/s at the median", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["int8", "bf16", "f32"], choices=["int8", "bf16", "f32"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 256])
    parser.add_argument("--isas", nargs="+", default=[_native.best_isa()], choices=_native.isas())
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="NxK ...")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{_native.cpu_brand()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("isa        kind        N x K tokens       ms p10/50/90   GB/s     read fraction        GOP/s  at p10")
    records = []
    for kind in arguments.kinds:
        for text in arguments.shapes:
            rows, columns = (int(part) for part in text.split("x"))
            weights, product = prepared(kind, rows, columns)
            for isa in arguments.isas:
                os.environ["TINYGPTV_CPU_ISA"] = isa
                for tokens in arguments.tokens:
                    common = {"benchmark": "matmul", "cpu": _native.cpu_brand(), "isa": isa, "group": kind}
                    shape = {"rows": rows, "columns": columns, "threads": arguments.threads}
                    records.append(common | shape | measure(weights, tokens, arguments.threads, product))
                    show(records[-1])
            if arguments.torch:
                for tokens in arguments.tokens:
                    time_torch(rows, columns, tokens, arguments.threads)
    if arguments.save:
        append("matmul.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
