"""Rows as JSON lines and as a picture. Tables for people are in ``table``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from .row import Row

PICTURES = (".png", ".svg")


class Lines:
    """A file of JSON lines, one per row, added to what is there; each is on the disk before the next is measured."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def add(self, context: dict[str, Any], row: Row) -> None:
        """Append one line: the context's fields and the row's."""
        self._file.write(json.dumps({**context, **row.to_dict()}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def check_plot(path: Path) -> None:
    """Raise before anything is measured if ``path`` cannot become a picture."""
    if path.suffix.lower() not in PICTURES:
        raise InvalidArgumentError(f"--plot is {path}, expected a name that ends in {' or '.join(PICTURES)}")
    if not path.absolute().parent.is_dir():
        raise InvalidArgumentError(f"--plot is {path}, whose folder does not exist")
    _pyplot()


def plot(path: Path, context: dict[str, Any], rows: Sequence[Row]) -> bool:
    """Bars of the fraction of the roof per row; False if no row has one. Written at once, replacing ``path``."""
    shown = [row for row in rows if row.fraction_of_roof is not None]
    if not shown:
        return False
    pyplot = _pyplot()
    colours = dict(zip(dict.fromkeys(row.section for row in shown), pyplot.get_cmap("tab10").colors * 2, strict=False))
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.28 * len(shown)), layout="constrained")
    places = range(len(shown))
    values = [row.fraction_of_roof for row in shown]
    axes.barh(places, values, color=[colours[row.section] for row in shown], height=0.7)
    axes.set_yticks(places, [f"{row.section}: {row.name}" for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, color="0.3", linewidth=1, linestyle="--")
    axes.set_xlim(0, max(1.12, *(1.12 * (value or 0) for value in values)))
    for place, row in zip(places, shown, strict=True):
        text = f" {row.fraction_of_roof:.2f}   {row.median:.4g} {row.unit}"
        axes.text(row.fraction_of_roof or 0.0, place, text, va="center", fontsize=7, color="0.2")
    axes.set_xlabel("fraction of the roof measured beside it (read bandwidth, int8 in registers)")
    axes.set_title(
        f"{context['cpu']}, {context['threads']} threads, {context['isa']}; {context['subject']}", fontsize=9
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return True


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UnsupportedError("--plot needs matplotlib: pip install tinygptv_fast[bench]") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
