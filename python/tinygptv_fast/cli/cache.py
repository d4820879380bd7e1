"""``cache`` and ``pack``: the packed weights that the native engine loads, kept for it or written for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import local_directory, note
from .output import console, gigabytes, print_json, progress


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all packed weights.")] = False,
    json_output: options.Json = False,
) -> None:
    """Packed weights kept on disk so that a model's next start is quick: where, how many, how large."""
    from ..engine import PackedCache

    found = PackedCache.from_environment()
    freed = found.clear() if found is not None and clear else 0
    facts = cache_facts()
    if json_output:
        print_json("cache", {**facts, "freed_bytes": freed})
        return
    screen = console()
    if clear:
        screen.print(f"freed {gigabytes(freed)}")
    screen.print(cache_line(facts), soft_wrap=True)
    for entry in facts["entries"]:
        screen.print(f"  {entry['key'][:16]}  {gigabytes(entry['bytes'])}")


def pack(
    model: Annotated[str, typer.Argument(metavar="DIR|demo", help="A model directory, or the shipped 'demo'.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write; it must not exist.")],
    dtype: options.Dtype = "auto",
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model's packed weights to a file, for programs that use the engine without Python."""
    if out.exists():
        raise InvalidArgumentError(f"--out is {out}, which exists")
    from ..checkpoint.directory import open_directory
    from ..engine import choose_forms, load_weights

    directory = open_directory(local_directory(model))
    forms = choose_forms(directory, dtype)
    with progress("packing", quiet=quiet):
        weights = load_weights(directory, forms, None).weights
        weights.save(str(out))
    facts = {"path": str(out), "bytes": weights.bytes, "id": weights.id, "forms": forms.native()}
    if json_output:
        print_json("pack", facts)
    else:
        note(f"{out}: {gigabytes(weights.bytes)}, {forms.dtype} weights, id {weights.id[:16]}", quiet=quiet)


def cache_facts() -> dict[str, Any]:
    """Json-ready; ``directory`` is None where the cache is switched off."""
    from ..engine import PackedCache

    found = PackedCache.from_environment()
    entries = [] if found is None else found.entries()
    return {
        "directory": None if found is None else str(found.root),
        "limit_bytes": 0 if found is None else found.limit,
        "bytes": sum(entry.bytes for entry in entries),
        "entries": [{"key": entry.key, "bytes": entry.bytes, "used": entry.used} for entry in entries],
    }


def cache_line(facts: dict[str, Any]) -> str:
    """The cache in one line."""
    if facts["directory"] is None:
        return "switched off"
    count = len(facts["entries"])
    files = "1 model" if count == 1 else f"{count} models"
    return f"{files}, {gigabytes(facts['bytes'])} of {gigabytes(facts['limit_bytes'])}, in {facts['directory']}"
