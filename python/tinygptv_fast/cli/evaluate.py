"""``eval``: a model on a public data set. ``export-world``: the drawn world in the files of such a set."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import loaded, note
from .options import check_exists, check_template, need_model
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..evaluate.run import Run

_SETS = (
    "gqa", "vsr", "iconqa", "vizwiz", "hateful-memes", "okvqa", "vqav2", "refcoco", "refcoco+", "refcocog", "captions",
)  # fmt: skip
_PAIRS = ("okvqa", "vqav2")
_SHOWN = 5  # skipped records that are named on the terminal

Set = Annotated[str, typer.Argument(metavar="SET", help=f"Which data set: {', '.join(_SETS)}.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where answers and reports go; an interrupted run goes on.")]


def evaluate(
    name: Set,
    data: Annotated[Path, typer.Option(metavar="FILE", help="The set's own file of questions (json or json lines).")],
    images: Annotated[Path, typer.Option(metavar="DIR", help="The folder of its pictures.")],
    out: Out,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The set's file of answers, where it has one (okvqa, vqav2).")
    ] = None,
    model: options.Model = None,
    protocol: Annotated[
        Literal["paper", "plain"],
        typer.Option(
            help="paper: the original's evaluation prompts; plain: the bare question in the model's template."
        ),
    ] = "paper",
    template: options.Template = None,
    max_new_tokens: options.MaxNewTokens = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put the paper's tables beside the result.")] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="With --compare: other runs to show; repeat it.")
    ] = None,
    backend: options.Backend = "native",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a model on a public data set, from the set's own files.

    Every figure comes twice: by the original's own scorer, quirks included, and by the field's. Writes report.json,
    report.md and report.html. Each answer is kept as it comes: Ctrl-C or a crash loses none, the same command goes on.
    A record that cannot be used is named and skipped.
    """
    _check(name, data, images, annotations, out)
    chosen = need_model(model, "eval")
    check_template(template)
    if beside and not compare:
        raise InvalidArgumentError("--beside is given without --compare, expected both")
    for folder in beside or []:
        check_exists("--beside", folder, directory=True)
    settings = {"protocol": protocol, "template": template, "max_new_tokens": max_new_tokens}
    run = _run(name, (data, images, annotations), out, chosen, settings, compare, backend, dtype, threads, quiet)
    _report(run, out, compare, beside or [], json_output, quiet)


def export_world(
    form: Annotated[str, typer.Option("--format", metavar="SET", help=f"Whose files: {', '.join(_SETS)}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to make.")],
    count: Annotated[int, typer.Option(min=1, max=20_000, help="How many questions.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Decides pictures and questions.")] = 0,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write drawn pictures and questions about them in a data set's own files, to try 'eval' without a download."""
    if form not in _SETS:
        raise InvalidArgumentError(f"--format is {form!r}, expected one of {', '.join(_SETS)}")
    if out.exists():
        raise InvalidArgumentError(f"--out is {out}, which exists; expected a new directory")
    from ..evaluate.world import export_world as write

    with progress(f"{count} pictures", quiet=quiet) as bar:
        found = write(form, out, count, seed, lambda done, total: bar(done, total))
    if json_output:
        print_json("export", {"format": form, "questions": count, **{k: str(path) for k, path in found.items()}})
        return
    options_ = " ".join(f"--{name} {shlex.quote(str(path))}" for name, path in found.items())
    screen = console()
    screen.print(f"{count} questions in the files of {form}: {out}", soft_wrap=True)
    screen.print(f"tinygptv eval {form} {options_} --protocol plain --model demo --out run", soft_wrap=True)


def _check(name: str, data: Path, images: Path, annotations: Path | None, out: Path) -> None:
    """What can be said before anything is imported."""
    if name not in _SETS:
        raise InvalidArgumentError(f"SET is {name!r}, expected one of {', '.join(_SETS)}")
    check_exists("--data", data)
    check_exists("--images", images, directory=True)
    check_exists("--annotations", annotations)
    if (name in _PAIRS) != (annotations is not None):
        what = "is missing, expected the set's file of answers" if annotations is None else f"is given, but {name} has"
        raise InvalidArgumentError(f"--annotations {what}" + ("" if annotations is None else " its answers in --data"))
    if out.exists() and not out.is_dir():
        raise InvalidArgumentError(f"--out is {out}, a file, expected a directory")


def _run(
    name: str,
    where: tuple[Path, Path, Path | None],
    out: Path,
    model: str,
    settings: dict[str, Any],
    compare: bool,
    backend: str,
    dtype: str,
    threads: int | None,
    quiet: bool,
) -> Run:
    from ..evaluate import plots
    from ..evaluate.records import Files
    from ..evaluate.run import Settings
    from ..evaluate.run import evaluate as ask
    from ..evaluate.sets import get_benchmark

    benchmark, how = get_benchmark(name), Settings(**settings)
    benchmark.needs()
    if compare:
        plots.check_available()
    with progress("reading the data", quiet=quiet):
        found = benchmark.read(Files(*where))
    with loaded(model, backend=backend, dtype=dtype, threads=threads, quiet=quiet) as opened:
        try:
            with progress(f"{len(found.questions)} questions", quiet=quiet) as bar:
                run = ask(opened, benchmark, found, how, out, lambda done, all: bar(done, all))
        except KeyboardInterrupt:
            note(f"tinygptv: the answers so far are in {out}; the same command goes on with the rest", quiet=quiet)
            raise
    return run


def _report(run: Run, out: Path, compare: bool, beside: list[Path], json_output: bool, quiet: bool) -> None:
    from ..evaluate.report import write_reports

    if run.known:
        note(f"{run.known} of {len(run.data.questions)} answered before", quiet=quiet)
    for one in run.skipped[:_SHOWN]:
        note(f"tinygptv: skipped: {one.where}: {one.why}", quiet=quiet)
    if len(run.skipped) > _SHOWN:
        note(f"tinygptv: {len(run.skipped)} records skipped in all; report.json names them", quiet=quiet)
    report = write_reports(run, out, comparison=compare, others=beside)
    if json_output:
        print_json("evaluation", {key: value for key, value in report.items() if key not in ("schema_version", "kind")})
        return
    from ..evaluate.figures import Figure

    screen = console()
    screen.print(f"{run.benchmark.title}: {report['answered']} answers, {report['skipped']['count']} records skipped")
    for row in report["figures"]:
        figure = Figure(**row)
        screen.print(f"  {figure.scorer:<17} {figure.measure:<20} {figure} {figure.unit}".rstrip())
    screen.print(f"reports: {out / 'report.html'}, report.md, report.json", soft_wrap=True)
