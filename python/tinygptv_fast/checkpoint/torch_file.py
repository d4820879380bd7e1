"""Reads what ``torch.save`` wrote (``.pth``, ``.bin``) without torch's unpickler and without running anything.

The pickle is read by ``safe_pickle``; tensors come out as ``LazyTensor`` that know where their bytes lie in the mapped
file. Zip files (torch >= 1.6) and the older stream layout are both mapped; neither is copied into memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from . import safe_pickle
from .dtypes import ITEM_BYTES, NAMES
from .mapped import MappedFile, TensorInfo, element_count
from .table import TableEntry, TensorTable
from .zip_file import is_zip, read_entries

if TYPE_CHECKING:
    import torch

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
_DTYPES = {f"torch.{NAMES[code]}": code for code in _STORAGES.values()}
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_NODES = 2_000_000
_MAX_DEPTH = 64


@dataclass
class _Storage:
    """A storage named by the pickle; ``start`` (its place in the file) is known once the file's layout is."""

    key: str
    code: str  # of ``dtypes``
    count: int
    start: int = -1

    @property
    def nbytes(self) -> int:
        return self.count * ITEM_BYTES[self.code]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of the file, not read yet."""

    file: MappedFile
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    code: str  # of ``dtypes``

    def read(self) -> torch.Tensor:
        """The tensor as a view of the mapped file (strided as it was saved)."""
        used = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)) if 0 not in self.shape else 0
        flat = self.file.tensor(self.storage.start + self.offset * ITEM_BYTES[self.code], self.code, (used,))
        if used == 0:
            return flat.view(self.shape)
        return flat.as_strided(self.shape, self.stride)


class TorchFile:
    """``root`` is the saved object: containers, numbers, strings, ``LazyTensor`` and placeholders."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = MappedFile(path)
        self.path = self._file.path
        self._storages: dict[str, _Storage] = {}
        self.root: Any = self._load_zip() if is_zip(self._file) else self._load_legacy()

    def table(self, tree: Any) -> TensorTable:
        """The tensors of ``tree`` (a flat dict: name → tensor) as a table; anything else in it raises."""
        if not isinstance(tree, dict):
            raise CheckpointError(f"{self.path} holds {describe(tree)}, expected a dict of tensors")
        entries = []
        for name, value in tree.items():
            if not isinstance(name, str) or not isinstance(value, LazyTensor):
                raise CheckpointError(f"{self.path}: entry {str(name)[:200]!r} is {describe(value)}, expected a tensor")
            entries.append(TableEntry(self.path, name, TensorInfo(value.shape, value.code), value.read))
        return TensorTable(self.path, entries)

    def _load_zip(self) -> Any:
        entries = read_entries(self._file)
        pickles = [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise CheckpointError(f"{self.path} is a zip file with {len(pickles)} data.pkl, expected one: not torch's")
        prefix = pickles[0].removesuffix("data.pkl")
        if prefix + "constants.pkl" in entries:
            raise CheckpointError(f"{self.path} is a TorchScript program, expected a plain state dict")
        order = entries.get(prefix + "byteorder")
        if order is not None and self._file.bytes(order.start, order.start + order.size) != b"little":
            raise CheckpointError(f"{self.path} was written on a big-endian machine, which is not supported")
        entry = entries[pickles[0]]
        if entry.size > safe_pickle.MAX_PICKLE_BYTES:
            raise CheckpointError(f"{self.path}: data.pkl has {entry.size} bytes; limit {safe_pickle.MAX_PICKLE_BYTES}")
        data = self._file.bytes(entry.start, entry.start + entry.size)
        root, stop = safe_pickle.load(self.path, data, self._known(), self._storage)
        if stop != len(data):
            raise CheckpointError(f"{self.path}: bytes follow the end of data.pkl")
        for storage in self._storages.values():
            place = entries.get(f"{prefix}data/{storage.key}")
            if place is None or place.size != storage.nbytes:
                found = "is missing" if place is None else f"has {place.size} bytes"
                raise CheckpointError(
                    f"{self.path}: storage {storage.key!r} {found}, the pickle says {storage.nbytes} bytes"
                )
            storage.start = place.start
        return root

    def _load_legacy(self) -> Any:
        head = self._file.bytes(0, min(self._file.size, safe_pickle.MAX_PICKLE_BYTES))
        if not head.startswith(_LEGACY_MAGIC):
            raise CheckpointError(f"{self.path} is neither a torch zip file nor torch's older layout; truncated?")
        version, position = safe_pickle.load(self.path, head, {}, _no_storage, len(_LEGACY_MAGIC))
        if version != 1001:
            raise CheckpointError(f"{self.path}: unknown version of torch's older layout")
        system, position = safe_pickle.load(self.path, head, {}, _no_storage, position)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{self.path} was not written on a little-endian machine; not supported")
        root, position = safe_pickle.load(self.path, head, self._known(), self._storage, position)
        keys, position = safe_pickle.load(self.path, head, {}, _no_storage, position)
        self._place_legacy(keys, position)
        return root

    def _place_legacy(self, keys: Any, position: int) -> None:
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self._storages):
            raise CheckpointError(f"{self.path}: the list of storages does not match the tensors; truncated or forged")
        for key in keys:
            storage = self._storages[str(key)]
            count = int.from_bytes(self._file.bytes(position, position + 8), "little")
            position += 8
            if count != storage.count or position + storage.nbytes > self._file.size:
                raise CheckpointError(
                    f"{self.path}: storage {key!r} of {storage.count} elements is truncated or forged"
                )
            storage.start = position
            position += storage.nbytes
        if position != self._file.size:
            raise CheckpointError(f"{self.path}: {self._file.size - position} bytes follow the last storage")

    def _known(self) -> dict[str, safe_pickle.Stand]:
        """Stand-ins for the few torch globals a saved tensor needs."""
        stand = safe_pickle.Stand
        known: dict[str, safe_pickle.Stand] = {
            "torch._utils._rebuild_tensor": stand("_rebuild_tensor", self._rebuild),
            "torch._utils._rebuild_tensor_v2": stand("_rebuild_tensor_v2", self._rebuild),
            "torch._utils._rebuild_tensor_v3": stand("_rebuild_tensor_v3", self._rebuild_v3),
            "torch._utils._rebuild_parameter": stand("_rebuild_parameter", _first),
            "torch._utils._rebuild_parameter_with_state": stand("_rebuild_parameter_with_state", _first),
            "torch.Size": stand("Size", _size),
        }
        for name in _STORAGES:
            for module in ("torch", "torch.cuda", "torch.storage"):
                known[f"{module}.{name}"] = stand(name)
        for text in _DTYPES:
            known[text] = stand(text)
        return known

    def _storage(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] not in ("storage", b"storage"):
            raise CheckpointError(f"{self.path}: unknown persistent object {str(pid)[:200]}")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, safe_pickle.Stand) or kind.origin not in _STORAGES:
            raise CheckpointError(f"{self.path}: storage {str(key)[:200]!r} has an unknown type {str(kind)[:200]}")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise CheckpointError(f"{self.path}: storage {str(key)[:200]!r} is malformed")
        if len(pid) == 6 and pid[5] is not None:
            raise CheckpointError(f"{self.path}: storage views of torch < 0.4 are not supported; save the file again")
        made = _Storage(key, _STORAGES[kind.origin], count)
        known = self._storages.setdefault(key, made)
        if (known.code, known.count) != (made.code, made.count):
            raise CheckpointError(f"{self.path}: storage {key!r} is described in two ways")
        return known

    def _rebuild(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> LazyTensor:
        code = storage.code if isinstance(storage, _Storage) else None
        return self._lazy(storage, offset, shape, stride, code)

    def _rebuild_v3(
        self, storage: Any, offset: Any, shape: Any, stride: Any, _g: Any, _h: Any, dtype: Any, *_: Any
    ) -> Any:
        name = dtype.origin if isinstance(dtype, safe_pickle.Stand) else ""
        return self._lazy(storage, offset, shape, stride, _DTYPES.get(name))

    def _lazy(self, storage: Any, offset: Any, shape: Any, stride: Any, code: str | None) -> LazyTensor:
        sizes = (*shape, *stride, offset) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
        if not isinstance(storage, _Storage) or code is None or len(sizes) > 65:
            raise CheckpointError(f"{self.path}: a tensor is built from {describe(storage)}, expected a known storage")
        if not all(type(n) is int and n >= 0 for n in sizes) or len(shape) != len(stride):
            raise CheckpointError(f"{self.path}: a tensor on storage {storage.key!r} has a malformed shape or stride")
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        count = element_count(shape)
        # More elements than bytes means a stride of 0: a small file that unfolds into a large tensor.
        size = ITEM_BYTES[code]
        if count and ((last + 1) * size > storage.nbytes or count * size > storage.nbytes):
            raise CheckpointError(
                f"{self.path}: a tensor {list(shape)} with stride {list(stride)} does not fit its storage "
                f"{storage.key!r} of {storage.nbytes} bytes"
            )
        return LazyTensor(self._file, storage, offset, shape, stride, code)


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested dicts, lists and tuples with its dotted path. Shared parts are visited once."""
    seen: set[int] = set()
    stack = [(prefix, tree, 0)]
    nodes = 0
    while stack:
        where, value, depth = stack.pop()
        nodes += 1
        if nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise CheckpointError(f"the saved object is nested too deeply or too large at {where[:200]!r}")
        if isinstance(value, (dict, list, tuple)):
            if id(value) in seen and value:
                continue
            seen.add(id(value))
            pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
            stack.extend((f"{where}.{key}" if where else str(key), item, depth + 1) for key, item in reversed(pairs))
        else:
            yield where, value


def describe(value: Any) -> str:
    """A short, harmless description of a loaded object for messages."""
    if isinstance(value, LazyTensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, safe_pickle.Placeholder):
        return repr(value)
    return f"a {type(value).__name__}"


def _first(data: Any, *_: Any) -> Any:
    return data


def _size(value: Any = ()) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def _no_storage(pid: Any) -> Any:
    raise CheckpointError("a storage appears where the file format has none")
