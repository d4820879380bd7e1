"""``bench``: how fast this machine runs a model, and how near that is to what the machine could do."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import note
from .output import console, progress

if TYPE_CHECKING:
    from ..bench.row import Row


def bench(
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="DIR|demo", help="Measure this model's weights.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="Or random weights of this size: phi2 (the default), tiny.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION",
            help="Only this section; repeat it, or separate them by commas: kernels, decode, prefill, batch, engine, "
            "load, ttft, and the long ones that only run when named: vision, jitter, soak.",
        ),
    ] = None,
    group: Annotated[int | None, typer.Option(help="Random weights: int4 groups of 32 (default), 64 or 128.")] = None,
    kv: Annotated[str, typer.Option(help="Keys and values: int8, float16, bfloat16 or float32.")] = "int8",
    isa: Annotated[str, typer.Option(help="Instruction set: portable, avx2, avxvnni, avx512, avx512vnni.")] = "",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Blocks that must count for a figure (default 9; 2 with --quick).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Add one JSON line per row to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the fractions of the roof (.png, .svg); needs matplotlib.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short blocks and contexts: does it work?")] = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure this machine: kernels, decoding, prompts, several sequences, starts.

    Each block of work stands between two probes of the read bandwidth; blocks whose probes differ by more than 5 % are
    dropped and counted. Ctrl-C shows what was measured so far.
    """
    from ..bench.options import Options

    asked = Options(
        model=model,
        shape=shape,
        only=tuple(name.strip() for text in only or () for name in text.split(",")),
        group_size=group,
        kv_dtype=kv,
        threads=threads or 0,
        isa=isa,
        rounds=rounds,
        quick=quick,
    )
    from ..bench.report import Lines, check_plot
    from ..bench.runner import run

    if plot is not None:
        check_plot(plot)
    lines = _lines(json_file, Lines)
    context: dict[str, Any] = {}
    rows: list[Row] = []
    try:
        with _ended_as_by_ctrl_c(), progress("measuring", quiet=quiet) as report:
            for context, row in run(asked, report):
                rows.append(row)
                if lines is not None:
                    lines.add(context, row)
    finally:
        if lines is not None:
            lines.close()
        if rows:
            _show(context, rows, plot, quiet)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM leaves no temporary directory behind either, and shows what was measured."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(path: Path | None, make: Any) -> Any:
    if path is None:
        return None
    if path.is_dir():
        raise InvalidArgumentError(f"--json is {path}, a directory, expected a file")
    return make(path)


def _show(context: dict[str, Any], rows: list[Row], picture: Path | None, quiet: bool) -> None:
    from ..bench.report import plot
    from ..bench.table import notes, table

    screen = console()
    title = (
        f"{context['cpu']}, {context['threads']} threads, {context['isa']}; {context['subject']}, "
        f"groups of {context['group']}, {context['kv']} keys and values"
    )
    screen.print(table(rows, title))
    for text in notes(rows):
        screen.print(text, soft_wrap=True)
    if picture is not None:
        if plot(picture, context, rows):
            note(f"wrote {picture}", quiet=quiet)
        else:
            note("no row has a roof, so there is no picture", quiet=quiet)
