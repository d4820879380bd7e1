"""Packed weights kept under the user's cache directory, so that the next start reads them straight into memory.

One file per model and set of forms, named by ``Forms.key``. Files appear whole (written beside, then renamed), one
process packs at a time (a lock file), the whole stays below a number of bytes (least recently used files go first), and
what cannot be read is packed again. Nothing here can make a model fail to load: at worst there is a notice in the log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..env import read_settings
from ..errors import TinyGPTVError

if TYPE_CHECKING:
    from .. import _native

SUFFIX = ".packed"
LOCK_WAIT_S = 300.0  # packing the released model takes well under a minute; a lock held longer is somebody's accident
_LOCK_POLL_S = 0.05
_log = logging.getLogger("tinygptv_fast")


@dataclass(frozen=True)
class Entry:
    """One file of the cache. used: seconds since the epoch when it was last loaded or written."""

    key: str
    path: Path
    bytes: int
    used: float


class PackedCache:
    """The cache at ``root``, kept below ``limit`` bytes. Safe to use from several processes."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    @classmethod
    def from_environment(cls) -> PackedCache | None:
        """The user's cache; None where it is switched off (``TINYGPTV_CACHE_GB=0``) or there is no home directory."""
        settings = read_settings()
        if settings.cache_bytes == 0 or settings.cache_dir is None:
            return None
        return cls(settings.cache_dir / "packed", settings.cache_bytes)

    def path(self, key: str) -> Path:
        """Where the weights named ``key`` are or would be."""
        return self.root / f"{key}{SUFFIX}"

    def load(self, key: str, mode: str, threads: int) -> _native.Weights | None:
        """The weights, None if they are not there. A damaged file is removed with a notice."""
        from .. import _native

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            weights = _native.Weights.load(str(path), key, mode=mode, threads=threads)
        except TinyGPTVError as error:
            _log.warning("the packed weights at %s cannot be used and are packed again: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):  # a read-only cache serves as well; only its order of use is not kept
            os.utime(path)
        return weights

    def save(self, key: str, weights: _native.Weights) -> bool:
        """Keep ``weights``; whether that worked. Older files make room."""
        needed = weights.bytes
        if needed > self.limit:
            _log.warning(
                "packed weights of %.2f GB are not kept: the cache may hold %.2f GB (TINYGPTV_CACHE_GB)",
                needed / 1e9,
                self.limit / 1e9,
            )
            return False
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._make_room(needed)
            weights.save(str(self.path(key)))
        except (OSError, TinyGPTVError) as error:
            _log.warning("packed weights are not kept in %s, the next start packs again: %s", self.root, error)
            return False
        return True

    @contextmanager
    def lock(self, key: str) -> Iterator[bool]:
        """Hold the right to pack ``key``; waits for a process that has it. Yields False where there can be no lock."""
        handle = self._open_lock(key)
        if handle is None:
            yield False
            return
        try:
            yield _acquire(handle, time.monotonic() + LOCK_WAIT_S)
        finally:
            os.close(handle)  # which gives the lock back

    def entries(self) -> list[Entry]:
        """All files, most recently used first."""
        out = []
        for path in self.root.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                out.append(Entry(path.name.removesuffix(SUFFIX), path, status.st_size, status.st_mtime))
        return sorted(out, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove every file; returns the bytes freed. Processes that mapped one keep it until they end."""
        freed = 0
        for entry in self.entries():
            entry.path.unlink(missing_ok=True)
            freed += entry.bytes
        for path in self.root.glob("*.lock"):
            path.unlink(missing_ok=True)
        return freed

    def _make_room(self, needed: int) -> None:
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        while entries and total + needed > self.limit:
            oldest = entries.pop()
            oldest.path.unlink(missing_ok=True)
            total -= oldest.bytes

    def _open_lock(self, key: str) -> int | None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return os.open(self.root / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("packed weights are not kept in %s, the next start packs again: %s", self.root, error)
            return None


def _acquire(handle: int, give_up: float) -> bool:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: without a lock two processes may both pack, and the later rename wins
        return True
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > give_up:
                _log.warning("another process has been packing these weights for long: they are packed in memory")
                return False
            time.sleep(_LOCK_POLL_S)
        except OSError:  # a file system without locks
            return True
