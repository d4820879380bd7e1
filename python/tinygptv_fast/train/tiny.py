"""``python -m tinygptv_fast.train.tiny [--out DIR]``: train the demo model and write it as a model directory.

The state of the run is kept beside the output (``DIR.run.pt``); the same command continues after Ctrl-C or a crash.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, TinyGPTVError
from .recipe import PHASES, Recipe

RECIPE_MINUTES = 20.0  # what the default recipe took on two cores with AVX-512 BF16, exams included


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tinygptv_fast.train.tiny",
        description="Train the demo model on drawn pictures and write it as a model directory.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="directory to write, a new one (default runs/demo)"
    )
    parser.add_argument(
        "--minutes", type=float, default=None,
        help=f"scale every phase's steps by this over {RECIPE_MINUTES:g}, the recipe's own minutes on two cores",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--questions", type=int, default=150, help="exam questions of each kind (default 150)")
    parser.add_argument("--fresh", action="store_true", help="ignore and replace the saved state of an earlier run")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output directory")
    return parser.parse_args(arguments)


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The default recipe with the command line's seed and length."""
    for name, low in (("threads", 1), ("questions", 1), ("seed", 0)):
        if getattr(options, name) < low:
            raise InvalidArgumentError(f"--{name} is {getattr(options, name)}, expected an integer >= {low}")
    recipe = dataclasses.replace(Recipe(), seed=options.seed)
    if options.minutes is None:
        return recipe
    if not 0 < options.minutes <= 600:
        raise InvalidArgumentError(f"--minutes is {options.minutes:g}, expected more than 0 and at most 600")
    return recipe.scaled(options.minutes / RECIPE_MINUTES)


def _start(recipe: Recipe, state: Path, fresh: bool, note: Any) -> Any:
    from .state import load_run, new_run

    if fresh or not state.exists():
        return new_run(recipe)
    run = load_run(state)
    if run.recipe != recipe:
        raise InvalidArgumentError(
            f"{state} is of a run with other settings; give those again, or --fresh to start anew"
        )
    note(f"continue from phase {run.phase!r}, step {run.step}")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for bad arguments or files; 130 after Ctrl-C, with the run saved."""
    options = parse(arguments)
    try:
        _train_and_ship(options, recipe_from(options))
    except TinyGPTVError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _train_and_ship(options: argparse.Namespace, recipe: Recipe) -> None:
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from .loop import LOG_EVERY, train
    from .ship import ship
    from .state import save_run

    torch.set_num_threads(options.threads)
    console = Console(stderr=True)
    if options.out.exists() and not options.overwrite:
        raise InvalidArgumentError(f"--out {options.out} exists, expected a new directory (or --overwrite)")
    state = options.out.with_name(f"{options.out.name}.run.pt")
    run = _start(recipe, state, options.fresh, console.print)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bars = {name: progress.add_task(name, total=recipe.phase(name).steps) for name in PHASES}

        def report(now: Any, figures: dict[str, float]) -> None:
            progress.update(bars[now.phase], completed=now.step, description=f"{now.phase} loss {figures['loss']:.3f}")
            if now.step % LOG_EVERY == 0 and not console.is_terminal:
                console.print(json.dumps(now.log[-1]), soft_wrap=True, highlight=False)

        for name in PHASES[: PHASES.index(run.phase)]:
            progress.update(bars[name], completed=recipe.phase(name).steps)
        train(run, report, lambda now: save_run(now, state))
    figures = ship(run, options.out, options.questions, overwrite=options.overwrite, note=console.print)
    for name, result in figures.items():
        console.print(name, json.dumps(result), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
