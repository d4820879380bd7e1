"""A file mapped into memory, and arrays or tensors that point into it.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from .dtypes import FLOATS, ITEM_BYTES, NAMES, numpy_dtype, torch_dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about one tensor, before any of its data is touched."""

    shape: tuple[int, ...]
    code: str  # of ``dtypes``

    @property
    def name(self) -> str:
        """The element type as torch calls it: ``float32``, ..."""
        return NAMES[self.code]

    @property
    def floating(self) -> bool:
        return self.code in FLOATS

    @property
    def nbytes(self) -> int:
        return element_count(self.shape) * ITEM_BYTES[self.code]

    @property
    def dtype(self) -> torch.dtype:
        """The element type as torch has it; imports torch."""
        return torch_dtype(self.code)

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.name}"


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

    def array(self, start: int, code: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
        """A contiguous array over the bytes at ``start``, bfloat16 as uint16; no copy unless ``start`` is not aligned
        for its elements."""
        dtype, count = numpy_dtype(code), element_count(shape)
        stop = start + count * dtype.itemsize
        if start < 0 or stop > self.size:
            raise CheckpointError(f"{self.path} is truncated: bytes {start}..{stop} of {self.size} are needed")
        if count == 0:
            return np.empty(tuple(shape), dtype)
        flat = np.frombuffer(self._map, dtype, count, start)
        return (flat.copy() if start % dtype.itemsize else flat).reshape(tuple(shape))

    def tensor(self, start: int, code: str, shape: Sequence[int]) -> torch.Tensor:
        """``array`` as a tensor over the same bytes."""
        import torch

        return torch.from_numpy(self.array(start, code, shape)).view(torch_dtype(code))

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
