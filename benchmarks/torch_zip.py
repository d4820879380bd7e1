"""Writes what ``torch.save`` would write, one tensor at a time: nothing but the tensor at hand is in memory.

The result is an ordinary file for ``torch.load``, also with ``weights_only=True`` and ``mmap=True``.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STORAGE = {
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
}
_ALIGNMENT = 64


@dataclass(frozen=True)
class Later:
    """A tensor that is made when its turn comes: ``blocks()`` yields consecutive flat pieces of ``dtype``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Callable[[], Iterator[torch.Tensor]]

    @property
    def count(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


class _Storage:
    """Stands for the storage of one ``Later`` inside the pickle."""

    def __init__(self, key: str, later: Later) -> None:
        self.key = key
        self.later = later


class _Saved:
    """Pickles as torch pickles a contiguous tensor."""

    def __init__(self, storage: _Storage) -> None:
        self._storage = storage

    def __reduce__(self) -> tuple[Any, ...]:
        shape = self._storage.later.shape
        stride: list[int] = []
        step = 1
        for size in reversed(shape):
            stride.insert(0, step)
            step *= size
        arguments: tuple[Any, ...] = (self._storage, 0, shape, tuple(stride), False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        return ("storage", _STORAGE[value.later.dtype], value.key, "cpu", value.later.count)


def save(path: Path, tree: Any, wrote: Callable[[int], None] = lambda count: None) -> None:
    """Write ``tree`` (dicts and lists holding ``Later`` and plain values) to ``path``; ``wrote`` counts bytes."""
    storages: list[_Storage] = []
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(_with_storages(tree, storages))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _put(archive, "archive/data.pkl", iter([buffer.getvalue()]))
        _put(archive, "archive/byteorder", iter([b"little"]))
        for storage in storages:
            _put(archive, f"archive/data/{storage.key}", _bytes(storage.later, wrote))
        _put(archive, "archive/version", iter([b"3\n"]))


def _with_storages(tree: Any, storages: list[_Storage]) -> Any:
    if isinstance(tree, Later):
        storages.append(_Storage(str(len(storages)), tree))
        return _Saved(storages[-1])
    if isinstance(tree, dict):
        return {key: _with_storages(value, storages) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_storages(value, storages) for value in tree]
    return tree


def _bytes(later: Later, wrote: Callable[[int], None]) -> Iterator[bytes | memoryview]:
    for block in later.blocks():
        data = block.contiguous().view(torch.uint8).numpy().data
        yield data
        wrote(data.nbytes)


def _put(archive: zipfile.ZipFile, name: str, pieces: Iterator[bytes | memoryview]) -> None:
    """One stored entry whose data start at a multiple of 64 bytes, as torch's own do."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    position = archive.fp.tell() if archive.fp is not None else 0
    padding = -(position + 30 + len(name.encode()) + 4) % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w") as handle:
        for piece in pieces:
            handle.write(piece)
