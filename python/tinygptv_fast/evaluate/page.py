"""A report as one html file that needs nothing else: figures, comparison, pictures with answers, wrong ones first.

Every text goes through ``html.escape``; a content policy forbids scripts and anything from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from .comparison import Comparison
from .figures import Figure, Scored
from .markdown import NAMED, expected, number
from .run import Run
from .thumbnails import thumbnail

PICTURES = 60  # questions that are shown; each is some 15 kB
_LONGEST = 600  # characters of a text that is shown

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .6em 0; } td, th { border: 1px solid #ccc; padding: .25em .6em; }
th { background: #f3f3f3; text-align: left; } .ours td { background: #fff4f0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(22em, 1fr)); gap: 1em; }
.card { border: 1px solid #ccc; border-left: 6px solid #0a8c46; padding: .6em; overflow-wrap: anywhere; }
.wrong { border-left-color: #d22828; } .card img, .plot { max-width: 100%; }
dt { color: #777; } dd { margin: 0 0 .4em; }
</style>
"""


def page(
    run: Run,
    found: Sequence[Figure],
    scored: Sequence[Scored],
    report: Mapping[str, Any],
    comparison: Comparison | None,
    plot: bytes | None,
) -> str:
    """The whole page. ``scored``: wrong first; the first PICTURES of them are shown."""
    parts = [_HEAD, f"<title>{escape(run.benchmark.title)}</title></head><body>"]
    parts += [f"<h1>{escape(run.benchmark.title)}</h1>", *_about(report), *_figures(run, found), *_skipped(run)]
    if comparison is not None:
        parts += _comparison(comparison, plot)
    shown = scored[:PICTURES]
    parts.append(f"<h2>Answers</h2><p>{len(shown)} of {len(scored)}, the wrong ones first.</p><div class=cards>")
    return "\n".join([*parts, *map(_card, shown), "</div></body></html>\n"])


def _about(report: Mapping[str, Any]) -> Iterator[str]:
    model, data = report["model"], report["data"]
    rows = {
        "model": f"{model['model_id'][:16]}, {model['dtype']}, {model['device']}",
        "data": f"{', '.join(data['files'])} (sha256 {data['sha256'][:16]})",
        "prompts": report["settings"]["protocol"],
        "answered": f"{report['answered']} of {report['questions']} questions, {report['skipped']['count']} skipped",
    }
    yield _table((), list(rows.items()))


def _figures(run: Run, found: Sequence[Figure]) -> Iterator[str]:
    yield "<h2>Figures</h2>"
    rows = [(f.scorer, f.measure, f"{f} {f.unit}".strip()) for f in found]
    yield _table(("scorer", "measure", "value [95 % interval]"), rows)
    yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in run.benchmark.notes) + "</ul>"


def _skipped(run: Run) -> Iterator[str]:
    if run.skipped:
        items = "".join(f"<li>{_text(f'{one.where}: {one.why}')}</li>" for one in run.skipped[:NAMED])
        yield f"<h2>Skipped</h2><p>{len(run.skipped)} records.</p><ul>{items}</ul>"


def _comparison(comparison: Comparison, plot: bytes | None) -> Iterator[str]:
    yield "<h2>How it stacks up</h2>"
    head = ("model", "size (B)", *comparison.columns, "average", "s per word", "memory (GB)")
    yield "<table><tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>"
    for row in comparison.rows:
        cells = [row.accuracies.get(column) for column in comparison.columns]
        numbers = map(number, (row.size, *cells, row.average, row.seconds_per_word, row.memory_gb))
        mark = ' class="ours"' if row.measured else ""
        yield f"<tr{mark}>" + "".join(f"<td>{escape(text)}</td>" for text in (row.name, *numbers)) + "</tr>"
    yield "</table>"
    notes = (f"Source: {comparison.source}.", *comparison.notes, *comparison.extra)
    yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
    if plot is not None:
        data = base64.b64encode(plot).decode("ascii")
        yield f'<p><img class="plot" alt="accuracy against size, memory, speed" src="data:image/png;base64,{data}"></p>'


def _card(one: Scored) -> str:
    picture = thumbnail(one)
    image = "<p>(the picture can no longer be read)</p>" if picture is None else f'<img alt="" src="{picture}">'
    paper = "" if one.paper is None else f", paper-compatible {one.paper:.2f}"
    rows = {
        "question": one.question.text or "(none)",
        "answer": one.given.text or "(empty)",
        "expected": expected(one),
        "scores": f"strict {one.strict:.2f}{paper}",
        "id": one.question.id,
    }
    items = "".join(f"<dt>{name}</dt><dd>{_text(text)}</dd>" for name, text in rows.items())
    kind = "card wrong" if one.strict < 1 else "card"
    return f'<div class="{kind}">{image}<dl>{items}</dl></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{_text(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _text(text: str) -> str:
    """Escaped, of bounded length, with control characters written out."""
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    plain = "".join(c if c.isprintable() or c.isspace() else c.encode("unicode_escape").decode() for c in short)
    return escape(plain)
