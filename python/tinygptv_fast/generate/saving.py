"""A copy of a loaded model's directory, whole or not at all; an adapter is merged into it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.directory import ModelDirectory
from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from ..checkpoint.adapter import AdaptedDirectory


def save_copy(directory: ModelDirectory, target: Path) -> None:
    """``directory`` as it is, at ``target``. Raises InvalidArgumentError unless that is new or empty."""
    _check_new(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(directory.path, partial)
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_merged(directory: AdaptedDirectory, target: Path) -> None:
    """``directory`` with its adapter merged, at ``target``. Raises InvalidArgumentError unless that is new or empty."""
    from ..conversion import merge_directory

    _check_new(target)
    merge_directory(directory, target, overwrite=target.exists())


def _check_new(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidArgumentError(f"directory {target} exists and is not empty, expected a new one")
