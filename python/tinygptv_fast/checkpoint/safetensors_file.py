"""Reads ``.safetensors`` files after checking every claim of their header.

Format: 8 bytes little-endian header length, a json object ``{name: {dtype, shape, data_offsets}}``, then the data.
Nothing of the data is touched before the header has been shown to agree with itself and with the file's length.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from .dtypes import NAMES
from .mapped import MappedFile, TensorInfo

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own implementation
MAX_RANK = 16


class SafetensorsFile:
    """One validated, memory-mapped ``.safetensors`` file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = MappedFile(path)
        self.path = self._file.path
        header, self._data_start = _read_header(self._file)
        self.metadata = _metadata(self.path, header.pop("__metadata__", {}))
        self._infos: dict[str, TensorInfo] = {}
        self._starts: dict[str, int] = {}
        spans = []
        for name, entry in header.items():
            info, start, stop = _entry(self.path, name, entry, self._file.size - self._data_start)
            self._infos[name], self._starts[name] = info, start
            spans.append((start, stop, name))
        _check_spans(self.path, spans, self._file.size - self._data_start)

    def names(self) -> list[str]:
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        try:
            return self._infos[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name!r}") from None

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor as a view of the mapped file."""
        info = self.info(name)
        return self._file.tensor(self._data_start + self._starts[name], info.code, info.shape)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The same as an array, bfloat16 as uint16; needs no torch."""
        info = self.info(name)
        return self._file.array(self._data_start + self._starts[name], info.code, info.shape)

    def release(self, name: str) -> None:
        """``name`` has been copied: its pages leave this process's memory until they are read again."""
        info, start = self.info(name), self._data_start + self._starts[name]
        self._file.release(start, start + info.nbytes)

    def header_bytes(self) -> bytes:
        return self._file.bytes(0, self._data_start)

    @property
    def size(self) -> int:
        return self._file.size


def _read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    path = file.path
    if file.size < 8:
        raise CheckpointError(f"{path} is {file.size} bytes, too short for a safetensors header")
    length = int.from_bytes(file.bytes(0, 8), "little")
    if length > MAX_HEADER_BYTES or length > file.size - 8:
        raise CheckpointError(
            f"{path}: the header claims {length} bytes, the file has {file.size - 8} after it "
            f"(limit {MAX_HEADER_BYTES}); truncated or not a safetensors file"
        )
    try:
        header = json.loads(file.bytes(8, 8 + length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is not valid json: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is {type(header).__name__}, expected an object")
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ValueError(f"duplicate key {key!r}")
        out[key] = value
    return out


def _metadata(path: object, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")
    return value


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _entry(path: object, name: str, entry: Any, data_bytes: int) -> tuple[TensorInfo, int, int]:
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where} must have exactly dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in NAMES:
        raise CheckpointError(f"{where} has dtype {entry['dtype']!r}, expected one of {sorted(NAMES)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_natural(n) for n in shape):
        raise CheckpointError(f"{where} has shape {str(shape)[:200]}, expected up to {MAX_RANK} integers >= 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_natural(n) for n in offsets):
        raise CheckpointError(f"{where} has data_offsets {str(offsets)[:200]}, expected [start, stop]")
    start, stop = offsets
    if not start <= stop <= data_bytes:
        raise CheckpointError(f"{where} lies at {start}..{stop}, the file holds {data_bytes} data bytes; truncated?")
    info = TensorInfo(tuple(shape), entry["dtype"])
    if stop - start != info.nbytes:
        raise CheckpointError(
            f"{where} is {info.code} {shape}, that is {info.nbytes} bytes, but its offsets span {stop - start}"
        )
    return info, start, stop


def _check_spans(path: object, spans: Iterable[tuple[int, int, str]], data_bytes: int) -> None:
    """The format wants the tensors to tile the data section: no overlap, no hole, nothing behind the last."""
    position, last = 0, "the header"
    for start, stop, name in sorted(spans):
        if start < position:
            raise CheckpointError(f"{path}: tensors {last!r} and {name!r} overlap at data byte {start}")
        if start > position:
            raise CheckpointError(f"{path}: data bytes {position}..{start} before tensor {name!r} belong to no tensor")
        position, last = stop, name
    if position != data_bytes:
        raise CheckpointError(f"{path}: {data_bytes - position} bytes follow the last tensor {last!r}")
