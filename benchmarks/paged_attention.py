"""Attention over a paged cache at Phi-2's shape, after checking the answer: GB/s for decode, TFLOP/s for a prompt.

    python benchmarks/paged_attention.py [--save] [--kinds int8 f16] [--contexts 64 1024] [--tokens 1 256] [--isas avx2]

Bytes are those a call must move: K and V of the context with their scales, q and y. Layers are rotated, as a decoder
does it, so that no call finds its pages in the cache. Calls come in rounds with a probe of the bandwidth before and
after each; the fraction is that of a round's bytes over its whole time, the median over the rounds whose two probes
differ by less than 10 %, and how many those were stands beside it. A call from Python costs tens of microseconds,
which understates short contexts. FLOPs are 4·D for every token, head and position that it sees.
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
from tinygptv_fast.ops import paged_attention
from tinygptv_fast.reference import paged_attention as twin
from tinygptv_fast.reference.paged_attention import PAGE_TOKENS, round_rows

HEADS, HEAD_DIM = 32, 80
DTYPES = {"int8": torch.int8, "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
ROTATED_BYTES = 256 << 20
ROUNDS = 7
ROUND_SECONDS = 0.05
STEADY = 1.1  # a round counts only if its two probes differ by less

Layer = dict[str, Any]


def make_layers(kind: str, context: int) -> list[Layer]:
    """As many layers as ROTATED_BYTES hold, at least two, with random numbers in them."""
    pages = -(-context // PAGE_TOKENS)
    generator = torch.Generator().manual_seed(context)
    rows = [torch.randn(pages, HEADS, PAGE_TOKENS, HEAD_DIM, generator=generator) for _ in range(2)]
    (k, k_scales), (v, v_scales) = (round_rows(x, DTYPES[kind]) for x in rows)
    count = max(2, ROTATED_BYTES // (2 * k.nbytes))
    table = torch.arange(pages, dtype=torch.int32)
    return [
        {
            "k_pages": _huge(k), "v_pages": _huge(v), "block_table": table,
            "k_scales": None if k_scales is None else _huge(k_scales),
            "v_scales": None if v_scales is None else _huge(v_scales),
        }
        for _ in range(count)
    ]  # fmt: skip


def _huge(x: torch.Tensor) -> torch.Tensor:
    """A copy on huge pages, where a cache lies too."""
    return torch.frombuffer(_native.HugeBuffer(x.nbytes), dtype=x.dtype).view(x.shape).copy_(x)


def check(layer: Layer, context: int) -> None:
    """Raises unless nine tokens at the end of the context get the twin's answer."""
    q = torch.randn(9, HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(1))
    first = context - 9
    if not torch.allclose(
        paged_attention(q, first_position=first, **layer), twin(q, first_position=first, **layer), rtol=1e-4, atol=1e-5
    ):
        raise SystemExit(f"{layer['k_pages'].dtype}, context {context}: attention differs from its twin")


def moved_bytes(layer: Layer, context: int, tokens: int) -> int:
    """What one call must read and write."""
    row = HEAD_DIM * layer["k_pages"].element_size() + (0 if layer["k_scales"] is None else 2)
    return HEADS * (2 * context * row + 2 * tokens * HEAD_DIM * 4)


def probe(threads: int) -> float:
    return float(_native.read_bandwidth(threads=threads, bytes=128 << 20, passes=3)) / 1e9


def measure(layers: list[Layer], context: int, tokens: int, threads: int) -> dict[str, Any]:
    """Time calls of ``tokens`` tokens that end the context, over the layers in turn, in rounds between two probes."""
    q, out = torch.randn(tokens, HEADS, HEAD_DIM), torch.empty(tokens, HEADS, HEAD_DIM)
    first = context - tokens
    moved = moved_bytes(layers[0], context, tokens)
    flops = 4 * HEAD_DIM * HEADS * sum(first + t + 1 for t in range(tokens))
    paged_attention(q, first_position=first, out=out, threads=threads, **layers[0])
    times: list[float] = []
    fractions: list[float] = []
    probes = [probe(threads)]
    for _ in range(ROUNDS):
        start, done = time.perf_counter(), len(times)
        while len(times) < done + 3 or time.perf_counter() < start + ROUND_SECONDS:
            begin = time.perf_counter()
            paged_attention(q, first_position=first, out=out, threads=threads, **layers[len(times) % len(layers)])
            times.append(time.perf_counter() - begin)
        rate = moved * (len(times) - done) / (time.perf_counter() - start) / 1e9
        probes.append(probe(threads))
        before, after = probes[-2:]
        if max(before, after) <= STEADY * min(before, after):
            fractions.append(rate / ((before + after) / 2))
    median, tenths = statistics.median(times), statistics.quantiles(times, n=10, method="inclusive")
    return {
        "context": context,
        "tokens": tokens,
        "calls": len(times),
        "us_p10": 1e6 * tenths[0],
        "us_median": 1e6 * median,
        "us_p90": 1e6 * tenths[-1],
        "bytes": moved,
        "gbytes_per_s": moved / median / 1e9,
        "read_gbytes_per_s": probes,
        "fraction_of_read": statistics.median(fractions) if fractions else None,
        "steady_rounds": len(fractions),
        "tflop_per_s": flops / median / 1e12,
        "tflop_per_s_p10": flops / tenths[0] / 1e12,
        "load_average": os.getloadavg()[0],
    }


def show(r: dict[str, Any]) -> None:
    us = "/".join(f"{r[k]:.0f}" for k in ("us_p10", "us_median", "us_p90"))
    fraction = "-" if r["fraction_of_read"] is None else f"{r['fraction_of_read']:.2f}"
    read = f"{min(r['read_gbytes_per_s']):.0f}..{max(r['read_gbytes_per_s']):.0f}"
    print(
        f"{r['isa']:<10} {r['kind']:>5} {r['context']:>7} {r['tokens']:>6} {us:>18} "
        f"{r['gbytes_per_s']:>6.1f} {read:>8} "
        f"{fraction:>6} ({r['steady_rounds']}/{ROUNDS}) {r['tflop_per_s']:>7.3f} {r['tflop_per_s_p10']:>7.3f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["int8"], choices=list(DTYPES))
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 64, 256])
    parser.add_argument("--isas", nargs="+", default=[_native.best_isa()], choices=_native.isas())
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if min([*arguments.tokens, arguments.threads]) < 1 or min(arguments.contexts) < 9:
        parser.error("--tokens and --threads must be positive, --contexts at least 9")
    torch.set_num_threads(1)
    print(f"{_native.cpu_brand()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'isa':<10} {'kind':>5} {'context':>7} {'tokens':>6} {'us p10/50/90':>18} {'GB/s':>6} {'read':>8} "
        f"{'fraction':>12} {'TFLOP/s':>7} {'at p10':>7}"
    )
    records = []
    for kind in arguments.kinds:
        for context in arguments.contexts:
            layers = make_layers(kind, context)
            for isa in arguments.isas:
                os.environ["TINYGPTV_CPU_ISA"] = isa
                check(layers[0], context)
                for tokens in (t for t in arguments.tokens if t <= context):
                    common = {"benchmark": "paged_attention", "cpu": _native.cpu_brand(), "isa": isa, "kind": kind}
                    shape = {"heads": HEADS, "head_dim": HEAD_DIM, "threads": arguments.threads}
                    records.append(common | shape | measure(layers, context, tokens, arguments.threads))
                    show(records[-1])
    if arguments.save:
        append("paged_attention.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
