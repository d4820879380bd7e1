"""``fetch``: the original's files from their servers, and on to a model directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import env
from ..errors import InvalidArgumentError
from ..fetch import DEFAULT_PHI, DEFAULT_REPO, DEFAULT_STORAGE, Request
from . import options
from .convert import show, summary
from .models import note, use_threads
from .options import check_exists
from .output import console, gigabytes, print_json, progress

if TYPE_CHECKING:
    from ..fetch.run import Fetched, Plan
    from ..quantize.receipt import Receipt


def fetch(
    stage: Annotated[int, typer.Option(min=1, max=4, help="Which checkpoint: 4 is the finished model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the files go; the same again continues there.")],
    convert: Annotated[
        bool, typer.Option("--convert", help="Go on to a model directory, DIR/tinygptv-stageN-int4.")
    ] = False,
    phi: Annotated[
        str, typer.Option(metavar="ID", help="Where Phi-2 is: owner/name, spaces/owner/name/folder, ...@revision.")
    ] = DEFAULT_PHI,
    repo: Annotated[
        str, typer.Option(metavar="ID", help="Where the stage checkpoints are, written likewise.")
    ] = DEFAULT_REPO,
    storage: Annotated[
        str, typer.Option(metavar="URL", help="Where eva_vit_g.pth and blip2_pretrained_flant5xxl.pth are.")
    ] = DEFAULT_STORAGE,
    quantization: Annotated[
        Literal["int4", "int8", "none"] | None, typer.Option(help="With --convert, as 'convert' has it (int4).")
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="With --convert: 32 (the default), 64 or 128.")] = None,
    vision_dtype: Annotated[
        Literal["int8", "bfloat16", "float32"] | None, typer.Option(help="With --convert, as 'convert' has it.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="With --convert, as 'convert' has it.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="With --convert (default: 448 for stage 4, 224 for the others).")
    ] = None,
    architecture: Annotated[
        Path | None, typer.Option(metavar="JSON", help="With --convert: sizes other than the released model's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --convert: replace the model directory.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before fetching.")] = False,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    r"""Fetch the original's files: Phi-2, EVA ViT-g, the Q-Former and a stage's checkpoint; some 8 to 9 GB.

    Shows the sizes, asks (only on a terminal), fetches and checks. Ctrl-C or a broken line lose nothing: the same
    command continues. DIR/fetch.json says where each file came from, at which commit, and its SHA-256.

    HF_ENDPOINT names a mirror of the hub, HF_TOKEN an account's token; with HF_HUB_OFFLINE=1 nothing is fetched and
    what is there is checked.
    """
    chosen = _conversion(
        convert,
        {
            "quantization": quantization,
            "group_size": group_size,
            "vision_dtype": vision_dtype,
            "dtype": dtype,
            "image_size": image_size,
            "architecture": architecture,
            "overwrite": overwrite or None,
        },
    )
    request = Request.parse(stage, repo, phi, storage)
    target = out / f"tinygptv-stage{stage}-{quantization or 'int4'}"
    if convert and target.exists() and not overwrite:
        raise InvalidArgumentError(f"{target} exists: the model is made already, --overwrite makes it again")
    fetched = _fetch(request, out, yes, json_output, quiet)
    receipt = _convert(fetched, target, chosen, threads, stage, quiet) if convert else None
    if json_output:
        print_json("fetch", _json(fetched, target, receipt))
        return
    console().print(f"{fetched.receipt} has the address, commit and SHA-256 of {len(fetched.items)} files")
    if receipt is not None:
        show(target, receipt)


def _conversion(convert: bool, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``convert`` that were given. Raises before anything is fetched."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen and not convert:
        raise InvalidArgumentError(f"--{next(iter(chosen)).replace('_', '-')} is given without --convert")
    if chosen.get("group_size", 32) not in (32, 64, 128):
        raise InvalidArgumentError(f"--group-size is {chosen['group_size']}, expected 32, 64 or 128")
    check_exists("--architecture", chosen.get("architecture"))
    return chosen


def _fetch(request: Request, out: Path, yes: bool, json_output: bool, quiet: bool) -> Fetched:
    from ..fetch.run import fetch_files, plan_fetch

    settings = env.read_settings()
    plan = plan_fetch(request, out, endpoint=settings.hub_endpoint, offline=settings.hub_offline)
    missing = sum(map(plan.missing_bytes, plan.items))
    if not quiet:
        _show_plan(plan, missing, to_stderr=json_output)
    if missing and not yes and sys.stdin.isatty():
        typer.confirm(f"fetch {gigabytes(missing)}?", default=True, abort=True, err=True)
    try:
        with progress("fetching", quiet=quiet) as report:
            return fetch_files(
                plan,
                report=lambda done, total, name: report(done, total, f"{name}: {gigabytes(done)}/{gigabytes(total)}"),
            )
    except KeyboardInterrupt:
        note(f"tinygptv: what came is kept in {out}, the same command continues", quiet=quiet)
        raise


def _show_plan(plan: Plan, missing: int, *, to_stderr: bool) -> None:
    screen = console(sys.stderr if to_stderr else None)
    width = max(len(item.path) for item in plan.items)
    for item in plan.items:
        left = plan.missing_bytes(item)
        state = "" if left == item.bytes else "  there" if not left else f"  {gigabytes(left)} to come"
        at = f"@{item.revision[:12]}" if item.revision else ""
        screen.print(f"{item.path:<{width}}  {gigabytes(item.bytes):>8}  {item.source}{at}{state}", soft_wrap=True)
    screen.print(f"{'together':<{width}}  {gigabytes(plan.total_bytes):>8}  {gigabytes(missing)} to come")


def _convert(
    fetched: Fetched, target: Path, chosen: dict[str, Any], threads: int | None, stage: int, quiet: bool
) -> Receipt:
    from ..conversion import convert

    use_threads(threads)
    with progress("converting", quiet=quiet) as report:
        return convert(
            phi=fetched.phi,
            vision=fetched.vision,
            qformer=fetched.qformer,
            checkpoint=fetched.checkpoint,
            out=target,
            progress=report,
            **{"image_size": 448 if stage == 4 else 224, **chosen},
        )


def _json(fetched: Fetched, target: Path, receipt: Receipt | None) -> dict[str, Any]:
    files = [item.to_dict() for item in fetched.items]
    model = None if receipt is None else summary(target, receipt)
    return {"out": str(fetched.folder), "receipt": str(fetched.receipt), "files": files, "model": model}
