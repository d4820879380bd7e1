"""A report as Markdown: figures, what was skipped, some wrong answers, the comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .comparison import Comparison
from .figures import Figure, Scored
from .run import Run

WRONG = 20  # wrong answers that are listed
NAMED = 20  # skipped records that are named


def markdown(
    run: Run,
    found: Sequence[Figure],
    scored: Sequence[Scored],
    report: Mapping[str, Any],
    comparison: Comparison | None,
) -> str:
    """The whole text. ``scored``: wrong first."""
    lines = [f"# {run.benchmark.title}", "", *_about(report), "", "## Figures", "", *_figures(found), ""]
    lines += [f"* {escape(note)}" for note in run.benchmark.notes]
    lines += ["", "## Skipped", "", *_skipped(run)]
    if comparison is not None:
        lines += ["", "## How it stacks up", "", *_comparison(comparison)]
    return "\n".join([*lines, "", "## Wrong answers", "", *_wrong(scored)]) + "\n"


def escape(text: str) -> str:
    """``text`` in one line, with everything that Markdown or html would read as a mark taken to the letter."""
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", flat)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of texts that are escaped already."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _about(report: Mapping[str, Any]) -> Iterator[str]:
    model, data = report["model"], report["data"]
    yield f"* model: `{model['model_id'][:16]}`, {escape(str(model['dtype']))}, {escape(str(model['device']))}"
    yield f"* data: {', '.join(map(escape, data['files']))} (sha256 `{data['sha256'][:16]}`)"
    yield f"* prompts: {report['settings']['protocol']}"
    yield f"* answered: {report['answered']} of {report['questions']} questions, {report['skipped']['count']} skipped"


def _figures(found: Sequence[Figure]) -> Iterator[str]:
    rows = [(f.scorer, escape(f.measure), escape(str(f)), f.unit) for f in found]
    yield from table(("scorer", "measure", "value [95 % interval]", "unit"), rows)


def _skipped(run: Run) -> Iterator[str]:
    if not run.skipped:
        yield "Nothing."
    for one in run.skipped[:NAMED]:
        yield f"* {escape(one.where)}: {escape(one.why)}"
    if len(run.skipped) > NAMED:
        yield f"* and {len(run.skipped) - NAMED} more, in report.json"


def _comparison(comparison: Comparison) -> Iterator[str]:
    head = ("model", "size (B)", *comparison.columns, "average", "s per word", "memory (GB)")
    rows = []
    for row in comparison.rows:
        cells = [row.accuracies.get(column) for column in comparison.columns]
        numbers = [*cells, row.average, row.seconds_per_word, row.memory_gb]
        rows.append((escape(row.name), number(row.size), *map(number, numbers)))
    yield from table(head, rows)
    yield ""
    yield f"Source: {escape(comparison.source)}."
    for note in (*comparison.notes, *comparison.extra):
        yield f"* {escape(note)}"


def _wrong(scored: Sequence[Scored]) -> Iterator[str]:
    wrong = [one for one in scored if one.strict < 1][:WRONG]
    if not wrong:
        yield "None."
        return
    rows = [(escape(one.question.id), escape(one.question.text), *_said(one)) for one in wrong]
    yield from table(("id", "question", "answer", "expected", "strict"), rows)


def _said(one: Scored) -> tuple[str, str, str]:
    return escape(one.given.text), escape(expected(one)), f"{one.strict:.2f}"


def expected(one: Scored) -> str:
    """The accepted answers as text, each once."""
    question = one.question
    if question.truths:
        return " / ".join(dict.fromkeys(question.truths))
    if question.target is not None:
        return f"box {', '.join(f'{value:g}' for value in question.target.xyxy)} (x1, y1, x2, y2)"
    return "yes" if question.label else "no"


def number(value: float | None) -> str:
    """A number for a table: up to four digits, "" for None."""
    return "" if value is None else f"{value:.4g}"
