"""How the command line writes: text or json on stdout, progress on stderr. Knows the terminal, nothing of models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol

from .. import env

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
_FILE_WIDTH = 10_000  # columns when the output is not a terminal: programs that read lines want them whole


class Report(Protocol):
    """Called with work done, work in all (one unit for both), and what is being done."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def console(stream: IO[str] | None = None) -> Console:
    """A console on ``stream`` (default stdout) that honours NO_COLOR and writes plain text to files and pipes."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    width = None if stream.isatty() else _FILE_WIDTH
    return Console(file=stream, width=width, no_color=not env.read_settings().color, highlight=False, markup=False)


def print_json(kind: str, data: dict[str, Any]) -> None:
    """Write ``data`` as one json object with ``schema_version`` and ``kind`` on stdout."""
    out = {"schema_version": SCHEMA_VERSION, "kind": kind, **data}
    sys.stdout.write(json.dumps(out, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[Report]:
    """A bar on stderr while the block runs; nothing at all when quiet or when stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, text="": None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task(text, total=None)

        def report(done: int, total: int, text: str = "") -> None:
            bar.update(task, completed=done, total=total, description=text or None)

        yield report


def printable(text: str) -> str:
    """``text`` with control characters written as escapes: what a model says must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def gigabytes(count: float) -> str:
    """Bytes for people, in powers of 1000: '1.49 GB', '820 kB'."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
