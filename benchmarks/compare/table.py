"""The race's lines as tables: medians of the rounds, and ours over the best peer, round by round.

python benchmarks/compare/table.py WORK/race-*.jsonl
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from catalogue import ENTRIES, OURS, Entry

Line = dict[str, Any]
RATES = ("decode@64", "decode@1024", "decode@1984", "prefill@64", "prefill@256", "prefill@1024")
BATCHES = ("batch2@64", "batch3@64", "batch4@64", "batch8@64")
STARTS = ("load", "first_token", "peak_resident", "peak_resident_batch")
AVX2 = "-avx2"
STEADY = 1.10  # probes around an engine that differ by more say nothing about a fraction


def clean(lines: Iterable[Line]) -> dict[tuple[str, str], dict[int, float]]:
    """(entry, metric) → round → value. A repeated measurement replaces the contended one; contended ones are out."""
    out: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for line in lines:
        if "value" in line and not line.get("contended"):
            out[line["entry"], line["metric"]][line["round"]] = line["value"]
    return out


def _cell(values: dict[int, float]) -> str:
    if not values:
        return "–"
    found = sorted(values.values())
    middle = f"{statistics.median(found):.3g}"
    return middle if len(found) == 1 else f"{middle} [{found[0]:.3g}–{found[-1]:.3g}]"


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    print()


def present(lines: list[Line]) -> list[Entry]:
    names = {line["entry"] for line in lines if "entry" in line}
    return [entry for entry in ENTRIES if entry.name in names]


def print_accuracy(lines: list[Line]) -> None:
    """One row per engine: its logits against float32 ones of the same weights."""
    rows = []
    for entry in ENTRIES:
        found = [line for line in lines if line["entry"] == entry.name and line["metric"] == "accuracy"]
        if found:
            last = found[-1]
            numbers = [f"{last['relative_l2']:.4f}", f"{last['kl']:.5f}", f"{last['same_argmax']:.3f}"]
            rows.append([entry.name, f"{entry.bits:.2f}", *numbers, str(last.get("kv", last.get("kv_dtype", "")))])
    print("logits of three prompts of 64 tokens against float32")
    _print_table(["entry", "bits", "relative L2", "KL (nats)", "same argmax", "kv"], rows)


def print_rates(lines: list[Line]) -> None:
    values = clean(lines)
    entries = present(lines)
    for title, metrics in (("tokens per second", RATES), ("several sequences, tokens per second together", BATCHES),
                           ("seconds and GiB", STARTS)):  # fmt: skip
        shown = [metric for metric in metrics if any((entry.name, metric) in values for entry in entries)]
        rows = [[entry.name, *(_cell(values.get((entry.name, metric), {})) for metric in shown)] for entry in entries]
        if shown:
            print(f"{title}: median [least–most] of the rounds")
            _print_table(["entry", *shown], rows)


def fractions(lines: list[Line], entry: Entry) -> list[float]:
    """decode@64 times the bytes of weights, over the mean of the probes before and after the engine, per round."""
    found = clean(lines).get((entry.name, "decode@64"), {})
    out = []
    for probe in (line for line in lines if line["metric"] == "probe" and line["entry"] == entry.name):
        before, after = probe["before"], probe["after"]
        if probe["round"] in found and max(before, after) <= STEADY * min(before, after):
            out.append(found[probe["round"]] * entry.bytes_per_token / 1e9 / ((before + after) / 2))
    return out


def print_fractions(lines: list[Line]) -> None:
    rows = []
    for entry in present(lines):
        steady = fractions(lines, entry)
        probes = [value for line in lines if line["metric"] == "probe" and line["entry"] == entry.name
                  for value in (line["before"], line["after"])]  # fmt: skip
        if probes:
            middle = f"{statistics.median(steady):.2f} ({len(steady)})" if steady else "–"
            span = f"{min(probes):.1f}–{max(probes):.1f}"
            rows.append([entry.name, f"{entry.bytes_per_token / 1e9:.3f}", span, middle])
    print("weights read per token at decode@64 over the read bandwidth probed around the engine (steady rounds)")
    _print_table(["entry", "GB/token", "probes GB/s", "fraction"], rows)


def ratios(lines: list[Line], ours: Entry, metric: str, peers: Callable[[Entry], bool]) -> dict[int, tuple[float, str]]:
    """round → (ours over the best of ``peers`` in that round, its name)."""
    values = clean(lines)
    out: dict[int, tuple[float, str]] = {}
    for number, value in values.get((ours.name, metric), {}).items():
        rivals = [
            (values[entry.name, metric][number], entry.name)
            for entry in ENTRIES
            if entry.family != OURS and peers(entry) and number in values.get((entry.name, metric), {})
        ]
        if rivals:
            best, name = max(rivals)
            out[number] = (value / best, name)
    return out


def _classes(ours: Entry) -> list[tuple[str, Callable[[Entry], bool]]]:
    """Which peers ``ours`` is held against. The row of an older instruction set races the peer built for that."""
    if ours.name.endswith(AVX2):
        return [("avx2", lambda entry: entry.name.endswith(AVX2))]
    newer = [entry.name for entry in ENTRIES if not entry.name.endswith(AVX2)]
    return [
        ("any", lambda entry: entry.name in newer),
        (f"group {ours.group}", lambda entry: entry.name in newer and entry.group == ours.group),
        ("llama.cpp", lambda entry: entry.name in newer and entry.family == "llamacpp"),
    ]


def print_ratios(lines: list[Line]) -> None:
    rows = []
    for ours in present(lines):
        if ours.family != OURS:
            continue
        for label, accepts in _classes(ours):
            for metric in (*RATES, *BATCHES):
                found = ratios(lines, ours, metric, accepts)
                if found:
                    each = " ".join(f"{found[number][0]:.2f}" for number in sorted(found))
                    names = sorted({name for _, name in found.values()})
                    middle = f"{statistics.median(value for value, _ in found.values()):.2f}"
                    rows.append([ours.name, metric, label, middle, each, ", ".join(names)])
    if rows:
        print("ours over the best peer of the same round")
        _print_table(["entry", "metric", "against", "median", "by round", "best peer"], rows)


def print_contended(lines: list[Line]) -> None:
    found = [line for line in lines if line.get("contended")]
    print(f"{len(found)} measurements while others used the CPU; they are in no table above")
    for line in found:
        print(f"  round {line['round']} {line['entry']} {line['metric']} {line['value']:.3g} {line['unit']}, "
              f"foreign {line['foreign']:.2f}, stolen {line['stolen']:.2f} cores")  # fmt: skip


def print_all(lines: list[Line]) -> None:
    print_rates(lines)
    print_fractions(lines)
    print_ratios(lines)
    print_contended(lines)


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print_all(read(Path(argument)))
