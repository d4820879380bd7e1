"""``info``: what a model directory holds, from its headers and small files; no weight is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .models import local_directory
from .output import console, gigabytes, print_json

if TYPE_CHECKING:
    from ..checkpoint.directory import ModelDirectory


def info(
    directory: Annotated[str, typer.Argument(metavar="DIR|demo", help="A model directory, or the shipped 'demo'.")],
    json_output: options.Json = False,
) -> None:
    """What a model directory holds: sizes, storage, template, quality receipt, where it came from."""
    from ..checkpoint.directory import open_directory

    data = describe(open_directory(local_directory(directory)))
    if json_output:
        print_json("info", data)
    else:
        _show(data)


def describe(opened: ModelDirectory) -> dict[str, Any]:
    """The json-ready description of an opened directory."""
    import math

    from ..generate.confidence import read_calibration

    config, receipt = opened.config, opened.quality
    calibration = read_calibration(opened.path, opened.content_hash)
    side = {name: math.prod(opened.shape(name)) for name in opened.names()}
    return {
        "path": str(opened.path),
        "content_hash": opened.content_hash,
        "bytes": sum(path.stat().st_size for path in opened.path.iterdir() if path.is_file()),
        "parameters": {
            "all": sum(side.values()),
            "text": sum(count for name, count in side.items() if name.startswith("text.")),
        },
        "stage": config.stage,
        "image_size": config.vision.image_size if config.vision is not None else None,
        "visual_tokens": config.qformer.queries if config.qformer is not None else None,
        "quantization": {
            "text": config.quantization.text,
            "group_size": config.quantization.group_size if config.quantization.text == "int4" else None,
            "vision": config.quantization.vision if config.vision is not None else None,
            "dtype": config.dtype,
        },
        "packed": _packed(opened),
        "template": opened.template.name,
        "generation_config": opened.generation_config,
        "sources": opened.report.get("sources"),
        "original_keys": opened.report.get("summary"),
        "quality": {
            "totals": receipt.totals(),
            "agreement": dict(receipt.agreement) if receipt.agreement is not None else None,
        },
        "calibration": None if calibration is None else dict(calibration.fitted),
        "config": config.to_dict(),
    }


def _packed(opened: ModelDirectory) -> dict[str, Any]:
    """The packed form that the native engine would load, and its file if the cache has it."""
    from ..engine import PackedCache, choose_forms

    forms, cache = choose_forms(opened, "auto"), PackedCache.from_environment()
    path = None if cache is None else cache.path(forms.key(opened.content_hash))
    there = path is not None and path.is_file()
    return {
        "dtype": forms.dtype,
        "file": str(path) if there else None,
        "bytes": path.stat().st_size if path and there else None,
    }


def _show(data: dict[str, Any]) -> None:
    stored, agreement, packed = data["quantization"], data["quality"]["agreement"], data["packed"]
    fitted = data["calibration"]
    text = stored["dtype"] if stored["text"] == "none" else stored["text"]
    group = f" (groups of {stored['group_size']})" if stored["group_size"] else ""
    vision = f"{data['image_size']} px, {data['visual_tokens']} tokens a picture, stored in {stored['vision']}"
    sources = ", ".join(f"{name} {file}" for name, file in (data["sources"] or {}).items())
    lines = {
        "path": data["path"],
        "size": f"{gigabytes(data['bytes'])}, {data['parameters']['all'] / 1e6:.1f} M parameters "
        f"({data['parameters']['text'] / 1e6:.1f} M in the language model)",
        "text": f"{text}{group}",
        "vision": vision if data["image_size"] else "none: text only",
        "packed": f"{gigabytes(packed['bytes'])} in {packed['file']}" if packed["file"] else "not in the cache",
        "template": data["template"],
        "made from": sources or "no original files",
        "agreement": "not measured ('tinygptv verify --agreement')"
        if agreement is None
        else f"same token at {agreement['token_agreement']:.1%} of {agreement['positions']} positions, "
        f"KL {agreement['kl_nats']:.3g} nats",
        "calibration": "none ('tinygptv calibrate')"
        if fitted is None
        else f"fitted on {fitted.get('questions')} questions, error {fitted.get('held_out_ece')} held out",
        "id": data["content_hash"],
    }
    screen = console()
    for name, line in lines.items():
        screen.print(f"{name:<11} {line}", soft_wrap=True)
