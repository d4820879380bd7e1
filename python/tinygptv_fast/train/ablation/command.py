"""``python -m tinygptv_fast.train.ablation``: run what is missing in a folder, then write its report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import CheckpointError, InvalidArgumentError, TinyGPTVError, UnsupportedError
from .protocol import BASE, PRECISIONS, TINY, VARIANTS, AblationRecipe

RECIPE_FILE = "recipe.json"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    titles = ", ".join(variant.title for variant in VARIANTS.values())
    parser = argparse.ArgumentParser(
        prog="python -m tinygptv_fast.train.ablation",
        description=f"The paper's ablation in small: {titles}. The same command continues a run; Ctrl-C saves.",
        epilog="Leaves ablation.json, ablation.md and ablation.png in the folder, and the logs of every stage.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="the run's folder (runs/ablation)")
    parser.add_argument("--rate", type=float, default=1.0, help="multiply the stages' learning rates by this (1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the stages (float32)")
    parser.add_argument("--minutes", type=float, default=None, help="stop, saved, after so many minutes")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the machinery")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    return parser.parse_args(arguments)


def recipe_from(options: argparse.Namespace) -> AblationRecipe:
    """The recipe with the command line's changes. Raises InvalidArgumentError."""
    for name, low in (("threads", 1), ("seed", 0)):
        if getattr(options, name) < low:
            raise InvalidArgumentError(f"--{name} is {getattr(options, name)}, expected an integer >= {low}")
    if options.minutes is not None and not 0 < options.minutes <= 600:
        raise InvalidArgumentError(f"--minutes is {options.minutes:g}, expected more than 0 and at most 600")
    start = TINY if options.tiny else AblationRecipe()
    return dataclasses.replace(start, seed=options.seed, precision=options.precision).times(options.rate)


def check_folder(folder: Path, recipe: AblationRecipe) -> None:
    """Leave the recipe in the folder, or see that it is the one there. Raises InvalidArgumentError, CheckpointError."""
    from ..demo.loop import write_json

    path, wanted = folder / RECIPE_FILE, json.loads(json.dumps(recipe.to_dict()))
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        there = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a recipe: {error}") from error
    different = sorted(name for name in {*wanted, *there} if there.get(name) != wanted.get(name))
    if different:
        raise InvalidArgumentError(
            f"{folder} holds a run with other settings ({', '.join(different)}); give those again, or another --out"
        )


def run(options: argparse.Namespace) -> str:
    """Run what is missing; returns the tables. Raises Paused, KeyboardInterrupt, TinyGPTVError."""
    recipe = recipe_from(options)
    import torch
    from rich.console import Console

    try:
        import matplotlib  # noqa: F401  (the report's picture: known to be missing before a quarter of an hour)
    except ImportError:
        raise UnsupportedError("the ablation needs matplotlib: pip install 'tinygptv_fast[train]'") from None
    from ..demo.loop import Session
    from ..demo.telling import tell
    from .looking import ROWS, Eyes, draw_rows
    from .report import write_report
    from .runs import run_all

    torch.set_num_threads(options.threads)
    check_folder(options.out, recipe)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    session = Session(options.out, recipe, torch.device("cpu"), Console(stderr=True), deadline)
    eyes = Eyes.open()
    if session.done(BASE) is None:
        tell(session)
    rows = session.done(ROWS)
    if rows is None:
        draw_rows(session, recipe, eyes)
    elif rows["eyes"] != eyes.identity:
        raise InvalidArgumentError(f"{options.out} was begun with another demo model, expected another --out")
    run_all(session, recipe, eyes)
    return write_report(session, recipe)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for bad arguments or files; 3 where --minutes stopped it and 130 after Ctrl-C, both saved."""
    options = parse(arguments)
    from ..demo.loop import Paused

    try:
        print(run(options), end="")
    except TinyGPTVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Paused:
        print("the time is over; the same command continues from here", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0
