"""The table of contents of a zip file whose entries are stored, not compressed, as torch writes them.

Reads the central directory only. Compressed, encrypted, overlapping, duplicate or oddly named entries are refused,
so an entry is always exactly the bytes it occupies and a small file cannot unfold into a large one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import CheckpointError
from .mapped import MappedFile

MAX_ENTRIES = 200_000
_EOCD = struct.Struct("<4s4H2LH")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL32 = 0xFFFFFFFF


@dataclass(frozen=True)
class ZipEntry:
    """One stored entry: its data are bytes ``[start, start + size)`` of the file."""

    name: str
    start: int
    size: int


def is_zip(file: MappedFile) -> bool:
    return file.size >= 4 and file.bytes(0, 4) == b"PK\x03\x04"


def read_entries(file: MappedFile) -> dict[str, ZipEntry]:
    """All entries by name. ``CheckpointError`` for anything torch would not have written."""
    start, size, count = _directory_place(file)
    data = file.bytes(start, start + size)
    entries: dict[str, ZipEntry] = {}
    position = 0
    for _ in range(count):
        entry, position = _central_entry(file, data, position, start)
        if entry.name in entries:
            raise CheckpointError(f"{file.path}: zip entry {entry.name!r} appears twice")
        entries[entry.name] = entry
    if position != size:
        raise CheckpointError(f"{file.path}: the zip directory holds more than the {count} entries it announces")
    _check_overlap(file, entries)
    return entries


def _directory_place(file: MappedFile) -> tuple[int, int, int]:
    """(offset, bytes, entries) of the central directory."""
    tail_start = max(0, file.size - _EOCD.size - 0xFFFF)
    tail = file.bytes(tail_start, file.size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _EOCD.size > len(tail):
        raise CheckpointError(f"{file.path}: the zip directory is missing; the file is truncated")
    _, disk, _, _, count, size, start, comment = _EOCD.unpack_from(tail, at)
    end = tail_start + at
    if disk not in (0, 0xFFFF) or at + _EOCD.size + comment != len(tail):
        raise CheckpointError(f"{file.path}: the end of the zip directory is malformed")
    if count == 0xFFFF or size == _FULL32 or start == _FULL32:
        start, size, count, end = _directory_place64(file, end)
    if count > MAX_ENTRIES:
        raise CheckpointError(f"{file.path}: the zip file claims {count} entries, the limit is {MAX_ENTRIES}")
    if start + size > end or size < count * _CENTRAL.size:
        raise CheckpointError(f"{file.path}: the zip directory does not fit the file; truncated or forged")
    return start, size, count


def _directory_place64(file: MappedFile, end: int) -> tuple[int, int, int, int]:
    if end < _LOCATOR64.size:
        raise CheckpointError(f"{file.path}: the zip64 directory is missing")
    mark, _, offset, _ = _LOCATOR64.unpack(file.bytes(end - _LOCATOR64.size, end))
    if mark != b"PK\x06\x07" or offset + _EOCD64.size > end - _LOCATOR64.size:
        raise CheckpointError(f"{file.path}: the zip64 directory is malformed")
    fields = _EOCD64.unpack(file.bytes(offset, offset + _EOCD64.size))
    if fields[0] != b"PK\x06\x06":
        raise CheckpointError(f"{file.path}: the zip64 directory is malformed")
    count, size, start = fields[7], fields[8], fields[9]
    return start, size, count, offset


def _central_entry(file: MappedFile, data: bytes, position: int, limit: int) -> tuple[ZipEntry, int]:
    if position + _CENTRAL.size > len(data):
        raise CheckpointError(f"{file.path}: the zip directory is truncated")
    fields = _CENTRAL.unpack_from(data, position)
    mark, flags, method = fields[0], fields[3], fields[4]
    packed, size, name_len, extra_len, comment_len = fields[8], fields[9], fields[10], fields[11], fields[12]
    offset = fields[16]
    stop = position + _CENTRAL.size + name_len + extra_len + comment_len
    if mark != b"PK\x01\x02" or stop > len(data):
        raise CheckpointError(f"{file.path}: the zip directory is malformed")
    name_at = position + _CENTRAL.size
    name = data[name_at : name_at + name_len].decode("utf-8", "replace")
    extra = data[name_at + name_len : name_at + name_len + extra_len]
    size, packed, offset = _zip64_sizes(extra, size, packed, offset)
    where = f"{file.path}: zip entry {name!r}"
    if ".." in name.split("/") or name.startswith("/") or "\\" in name or "\0" in name:
        raise CheckpointError(f"{where} has a path that leaves the archive")
    if method != 0 or flags & 0x1 or packed != size:
        raise CheckpointError(f"{where} is compressed or encrypted; torch stores weights plainly, so this is refused")
    return ZipEntry(name, _data_start(file, where, offset, size, limit), size), stop


def _zip64_sizes(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind != 1:
            continue
        values = [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
        if size == _FULL32 and values:
            size = values.pop(0)
        if packed == _FULL32 and values:
            packed = values.pop(0)
        if offset == _FULL32 and values:
            offset = values.pop(0)
    return size, packed, offset


def _data_start(file: MappedFile, where: str, offset: int, size: int, limit: int) -> int:
    if offset + _LOCAL.size > limit:
        raise CheckpointError(f"{where} starts at byte {offset}, beyond the data of the file; truncated or forged")
    fields = _LOCAL.unpack(file.bytes(offset, offset + _LOCAL.size))
    if fields[0] != b"PK\x03\x04" or fields[3] != 0:
        raise CheckpointError(f"{where} has a malformed local header")
    start = offset + _LOCAL.size + fields[9] + fields[10]
    if start + size > limit:
        raise CheckpointError(f"{where} claims {size} bytes, the file ends before that; truncated or forged")
    return start


def _check_overlap(file: MappedFile, entries: dict[str, ZipEntry]) -> None:
    position, last = 0, ""
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.size)):
        if entry.start < position:
            raise CheckpointError(f"{file.path}: zip entries {last!r} and {entry.name!r} overlap")
        position, last = entry.start + entry.size, entry.name
