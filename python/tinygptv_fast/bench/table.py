"""Rows as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .row import Row

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = ("what", "median", "p10", "p90", "unit", "n", "dropped", "GB/s", "GOP/s", "read GB/s", "of roof", "noise")


def table(rows: Sequence[Row], title: str) -> Table:
    """All rows, section by section. "of roof": the larger of the fractions of bandwidth and of int8 peak; "noise": the
    larger of the foreign and the stolen share of CPU time."""
    from rich.table import Table

    out = Table(title=title, title_justify="left")
    for heading in _HEADINGS:
        out.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    section = None
    for row in rows:
        if section not in (None, row.section):
            out.add_section()
        section = row.section
        out.add_row(f"{row.section}: {row.name}", *_cells(row))
    return out


def notes(rows: Sequence[Row]) -> list[str]:
    """Sentences that belong under the table."""
    out = []
    for row in rows:
        details = row.details
        if "paper_seconds_per_word" in details and row.median is not None:
            out.append(
                f"{row.median:.3f} s/word at {details['tokens_per_word']} tokens a word; the paper measured "
                f"{details['paper_seconds_per_word']} on its GPU"
            )
        if "p99_over_median" in details:
            out.append(f"{row.name}: p99 {details['p99']:.2f} ms, {details['p99_over_median']:.2f} of the median")
        if "over_weights_and_kv" in details:
            out.append(f"{row.name}: {details['over_weights_and_kv']:.3f} of packed weights and touched KV")
    empty = [f"{row.section}: {row.name}" for row in rows if row.median is None and row.dropped]
    if empty:
        out.append(
            f"figures in brackets do not count: the read bandwidth moved by more than 5 % around every block of "
            f"{', '.join(empty)}; run again on a quieter machine"
        )
    return out


def _cells(row: Row) -> list[str]:
    noise = [share for share in (row.foreign_share, row.stolen_share) if share is not None]
    return [
        _median(row), _number(row.p10), _number(row.p90), row.unit, str(row.n), str(row.dropped),
        _number(row.gb_per_s), _number(row.gop_per_s), _number(row.read_gb_per_s), _fraction(row.fraction_of_roof),
        f"{max(noise):.1%}" if noise else "-",
    ]  # fmt: skip


def _median(row: Row) -> str:
    """In brackets if no block counted: then it is that of the dropped ones."""
    lost = row.details.get("median_of_dropped")
    return f"({_number(lost)})" if row.median is None and lost is not None else _number(row.median)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
