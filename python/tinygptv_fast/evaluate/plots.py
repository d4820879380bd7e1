"""Accuracy against size, memory and speed: a row of three pictures for each column that a run has."""

from __future__ import annotations

import io
import statistics
from typing import Any

from ..errors import UnsupportedError
from .comparison import Comparison, Row

_AXES = (
    ("size", "parameters of the language model (billions)"),
    ("memory_gb", "memory (GB)"),
    ("seconds_per_word", "seconds per word"),
)
_OURS, _THEIRS = "#c03030", "#4060a0"


def check_available() -> None:
    """Raise UnsupportedError without matplotlib: before anything is asked."""
    _pyplot()


def draw(comparison: Comparison) -> bytes | None:
    """A PNG, or None if no run has a column of the paper's table. Both scorers of a run are drawn."""
    measured = [row for row in comparison.rows if row.measured]
    columns = [column for column in comparison.columns if any(column in row.accuracies for row in measured)]
    if not columns:
        return None
    pyplot = _pyplot()
    figure, grid = pyplot.subplots(
        len(columns), len(_AXES), figsize=(13, 4.4 * len(columns)), squeeze=False, layout="constrained"
    )
    for line, column in zip(grid, columns, strict=True):
        for axes, (name, label) in zip(line, _AXES, strict=True):
            _scatter(axes, comparison, column, name)
            axes.set_xlabel(label)
        line[0].set_ylabel(f"{column} accuracy (%)")
    figure.suptitle(
        "What the paper reports of its data (blue), and this run of the data it was given (red), on another machine",
        fontsize=10,
    )
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return out.getvalue()


def _scatter(axes: Any, comparison: Comparison, column: str, name: str) -> None:
    shown = [row for row in comparison.rows if column in row.accuracies and getattr(row, name) is not None]
    middle = statistics.median([getattr(row, name) for row in shown if row.measured is None] or [0.0])
    turns = {False: 0, True: 0}
    for row in sorted(shown, key=lambda row: row.accuracies[column]):
        x, y = getattr(row, name), row.accuracies[column]
        axes.plot([x], [y], "o", color=_OURS if row.measured else _THEIRS, markersize=6 if row.measured else 4)
        # Many models have one size: labels stand by turns below and above, those of smaller models on the left.
        left = name == "size" and row.measured is None and x < middle
        turns[left] += 1
        place = (-4 if left else 4, -8 if turns[left] % 2 else 4)
        side = "right" if left else "left"
        axes.annotate(_label(row), (x, y), xytext=place, textcoords="offset points", fontsize=6, ha=side)
    if any(getattr(row, name) > 0 for row in shown):
        axes.set_xscale("log")
    axes.margins(0.15)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)


def _label(row: Row) -> str:
    return row.name if row.measured is None else f"this run, {row.measured}"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UnsupportedError("--compare needs matplotlib: pip install 'tinygptv_fast[eval]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
