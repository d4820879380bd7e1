"""How runs stack up against what the paper reports: one table, from reports of this and of other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .files import parse_json, read_bytes
from .paper import Paper, read_paper
from .sets import BENCHMARKS

REPORT = "report.json"
STRICT, COMPATIBLE = "strict", "paper-compatible"


@dataclass(frozen=True)
class Row:
    """One model. accuracies: percent by column. measured: whether by us, and then by which scorer."""

    name: str
    size: float | None
    accuracies: Mapping[str, float]
    average: float | None = None
    seconds_per_word: float | None = None
    memory_gb: float | None = None
    measured: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The paper's rows, then ours, two for each model: by the paper-compatible and by the strict scorer."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    source: str
    notes: tuple[str, ...]
    extra: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        rows = [{**vars(row), "accuracies": dict(row.accuracies)} for row in self.rows]
        return {"source": self.source, "columns": list(self.columns), "rows": rows, "notes": [*self.notes, *self.extra]}


def read_report(folder: Path) -> dict[str, Any]:
    """``report.json`` of another run. Raises InvalidArgumentError naming the file if it is none of ours."""
    path = folder / REPORT
    report = parse_json(path, read_bytes(path))
    wanted = {"kind", "set", "model", "figures", "cost"}
    if not isinstance(report, dict) or not wanted <= set(report) or report["kind"] != "evaluation":
        raise InvalidArgumentError(f"{path} is no report of 'tinygptv eval', expected the folder of a finished run")
    if report["set"] not in BENCHMARKS or not _well_formed(report):
        raise InvalidArgumentError(f"{path} is not whole, expected the folder of a finished run")
    return report


def compare(reports: Sequence[Mapping[str, Any]]) -> Comparison:
    """The paper's table with the runs of ``reports`` in it, those of the same model and settings in the same rows."""
    paper = read_paper()
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for report in reports:
        groups.setdefault(_identity(report), []).append(report)
    ours = [row for group in groups.values() for row in _ours(paper, group)]
    theirs = [Row(m.model, m.size, m.accuracies, m.average, m.seconds_per_word, m.memory_gb) for m in paper.models]
    extra = (*map(_about, reports), *_grounding(paper, reports))
    return Comparison(paper.columns, (*theirs, *ours), paper.source, paper.notes, extra)


def _about(report: Mapping[str, Any]) -> str:
    """What a run's figures are of: a part of a set, or other data in its form, is not what the paper measured."""
    data = report["data"]
    return (
        f"This run, {BENCHMARKS[report['set']].title}: {report['answered']} questions of {', '.join(data['files'])} "
        f"(sha256 {data['sha256'][:16]}). It compares with the paper only if that is the official split, whole."
    )


def _well_formed(report: Mapping[str, Any]) -> bool:
    try:
        _identity(report)
        _about(report)
        _ours(read_paper(), [report])
        return True
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _identity(report: Mapping[str, Any]) -> tuple[str, ...]:
    model = report["model"]
    return tuple(str(model[name]) for name in ("model_id", "adapter", "dtype", "kv_dtype")) + (
        str(report["settings"]["protocol"]),
    )


def _ours(paper: Paper, group: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = []
    for scorer in (COMPATIBLE, STRICT):
        found = {column: value for report in group if (column := _column(report)) for value in _value(report, scorer)}
        if not found:
            continue
        whole = set(found) == set(paper.columns)
        model = group[0]["model"]
        rows.append(
            Row(
                f"this run ({scorer}, {group[0]['settings']['protocol']} prompts)",
                model["language_parameters"] / 1e9,
                found,
                round(sum(found.values()) / len(found), 2) if whole else None,
                _speed(group),
                max(report["cost"]["peak_memory_bytes"] for report in group) / 1e9,
                scorer,
            )
        )
    return rows


def _column(report: Mapping[str, Any]) -> str | None:
    return BENCHMARKS[report["set"]].column


def _value(report: Mapping[str, Any], scorer: str) -> list[float]:
    """The scorer's mean in percent: the measure that the paper's columns hold."""
    return [float(f["value"]) for f in report["figures"] if f["scorer"] == scorer and f["unit"] == "%"][:1]


def _speed(group: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds per word over all runs of a model that wrote words."""
    written = [report["cost"] for report in group if report["cost"]["words"]]
    words = sum(cost["words"] for cost in written)
    return sum(cost["seconds"] for cost in written) / words if words else None


def _grounding(paper: Paper, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is known to set beside a run on RefCOCO: no table of the paper, but a file in its repository."""
    if not any(str(report["set"]).startswith("refcoco") for report in reports):
        return []
    values = ", ".join(f"{split} {value}" for split, value in paper.grounding["refcoco"].items())
    return [f"RefCOCO, the original: {values} (accuracy at IoU 0.5; {paper.grounding['source']})."]
