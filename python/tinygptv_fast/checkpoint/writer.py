"""Writes ``.safetensors`` in pieces: header first, then rows of any tensor in any order, each tensor hashed as it goes.

Holds no tensor. Parts are laid out by falling alignment, so that every tensor is aligned for its dtype when mapped.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .dtypes import ITEM_BYTES, NAMES
from .names import Part

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64


class SafetensorsWriter:
    """Writes ``parts`` to ``path``. Rows of one part must come in order; different parts may interleave."""

    def __init__(self, path: Path, parts: Iterable[Part], metadata: Mapping[str, str]) -> None:
        self.path = path
        ordered = sorted(parts, key=lambda part: -ITEM_BYTES[part.code])
        self._parts = {part.name: part for part in ordered}
        header, self._starts, size = _layout(ordered, metadata)
        self._written = dict.fromkeys(self._parts, 0)
        self._hashes = {name: hashlib.sha256() for name in self._parts}
        self.header_sha256 = hashlib.sha256(header).hexdigest()
        self.size = size
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            reserve(self._fd, size)
            write_all(self._fd, header, 0)
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, name: str, rows: torch.Tensor) -> None:
        """Append ``rows`` to part ``name``; their shape behind the first dimension and dtype must be the part's."""
        import torch

        part = self._parts[name]
        if str(rows.dtype) != f"torch.{NAMES[part.code]}" or tuple(rows.shape[1:]) != part.shape[1:]:
            raise CheckpointError(
                f"{name}: {list(rows.shape)} {rows.dtype} written into {list(part.shape)} {NAMES[part.code]}"
            )
        data = memoryview(rows.detach().contiguous().cpu().view(torch.uint8).numpy().data).cast("B")
        if self._written[name] + len(data) > part.nbytes:
            raise CheckpointError(f"{name}: more rows written than {list(part.shape)} holds")
        write_all(self._fd, data, self._starts[name] + self._written[name])
        self._hashes[name].update(data)
        self._written[name] += len(data)

    def finish(self) -> dict[str, str]:
        """Flush to the disk and return each tensor's sha256. Raises if any tensor is incomplete."""
        short = [name for name, part in self._parts.items() if self._written[name] != part.nbytes]
        if short:
            raise CheckpointError(f"{len(short)} tensors were not written: {short[:10]}")
        os.fsync(self._fd)
        self.close()
        return {name: value.hexdigest() for name, value in self._hashes.items()}

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _layout(parts: list[Part], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int], int]:
    """(header bytes with length prefix, start of each part in the file, file size)."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    starts, position = {}, 0
    for part in parts:
        entries[part.name] = {
            "dtype": part.code,
            "shape": list(part.shape),
            "data_offsets": [position, position + part.nbytes],
        }
        starts[part.name] = position
        position += part.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: start + len(header) for name, start in starts.items()}, len(header) + position


def reserve(fd: int, size: int) -> None:
    """Claim the space now, so that a full disk shows before the work. Filesystems without it just grow the file."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` until everything is written."""
    view = memoryview(data)
    while len(view):
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
