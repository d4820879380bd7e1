"""Shard indexes kept in a folder, so that a second start reads no tar headers: one array and one json file a shard."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from ...errors import DataError
from .faults import BadRecord, Reason
from .tar_index import ShardIndex, index_shard

_VERSION = 1


def cached_index(shard: Path, text: str, folder: Path | None) -> ShardIndex:
    """The index of ``shard``, from ``folder`` if it has one of the same size and time of change; else made and kept
    there.

    A kept index that is damaged or of another version is made anew. Raises DataError (a full disk, no plain tar).
    """
    if folder is None:
        return index_shard(shard, text)
    stem = folder / _stem(shard, text)
    found = _read(stem, _marks(shard))
    if found is None:
        found = index_shard(shard, text)
        _write(stem, _marks(shard), found)
    return found


def _stem(shard: Path, text: str) -> str:
    digest = hashlib.sha256(f"{shard.absolute()}\n{text}".encode("utf-8", "surrogateescape")).hexdigest()
    return f"{shard.stem[:40]}-{digest[:16]}"


def _marks(shard: Path) -> dict[str, int]:
    try:
        status = shard.stat()
    except OSError as error:
        raise DataError(f"{shard} cannot be read: {error.strerror or error}") from error
    return {"version": _VERSION, "bytes": status.st_size, "changed": status.st_mtime_ns}


def _read(stem: Path, marks: dict[str, int]) -> ShardIndex | None:
    try:
        kept = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
        if {name: kept[name] for name in marks} != marks:
            return None
        rows = np.load(f"{stem}.npy", allow_pickle=False)
        faults = tuple(BadRecord(Reason(reason), where, what) for reason, where, what in kept["faults"])
        samples = kept["samples"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):  # absent, cut short, of another hand
        return None
    good = rows.dtype == np.int64 and rows.shape == (samples, 4)
    if not good or (rows.size and (rows.min() < 0 or (rows[:, ::2] + rows[:, 1::2]).max() > marks["bytes"])):
        return None
    return ShardIndex(rows, faults)


def _write(stem: Path, marks: dict[str, int], index: ShardIndex) -> None:
    """The array first: an index whose json is there is whole."""
    faults = [(bad.reason.value, bad.where, str(bad).removeprefix(f"{bad.where}: ")) for bad in index.faults]
    kept = {**marks, "samples": len(index.rows), "faults": faults}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        array = Path(f"{stem}.{os.getpid()}.tmp.npy")
        np.save(array, index.rows, allow_pickle=False)
        os.replace(array, f"{stem}.npy")
        text = Path(f"{stem}.{os.getpid()}.tmp.json")
        text.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(text, f"{stem}.json")
    except OSError as error:
        raise DataError(f"the index {stem}.npy cannot be written: {error.strerror or error}") from error
    finally:
        for name in (f"{stem}.{os.getpid()}.tmp.npy", f"{stem}.{os.getpid()}.tmp.json"):
            Path(name).unlink(missing_ok=True)
