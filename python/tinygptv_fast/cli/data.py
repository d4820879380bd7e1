"""``data check``: walks the data sets of a training config before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ConfigError, TinyGPTVError
from . import options
from .examples import epilog
from .models import note
from .options import check_exists
from .output import Report, console, print_json, printable, progress

if TYPE_CHECKING:
    from ..data.readers.config import SetConfig

app = typer.Typer(help="Data sets for training: what is in them, and what is wrong with them.")
_LONGEST = 120  # characters of a sample's question and answer that are shown


@app.command("check", epilog=epilog("data"))
def check(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="The json file of 'train --config'; its \"data\" names the sets.")
    ],
    stage: Annotated[
        Literal["1", "2", "3", "4"] | None, typer.Option(help="Whose ratios count where a set names none (default: 1).")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Just this set; repeat it for more.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every picture and read every caption of the shards too.")
    ] = False,
    samples: Annotated[int, typer.Option(min=0, max=100, help="Examples of each set to show.")] = 1,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Read every data set of a config as training would: records, bad ones by reason, a sample.

    Every annotation is checked and every picture's header read; damage behind a header is found with --decode. Exit
    code 2 when a file is missing or a set has more bad records than its max_bad; the other sets are reported all the
    same.
    """
    sets = _read_config(config, only)
    found: dict[str, Any] = {}
    errors: list[str] = []
    with progress("reading", quiet=quiet) as bar:
        shared: dict[str, Any] = {}
        for each in sets:
            try:
                found[each.name] = _examine(each, decode, samples, bar, shared, quiet)
            except TinyGPTVError as error:
                errors.append(str(error))
                found[each.name] = {"format": each.format.name, "error": str(error)}
    _add_shares(found, sets, stage)
    if json_output:
        print_json("data", {"sets": found})
    else:
        for name, facts in found.items():
            _show(name, facts)
    if errors:
        raise ConfigError(f"{config}: {len(errors)} of {len(sets)} data sets cannot be used: {errors[0]}")


def _read_config(path: Path, only: list[str] | None) -> tuple[SetConfig, ...]:
    check_exists("CONFIG", path)
    from ..data.readers.config import read_sets
    from ..train.stages.config import read_changes

    changes = read_changes(path)
    if "data" not in changes:
        raise ConfigError(f"{path} has no 'data', expected {{'root', 'sets': {{name: {{'format', ...}}}}}}")
    sets = read_sets(changes["data"], path.parent)
    unknown = sorted(set(only or ()) - {each.name for each in sets})
    if unknown:
        raise ConfigError(f"--only is {unknown[0]!r}, expected one of {', '.join(each.name for each in sets)}")
    return tuple(each for each in sets if not only or each.name in only)


def _examine(
    config: SetConfig, decode: bool, samples: int, bar: Report, shared: dict[str, Any], quiet: bool
) -> dict[str, Any]:
    """Read one data set, and with ``decode`` every record of it, pictures included."""
    from ..data.readers.opening import open_set
    from ..data.readers.walking import decode_all, draw_samples

    data = open_set(config, lambda line: note(line, quiet=quiet), bar, shared)
    if decode:
        decode_all(data, bar)
    shown = [_sample(example) for example in draw_samples(data, samples)]
    return {"format": data.format, "records": len(data.records), **data.faults.to_dict(), "samples": shown}


def _sample(example: Any) -> dict[str, Any]:
    image = next(iter(example.images), None)
    return {
        "where": example.where,
        "image": f"{len(image)} bytes" if isinstance(image, bytes) else None if image is None else str(image),
        "task": example.task,
        "turns": [{"question": turn.question, "answer": turn.answer} for turn in example.turns],
    }


def _add_shares(found: dict[str, Any], sets: tuple[SetConfig, ...], stage: str | None) -> None:
    from ..data.readers.opening import ratios_of
    from ..train.stages.config import load_stage

    ratios = ratios_of(sets, load_stage(int(stage)).ratios if stage else {})
    for name, ratio in ratios.items():
        found[name]["share"] = ratio / sum(ratios.values())


def _show(name: str, facts: dict[str, Any]) -> None:
    screen = console()
    title = f"{name} ({facts['format']}), {facts['share']:.1%} of the examples"
    if "error" in facts:
        screen.print(f"{title}: {printable(facts['error'])}", soft_wrap=True)
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
    screen.print(f"{title}: {facts['records']:,} records, {facts['bad']} bad{': ' if reasons else ''}{reasons}")
    for line in facts["first"]:
        screen.print(f"  bad: {printable(line)}", soft_wrap=True)
    for sample in facts["samples"]:
        screen.print(f"  {printable(sample['where'])}, picture: {printable(str(sample['image']))}", soft_wrap=True)
        tag = f"[{sample['task']}] " if sample["task"] else ""
        for turn in sample["turns"]:
            asked = "(a prompt of the stage's)" if turn["question"] is None else tag + turn["question"]
            screen.print(f"    {_short(asked)} → {_short(turn['answer'])}", soft_wrap=True)


def _short(text: str) -> str:
    text = printable(text).replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2] + " …"
