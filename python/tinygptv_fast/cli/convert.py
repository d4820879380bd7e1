"""``convert``: the original's files to a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import use_threads
from .options import check_exists, check_template
from .output import console, gigabytes, print_json, progress

if TYPE_CHECKING:
    from ..quantize.receipt import Receipt


def convert(
    phi: Annotated[Path, typer.Option(metavar="DIR", help="Phi directory: config.json, tokenizer, weights.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model directory to create.")],
    vision: Annotated[Path | None, typer.Option(metavar="FILE", help="eva_vit_g.pth")] = None,
    qformer: Annotated[Path | None, typer.Option(metavar="FILE", help="blip2_pretrained_*.pth")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="TinyGPT-V_for_StageN.pth")] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels: 224 for stages 1-3, 448 for stage 4 (default: as the file says)."),
    ] = None,
    template: options.Template = None,
    quantization: Annotated[
        Literal["int4", "int8", "none"], typer.Option(help="How the language model's matrices are stored.")
    ] = "int4",
    group_size: Annotated[int, typer.Option(help="Weights that share a scale in int4: 32, 64 or 128.")] = 32,
    vision_dtype: Annotated[
        Literal["int8", "bfloat16", "float32"] | None,
        typer.Option(help="How the vision side is stored (default: int8; float32 with --quantization none)."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Type of matrices that are not quantised (auto: nothing is rounded)."),
    ] = "auto",
    architecture: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Sizes of a model other than the released one.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="No --checkpoint: the model that 'train --stage 1' starts from.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert the original's files to a model directory.

    Every key and shape is checked, LoRA and the two projections are folded, weights are quantised, and the directory
    appears in one piece or not at all. With --phi alone the result is the text-only Phi. Needs about 1 GB of memory
    whatever the model's size.
    """
    check_exists("--phi", phi, directory=True)
    for option, path in (
        ("--vision", vision),
        ("--qformer", qformer),
        ("--checkpoint", checkpoint),
        ("--architecture", architecture),
    ):
        check_exists(option, path)
    if group_size not in (32, 64, 128):
        raise InvalidArgumentError(f"--group-size is {group_size}, expected 32, 64 or 128")
    check_template(template)
    from ..conversion import convert as run

    use_threads(threads)
    chosen: dict[str, Any] = {} if vision_dtype is None else {"vision_dtype": vision_dtype}
    with progress("converting", quiet=quiet) as report:
        receipt = run(
            phi=phi,
            vision=vision,
            qformer=qformer,
            checkpoint=checkpoint,
            out=out,
            image_size=image_size,
            template=template,
            quantization=quantization,
            group_size=group_size,
            dtype=dtype,
            architecture=architecture,
            overwrite=overwrite,
            untrained=untrained,
            progress=report,
            **chosen,
        )
    if json_output:
        print_json("convert", summary(out, receipt))
    else:
        show(out, receipt)


def summary(out: Path, receipt: Receipt) -> dict[str, Any]:
    """What was made, json-ready."""
    from ..checkpoint.directory import open_directory

    size = sum(path.stat().st_size for path in out.iterdir())
    keys = open_directory(out).report.get("summary", {})
    worst = [{"name": record.name, "relative_l2": record.relative_l2} for record in receipt.worst()]
    return {"out": str(out), "bytes": size, "keys": keys, "totals": receipt.totals(), "worst": worst}


def show(out: Path, receipt: Receipt) -> None:
    """What was made, for people."""
    made, screen = summary(out, receipt), console()
    screen.print(f"{out}: {gigabytes(made['bytes'])}, {len(receipt.tensors)} tensors")
    keys = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in made["keys"].items())
    screen.print(f"original keys: {keys}")
    for kind, total in receipt.totals().items():
        stored = gigabytes(total["bits_per_weight"] * total["elements"] / 8)
        screen.print(f"  {kind:<16} {total['tensors']:>5.0f} tensors  {stored:>8}  rms error {total['rmse']:.3g}")
    screen.print(f"next: tinygptv verify {out}")
