"""int4 products on the matrices of Phi-2, after checking the answer: GB/s against the read bandwidth, GOP/s.

    python benchmarks/int4_matmul.py [--save] [--tokens 1 2 4 8 64 256] [--groups 32 128] [--isas avx512vnni avx2]

Bytes are those a call must move: the packed weights with their scales, x and y once. Weights are rotated through
enough copies that no call finds them in the cache. Calls come in rounds with a probe of the bandwidth before and
after each. The fraction is that of a round's bytes over its whole time, the median over the rounds whose two probes
differ by less than 10 %; how many those were stands beside it. Only this ratio means anything on a machine that others
use, and it flatters there: the probe splits its bytes evenly and waits for the slower thread, products are claimed
piecewise. GOP/s count two operations per weight and token, at the median call and at the first decile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.ops import PackedInt4, int4_matmul, pack_int4
from tinygptv_fast.quantize.int4 import Int4Tensor
from tinygptv_fast.reference.int4_matmul import int4_matmul_parts

# [N, K]: qkv, fc1, fc2, head
SHAPES = ((7680, 2560), (10240, 2560), (2560, 10240), (51200, 2560))
ROTATED_BYTES = 256 << 20
ROUNDS = 7
ROUND_SECONDS = 0.05
STEADY = 1.1  # a round counts only if its two probes differ by less


def matrix(rows: int, columns: int, group: int) -> Int4Tensor:
    """Random levels and scales: speed does not depend on them."""
    generator = torch.Generator().manual_seed(rows + columns)
    qweight = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8, generator=generator)
    scales = torch.rand(rows, columns // group, generator=generator).half() * 0.01
    return Int4Tensor(qweight, scales, None, columns, group)


def check(w: Int4Tensor, packed: PackedInt4) -> None:
    """Raises unless the first and last 64 rows of a product of 9 tokens equal the twin's, within float32's bound."""
    x = torch.randn(9, w.columns, generator=torch.Generator().manual_seed(1))
    y = int4_matmul(x, packed)
    for rows in (slice(0, 64), slice(w.rows - 64, w.rows)):
        part = Int4Tensor(w.qweight[rows], w.scales[rows], None, w.columns, w.group_size)
        truth, magnitude = int4_matmul_parts(x, part)
        bound = 4 * (w.columns / w.group_size) ** 0.5 * 2.0**-24 * magnitude
        if not bool(((y[:, rows].double() - truth).abs() <= bound).all()):
            raise SystemExit(f"{w.rows}x{w.columns}, group {w.group_size}: the product differs from its twin")


def probe(threads: int) -> float:
    return float(_native.read_bandwidth(threads=threads, bytes=128 << 20, passes=3)) / 1e9


def measure(weights: list[Any], tokens: int, threads: int, product: Callable[..., Any] = int4_matmul) -> dict[str, Any]:
    """Time calls of ``product`` with ``tokens`` rows over ``weights`` in turn, in ROUNDS rounds, each between two
    probes."""
    first = weights[0]
    x, out = torch.randn(tokens, first.columns), torch.empty(tokens, first.rows)
    moved = first.nbytes + 4 * (x.numel() + out.numel())
    product(x, first, out=out, threads=threads)
    times: list[float] = []
    fractions: list[float] = []
    probes = [probe(threads)]
    for _ in range(ROUNDS):
        start, done = time.perf_counter(), len(times)
        while len(times) < done + 3 or time.perf_counter() < start + ROUND_SECONDS:
            begin = time.perf_counter()
            product(x, weights[len(times) % len(weights)], out=out, threads=threads)
            times.append(time.perf_counter() - begin)
        rate = moved * (len(times) - done) / (time.perf_counter() - start) / 1e9
        probes.append(probe(threads))
        before, after = probes[-2:]
        if max(before, after) <= STEADY * min(before, after):
            fractions.append(rate / ((before + after) / 2))
    median, tenths = statistics.median(times), statistics.quantiles(times, n=10, method="inclusive")
    return {
        "tokens": tokens,
        "calls": len(times),
        "ms_p10": 1e3 * tenths[0],
        "ms_median": 1e3 * median,
        "ms_p90": 1e3 * tenths[-1],
        "bytes": moved,
        "gbytes_per_s": moved / median / 1e9,
        "read_gbytes_per_s": probes,
        "fraction_of_read": statistics.median(fractions) if fractions else None,
        "steady_rounds": len(fractions),
        "gop_per_s": 2 * tokens * first.rows * first.columns / median / 1e9,
        "gop_per_s_p10": 2 * tokens * first.rows * first.columns / tenths[0] / 1e9,
        "load_average": os.getloadavg()[0],
    }


def show(r: dict[str, Any]) -> None:
    ms = "/".join(f"{r[k]:.3f}" for k in ("ms_p10", "ms_median", "ms_p90"))
    shape = f"{r['rows']}x{r['columns']}"
    fraction = "-" if r["fraction_of_read"] is None else f"{r['fraction_of_read']:.2f}"
    read = f"{min(r['read_gbytes_per_s']):.0f}..{max(r['read_gbytes_per_s']):.0f}"
    print(
        f"{r['isa']:<10} {r['group']:>5} {shape:>11} {r['tokens']:>6} {ms:>22} {r['gbytes_per_s']:>6.1f} {read:>8} "
        f"{fraction:>6} ({r['steady_rounds']}/{ROUNDS}) {r['gop_per_s']:>6.0f} {r['gop_per_s_p10']:>7.0f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8, 64, 256])
    parser.add_argument("--groups", type=int, nargs="+", default=[32])
    parser.add_argument("--isas", nargs="+", default=[_native.best_isa()], choices=_native.isas())
    parser.add_argument("--shapes", nargs="+", default=[f"{n}x{k}" for n, k in SHAPES], help="NxK ...")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if min([*arguments.tokens, arguments.threads]) < 1:
        parser.error("--tokens and --threads must be positive")
    torch.set_num_threads(1)
    print(f"{_native.cpu_brand()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'isa':<10} {'group':>5} {'N x K':>11} {'tokens':>6} {'ms p10/50/90':>22} {'GB/s':>6} {'read':>8} "
        f"{'fraction':>12} {'GOP/s':>6} {'at p10':>7}"
    )
    records = []
    for group in arguments.groups:
        for text in arguments.shapes:
            rows, columns = (int(part) for part in text.split("x"))
            w = matrix(rows, columns, group)
            weights = [pack_int4(w)]
            weights += [pack_int4(w) for _ in range(ROTATED_BYTES // weights[0].nbytes)]
            for isa in arguments.isas:
                os.environ["TINYGPTV_CPU_ISA"] = isa
                check(w, weights[0])
                for tokens in arguments.tokens:
                    common = {"benchmark": "int4_matmul", "cpu": _native.cpu_brand(), "isa": isa, "group": group}
                    shape = {"rows": rows, "columns": columns, "threads": arguments.threads}
                    records.append(common | shape | measure(weights, tokens, arguments.threads))
                    show(records[-1])
    if arguments.save:
        append("int4_matmul.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
