"""A state file that is the old one or the new one, never a part of either: written beside, read back, renamed."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError


def save_atomically(data: dict[str, Any], path: Path) -> None:
    """``torch.save`` of ``data`` at ``path``, flushed to the disk and every byte's checksum read back first.

    What was at ``path`` stays until the new file is complete and verified. Raises CheckpointError (a full disk, say),
    which says that the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # one name: what a killed process leaves is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        _verify(temporary)
        os.replace(temporary, path)
    except (
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:  # torch reports a failed write as a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the last good state there is intact" if path.exists() else "there was no earlier one"
        raise CheckpointError(f"cannot save {path}: {reason}; {kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_state_file(path: Path) -> dict[str, Any]:
    """The dict saved at ``path``; runs no code of the file. Raises CheckpointError when it is not one."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{str(path)!r} is not the state of a training run: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{str(path)!r} is not the state of a training run: it holds {type(data).__name__}")
    return data


def _verify(path: Path) -> None:
    """Every record against its checksum, and the whole against the loader that will read it."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise OSError(f"record {bad} read back differently")
    torch.load(path, map_location="meta", weights_only=True)
