"""The command tree. Each command's module is imported here; what a command needs is imported when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__
from . import (
    ask,
    bench,
    cache,
    calibrate,
    chat,
    convert,
    data,
    demo,
    doctor,
    draw,
    evaluate,
    fetch,
    info,
    short_forms,
    training,
    verify,
)
from .examples import epilog

app = typer.Typer(
    name="tinygptv",
    help="TinyGPT-V: ask a small vision-language model about pictures, and make and check its files.",
    epilog="Start with: tinygptv demo",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"tinygptv_fast {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _add(name: str, function: Any) -> None:
    app.command(name, epilog=epilog(name))(function)


_add("demo", demo.demo)
_add("draw", draw.draw)
_add("ask", ask.ask)
_add("caption", short_forms.caption)
_add("describe", short_forms.describe)
_add("refer", short_forms.refer)
_add("ground", short_forms.ground)
_add("detect", short_forms.detect)
_add("identify", short_forms.identify)
_add("chat", chat.chat)
_add("fetch", fetch.fetch)
_add("convert", convert.convert)
_add("verify", verify.verify)
_add("calibrate", calibrate.calibrate)
app.add_typer(data.app, name="data", epilog=epilog("data"))
_add("eval", evaluate.evaluate)
_add("export-world", evaluate.export_world)
_add("train", training.train)
_add("finetune", training.finetune)
_add("info", info.info)
_add("pack", cache.pack)
_add("cache", cache.cache)
_add("doctor", doctor.doctor)
_add("bench", bench.bench)
