"""A file mapped into memory, and tensors that point into it.

Knows bytes and offsets. Does not know any file format: the readers beside this module decide what lies where.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about one tensor, before any of its data is touched."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{list(self.shape)} {str(self.dtype).removeprefix('torch.')}"


def element_count(shape: Sequence[int]) -> int:
    """Product of ``shape`` in Python integers, so that a lying header cannot overflow it."""
    return math.prod(shape)


class MappedFile:
    """``path`` mapped copy-on-write: tensors share the page cache, and writing to one never reaches the file.

    A file cut short by somebody else *while* it is mapped still kills the process with SIGBUS; no reader of mapped
    files can prevent that. Everything that can be checked at opening time is checked by the callers.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as handle:
                self.size = os.fstat(handle.fileno()).st_size
                if self.size == 0:
                    raise CheckpointError(f"{self.path} is empty, expected a weight file")
                self._map = _map_private(handle.fileno(), self.size)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} cannot be read: {error}") from error

    def bytes(self, start: int, stop: int) -> bytes:
        """A copy of ``[start, stop)``; out of range raises."""
        if not 0 <= start <= stop <= self.size:
            raise CheckpointError(f"{self.path} is truncated: bytes {start}..{stop} of {self.size} are needed")
        return self._map[start:stop]

    def tensor(self, start: int, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
        """A contiguous tensor over the bytes at ``start``; no copy unless ``start`` is not aligned for ``dtype``."""
        count = element_count(shape)
        stop = start + count * dtype.itemsize
        if start < 0 or stop > self.size:
            raise CheckpointError(f"{self.path} is truncated: bytes {start}..{stop} of {self.size} are needed")
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        if start % dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=stop - start, offset=start).clone()
            return raw.view(dtype).view(tuple(shape))
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start).view(tuple(shape))

    def release(self, start: int, stop: int) -> None:
        """The bytes ``[start, stop)`` have been copied elsewhere: the whole pages among them leave this process's
        memory. Reading them again fetches them again. What was written to them through a tensor is lost."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = min(stop, self.size) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, length)


def _map_private(fd: int, size: int) -> mmap.mmap:
    if sys.platform != "linux":
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    # MAP_NORESERVE: a private writable mapping larger than the machine's memory would otherwise be refused,
    # although nothing is ever written to it.
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE | no_reserve, prot=mmap.PROT_READ | mmap.PROT_WRITE)
