"""``report.json``, ``report.md`` and ``report.html`` of a run, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import plots
from .comparison import REPORT, Comparison, compare, read_report
from .figures import Figure, Scored, cost, figures, score
from .files import replace_file
from .markdown import markdown
from .page import page
from .run import Run

SCHEMA_VERSION = 1
NAMED = 1000  # skipped records that report.json names; the count is of all
MARKDOWN, PAGE, PLOT = "report.md", "report.html", "comparison.png"


def write_reports(run: Run, out: Path, *, comparison: bool = False, others: Sequence[Path] = ()) -> dict[str, Any]:
    """Write the reports into folder ``out``; returns what ``report.json`` holds.

    comparison: with the paper's tables, and the runs in the folders ``others``, beside this one; needs matplotlib.
    Apart from ``cost`` (and what is made of it), the reports depend on the answers alone.
    """
    scored = score(run)
    found = figures(run.benchmark, scored)
    report = _report(run, found)
    stacked = compare([report, *map(read_report, others)]) if comparison else None
    plot = None if stacked is None else plots.draw(stacked)
    if stacked is not None:
        report["comparison"] = stacked.to_dict()
    _write(out, run, found, _wrong_first(scored), report, stacked, plot)
    return report


def _write(
    out: Path,
    run: Run,
    found: Sequence[Figure],
    scored: Sequence[Scored],
    report: dict[str, Any],
    stacked: Comparison | None,
    plot: bytes | None,
) -> None:
    replace_file(out / MARKDOWN, markdown(run, found, scored, report, stacked))
    replace_file(out / PAGE, page(run, found, scored, report, stacked, plot))
    if plot is not None:
        replace_file(out / PLOT, plot)
    replace_file(out / REPORT, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _wrong_first(scored: Sequence[Scored]) -> list[Scored]:
    """By strict score, equal ones in the order of the data."""
    return sorted(scored, key=lambda one: one.strict)


def _report(run: Run, found: Sequence[Figure]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "evaluation",
        "set": run.benchmark.name,
        "title": run.benchmark.title,
        "model": dict(run.model),
        "data": {"files": list(run.data.files), "sha256": run.data.digest, "records": run.data.records},
        "settings": run.settings.to_dict(),
        "questions": len(run.data.questions),
        "answered": len(run.answers),
        "skipped": {
            "count": len(run.skipped),
            "records": [{"where": one.where, "why": one.why} for one in run.skipped[:NAMED]],
        },
        "figures": [vars(figure) for figure in found],
        "notes": list(run.benchmark.notes),
        "cost": cost(run),
    }
