"""A directory that appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, InvalidArgumentError


def is_model(directory: Path) -> bool:
    """Whether ``directory`` looks like a model directory."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "tinygptv"


@contextmanager
def atomic_directory(
    out: str | os.PathLike[str],
    *,
    overwrite: bool,
    needed_bytes: int = 0,
    is_ours: Callable[[Path], bool] = is_model,
    kind: str = "a model directory",
) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` to fill; rename it to ``out`` at the end.

    On any error, Ctrl-C included, the temporary is removed and an existing ``out`` is as it was. ``overwrite``
    replaces only a directory that is empty or ``is_ours``, which errors call ``kind``. OSErrors (a full disk) become
    ``CheckpointError``.
    """
    target = Path(out).absolute()
    _check_target(target, overwrite, is_ours, kind)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target.parent, needed_bytes)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
        _sync(temporary)
        _replace(temporary, target)
    except OSError as error:
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}; nothing was left behind") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write and flush one small file to the disk."""
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _check_target(target: Path, overwrite: bool, is_ours: Callable[[Path], bool], kind: str) -> None:
    if not target.name:
        raise InvalidArgumentError(f"out is {str(target)!r}, expected the path of a directory to create")
    if not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise InvalidArgumentError(f"out {str(target)!r} exists; pass overwrite=True to replace it")
    if target.is_symlink() or not target.is_dir():
        raise InvalidArgumentError(f"out {str(target)!r} is not a plain directory and will not be replaced")
    if any(target.iterdir()) and not is_ours(target):
        raise InvalidArgumentError(f"out {str(target)!r} is not {kind} of ours and will not be replaced")


def _check_space(parent: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if needed_bytes > free:
        raise CheckpointError(f"{parent} has {free / 1e9:.2f} GB free, the model needs {needed_bytes / 1e9:.2f} GB")


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        _sync(target.parent)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    os.rename(target, old)  # onto an empty directory: atomic
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
