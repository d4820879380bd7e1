"""Writes README's table of measured figures from committed results, or checks that the table shows nothing else.

python tools/readme_table.py           write the newest figures between README's two markers
python tools/readme_table.py --check   exit 1 if a row of README is not what some committed result says

Sources: benchmarks/results/*.jsonl and the demo model's training_log.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
DEMO_LOG = ROOT / "python" / "tinygptv_fast" / "assets" / "demo" / "training_log.json"
BEGIN, END = "<!-- measured:", "<!-- /measured -->"
HEAD = ["| what | measured | from |", "|---|---|---|"]


def records(name: str) -> list[dict[str, Any]]:
    """The lines of a results file, oldest first; none if it is not there."""
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def demo_row() -> list[str]:
    """Accuracy of the shipped demo model."""
    log = json.loads(DEMO_LOG.read_text(encoding="utf-8"))
    figures = log["figures"]["written"]
    minutes = log["training_seconds"] / 60
    return [
        f"| demo model at int4, vision int8: {log['bytes'] / 1e6:.1f} MB, trained {minutes:.0f} minutes on "
        f"{log['threads']} cores | {figures['accuracy']:.1%} of {figures['questions']:,} questions about held-out "
        "pictures right | `assets/demo/training_log.json` |"
    ]


def error_rows() -> list[str]:
    """Rounding error of int4 on normal weights, one row per record."""
    return [
        f"| int4, groups of {r['group']}, N(0,1) weights | rms error {r['rmse']:.4f} (round to nearest "
        f"{r['round_to_nearest']:.4f}, Q4_0's rule {r['q4_0_rule']:.4f}) | `results/quantize_error.jsonl` |"
        for r in records("quantize_error.jsonl")
        if r["weights"] == "normal" and r["format"] == "symmetric"
    ]


def conversion_rows() -> list[str]:
    """Converting files of the real sizes (random weights), one row per record."""
    return [
        f"| {r['source_bytes'] / 1e9:.1f} GB of original files (real sizes, random weights) to {r['quantization']} "
        f"| {r['output_bytes'] / 1e9:.2f} GB in {r['wall_seconds']:.0f} s on {r['threads']} cores, "
        f"peak anonymous memory {r['rss_anon_peak_bytes'] / 1e9:.2f} GB | `results/conversion.jsonl` |"
        for r in records("conversion.jsonl")
        if r["quantization"] == "int4"
    ]


def newest() -> list[str]:
    """The rows to show: the demo, groups of 32, and the last conversion."""
    return [*demo_row(), *error_rows()[:1], *conversion_rows()[-1:]]


def split(text: str) -> tuple[str, list[str], str]:
    """README as (up to and with the first marker line, table lines, from the second marker)."""
    start = text.index("\n", text.index(BEGIN)) + 1
    stop = text.index(END, start)
    return text[:start], text[start:stop].splitlines(), text[stop:]


def check(text: str) -> list[str]:
    """Sentences about rows that no result supports; empty if the table is honest."""
    shown = split(text)[1]
    allowed = {*demo_row(), *error_rows(), *conversion_rows()}
    if shown[:2] != HEAD or len(shown) < 3:
        return ["README.md has no table of measured figures: run tools/readme_table.py"]
    return [f"README.md shows what no committed result says: {row}" for row in shown[2:] if row not in allowed]


def main() -> int:
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        found = check(text)
        print("\n".join(found), end="\n" if found else "")
        return 1 if found else 0
    before, _, after = split(text)
    README.write_text(before + "\n".join([*HEAD, *newest()]) + "\n" + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
