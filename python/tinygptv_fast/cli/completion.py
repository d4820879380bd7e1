"""Shell completion: what stands behind a half-typed word, and whether there is a shell to install it for. No torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidArgumentError

OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish")


def models(incomplete: str) -> list[str]:
    """Values of ``--model``: the shipped model and folders. A hub id cannot be guessed."""
    folders = sorted(name.rstrip("/") for name in glob.glob(f"{glob.escape(incomplete)}*/"))
    return [name for name in ("demo", *folders) if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Values of ``--task``."""
    from ..processing.prompt import TASKS

    return [name for name in TASKS if name.startswith(incomplete)]


def templates(incomplete: str) -> list[str]:
    """Values of ``--template``."""
    from ..processing.templates import TEMPLATES

    return [name for name in TEMPLATES if name.startswith(incomplete)]


def check_shell(argv: Sequence[str]) -> None:
    """Raises InvalidArgumentError if ``argv`` asks for the completion of a shell, and none that is known has called."""
    asked = next((option for option in OPTIONS if option in argv[:1]), None)
    if asked is None or os.environ.get("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"):
        return
    import shellingham  # as typer does, to which a shell it cannot find is no error

    try:
        name, _ = shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        name = Path(os.environ.get("SHELL", "")).name or "unknown"
        found = f"no shell that called it (SHELL is {name!r})"
    else:
        found = repr(name)
        if name in SHELLS:
            return
    raise InvalidArgumentError(f"{asked} found {found}, expected to be run in one of {', '.join(SHELLS)}")
