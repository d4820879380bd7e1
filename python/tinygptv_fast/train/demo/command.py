"""``python -m tinygptv_fast.train.demo``: train the demo model, phase by phase, in a folder that is continued."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import InvalidArgumentError, TinyGPTVError, UnsupportedError
from ...heap import keep_heap
from .recipe import ASKED, CACHES, KEPT, PHASES, RECIPE_FILE, SEEING, STAGES, TINY, DemoRecipe, first_use, read_recipe


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tinygptv_fast.train.demo",
        description=f"Train the demo model. Phases: {', '.join(PHASES)}. The same command continues a run.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/next"), help="the run's folder (default runs/next)")
    parser.add_argument("--until", choices=PHASES, default=PHASES[-1], help="stop behind this phase")
    parser.add_argument("--phase", choices=PHASES, default=None, help="run this phase alone")
    parser.add_argument(
        "--eyes", type=Path, metavar="DIR", help="begin a new run behind v3, with the vision side of this directory"
    )
    parser.add_argument(
        "--words", type=Path, metavar="DIR", help="take what 'text' teaches from this directory's language model"
    )
    parser.add_argument(
        "--further",
        type=Path,
        metavar="DIR",
        help="train this directory's model further: --eyes and --words in one, shorter; a run's folder stands for the "
        "model as its s4 left it",
    )
    parser.add_argument("--minutes", type=float, default=None, help="stop, saved, after so many minutes")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply every length by this, to try the machinery")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the machinery")
    parser.add_argument("--seed", type=int, default=0, help="of weights and pictures (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: larger batches, fewer steps")
    parser.add_argument("--allow-other-code", action="store_true", help="continue a stage though the code changed")
    parser.add_argument("--fresh", action="store_true", help="remove what the phases that will run have left")
    return parser.parse_args(arguments)


def recipe_from(options: argparse.Namespace) -> DemoRecipe:
    """The recipe with the command line's changes. Raises InvalidArgumentError."""
    for name, low in (("threads", 1), ("seed", 0)):
        if getattr(options, name) < low:
            raise InvalidArgumentError(f"--{name} is {getattr(options, name)}, expected an integer >= {low}")
    if options.minutes is not None and not 0 < options.minutes <= 600:
        raise InvalidArgumentError(f"--minutes is {options.minutes:g}, expected more than 0 and at most 600")
    if options.further is not None and (options.eyes is not None or options.words is not None):
        raise InvalidArgumentError("--further takes eyes and words, expected neither --eyes nor --words beside it")
    start = TINY if options.tiny else DemoRecipe()
    if options.further is not None:
        start = start.further()
    recipe = dataclasses.replace(start, seed=options.seed)
    if options.scale != 1.0:
        recipe = recipe.scaled(options.scale)
    return recipe.on_gpu() if options.device == "cuda" else recipe


def check_folder(folder: Path, recipe: DemoRecipe) -> None:
    """Leave the recipe in the folder, or see that what has begun there has the same settings.

    Raises InvalidArgumentError.
    """
    from .loop import write_json

    path = folder / RECIPE_FILE
    if not path.exists():
        write_json(path, recipe.to_dict())
        return
    there = read_recipe(path)
    different = [name for name, value in recipe.to_dict().items() if there.to_dict()[name] != value]
    bound = [name for name in different if _has_begun(folder, first_use(name))]
    if bound:
        raise InvalidArgumentError(
            f"{folder} holds a run with other settings ({', '.join(bound)}); give those again, or another --out"
        )
    if different:
        write_json(path, recipe.to_dict())


def _has_begun(folder: Path, phase: str) -> bool:
    """Whether this phase or a later one has left anything."""
    return any((folder / later).exists() for later in PHASES[PHASES.index(phase) :])


def work_of(phase: str) -> Callable[[Any], None]:
    """What runs ``phase`` in a session."""
    if phase == "v5":
        from .attending import attend

        return attend
    if phase in SEEING:
        from .seeing import see

        return lambda session: see(session, phase)
    if phase in (KEPT, ASKED, *CACHES):
        from .cache import fill

        return lambda session: fill(session, phase)
    if phase in STAGES:
        from .stages import run_stage

        return lambda session: run_stage(session, phase)
    if phase == "text":
        from .telling import tell

        return tell
    if phase == "look":
        from .looking import look

        return look
    if phase == "finish":
        from .finish import finish

        return finish
    from .report import report

    return report


def train(options: argparse.Namespace) -> None:
    """Run what the options ask for. Raises Paused, KeyboardInterrupt, TinyGPTVError."""
    import torch
    from rich.console import Console

    from .loop import Session

    recipe = recipe_from(options)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("--device cuda, but torch sees no GPU here; expected cpu")
    torch.set_num_threads(options.threads)
    keep_heap()
    check_folder(options.out, recipe)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    session = Session(options.out, recipe, torch.device(options.device), Console(stderr=True), deadline)
    session.allow_other_code = options.allow_other_code
    wanted = [options.phase] if options.phase else PHASES[: PHASES.index(options.until) + 1]
    for phase in wanted:
        if options.fresh:  # before anything is taken: that is not to be removed
            shutil.rmtree(session.path(phase), ignore_errors=True)
    eyes, words = options.eyes or options.further, options.words or options.further
    if options.further is not None and (options.further / RECIPE_FILE).is_file():
        from .taking import take_run

        take_run(session, options.further)
        eyes = words = None
    if eyes is not None:
        from .taking import take_eyes

        take_eyes(session, eyes)
    if words is not None:
        from .taking import take_words

        take_words(session, words)
    for phase in wanted:
        if session.done(phase) is not None:
            session.note(f"{phase}: done already")
            continue
        missing = [earlier for earlier in PHASES[: PHASES.index(phase)] if session.done(earlier) is None]
        if missing and options.phase:
            raise InvalidArgumentError(f"--phase {phase} needs {missing[0]!r} before it, which has not ended")
        work_of(phase)(session)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for bad arguments or files; 3 where --minutes stopped it and 130 after Ctrl-C, both saved."""
    from .loop import Paused

    options = parse(arguments)
    try:
        train(options)
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
