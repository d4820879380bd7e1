"""The matrices of a decoder step in the phases of one pool: what decoding can reach before attention.

    python benchmarks/linear_step.py [--save] [--tokens 1 2 3 4 8 64 256] [--kinds int4 int8] [--isas avx2]

The packed weights of 32 Phi-2 layers lie end to end in huge-page memory: [Wqkv 7680x2560 | W1 10240x2560] and
[Wo 2560x2560 | W2 2560x10240]; workers round activations in one phase and claim row blocks in the next, ``--window``
layers a round. As much of the same memory is plainly read directly before and after every round; the fraction is the
weights' bytes over the round's time and the mean of both readings, the median over the rounds in which these differ by
less than 5 % (how many those were stands beside it). Short windows find the moments in which nobody else uses the
machine. That the products are right is checked by csrc/tests/linear_test.cc.
"""

from __future__ import annotations

import argparse
import os
import statistics
from typing import Any

from quantize_common import append
from tinygptv_fast import _native

STEADY = 1.05  # a round counts for the fraction only if its two readings differ by less


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """One record of the rounds of one number of tokens."""
    seconds = sorted(r["seconds"] for r in rounds)
    reads = [(r["read_before"] + r["read_after"]) / 2 for r in rounds]
    steady = [
        r["bytes"] / r["seconds"] / read
        for r, read in zip(rounds, reads, strict=True)
        if max(r["read_before"], r["read_after"]) <= STEADY * min(r["read_before"], r["read_after"])
    ]
    median = statistics.median(seconds)
    return {
        "tokens": rounds[0]["tokens"],
        "rounds": len(rounds),
        "ms_min": 1e3 * seconds[0],
        "ms_median": 1e3 * median,
        "ms_max": 1e3 * seconds[-1],
        "bytes": rounds[0]["bytes"],
        "read_gbytes_per_s": statistics.median(reads) / 1e9,
        "fraction_of_read": statistics.median(steady) if steady else None,
        "steady_rounds": len(steady),
        "gop_per_s": rounds[0]["operations"] / median / 1e9,
        "gop_per_s_best": rounds[0]["operations"] / seconds[0] / 1e9,
        "load_average": os.getloadavg()[0],
    }


def show(r: dict[str, Any], first: dict[str, Any]) -> None:
    fraction = "-" if r["fraction_of_read"] is None else f"{r['fraction_of_read']:.3f}"
    print(
        f"{r['kind']:<5} {r['isa']:<10} {r['group']:>5} {r['tokens']:>6} "
        f"{r['ms_min']:>9.1f} {r['ms_median']:>9.1f} {r['ms_median'] / first['ms_median']:>6.2f} "
        f"{r['read_gbytes_per_s']:>6.1f} {fraction:>6} ({r['steady_rounds']}/{r['rounds']}) "
        f"{r['gop_per_s']:>6.0f} {r['gop_per_s_best']:>6.0f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--kinds", nargs="+", default=["int4"], choices=["int4", "int8", "bf16", "f32"])
    parser.add_argument("--groups", type=int, nargs="+", default=[32])
    parser.add_argument("--isas", nargs="+", default=[_native.best_isa()], choices=_native.isas())
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    print(f"{_native.cpu_brand()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("kind  isa        group tokens    ms min    median    x M1   read  fraction       GOP/s   best")
    records = []
    for kind in arguments.kinds:
        for group in arguments.groups if kind == "int4" else [0]:
            for isa in arguments.isas:
                rounds = _native.linear_probe(
                    arguments.tokens, kind=kind, group_size=group or 32, layers=arguments.layers,
                    rounds=arguments.rounds, window=arguments.window, threads=arguments.threads, isa=isa,
                )  # fmt: skip
                common = {"benchmark": "linear_step", "cpu": _native.cpu_brand(), "threads": arguments.threads}
                common |= {
                    "kind": kind,
                    "isa": isa,
                    "group": group,
                    "layers": arguments.layers,
                    "window": arguments.window,
                }
                done = [common | summary([r for r in rounds if r["tokens"] == t]) for t in arguments.tokens]
                for record in done:
                    show(record, done[0])
                records += done
    if arguments.save:
        append("linear_step.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
