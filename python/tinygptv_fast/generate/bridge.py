"""Blocking calls for coroutines: each runs in a thread of ours, and cancelling the coroutine cancels the request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

from ..errors import ClosedError

_T = TypeVar("_T")
THREADS = 64  # calls waiting at once; they wait in the engine, a thread costs some kilobytes


class Bridge:
    """A pool of threads, made with the first call. Not the event loop's own, whose few threads everybody shares."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()

    async def call(self, work: Callable[[], _T], cancel: Callable[[], None]) -> _T:
        """The result of ``work()``. If the coroutine is cancelled, ``cancel`` is called and the result dropped."""
        future = self._threads().submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            cancel()
            raise

    async def iterate(
        self, start: Callable[[], Generator[_T, None, None]], cancel: Callable[[], None]
    ) -> AsyncGenerator[_T, None]:
        """Items of ``start()``, each fetched when it is asked for. Leaving the loop early calls ``cancel``."""
        source = _Source(start)
        try:
            while (item := await self.call(source.next, cancel)) is not None:
                yield item
        finally:
            cancel()
            with suppress(ClosedError, RuntimeError):  # a closed model has ended the request already
                self._threads().submit(source.close)

    def close(self) -> None:
        """No more calls; those under way end by themselves."""
        with self._lock:
            self._closed, pool, self._pool = True, self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._closed:
                raise ClosedError("the model is closed")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tinygptv-call")
            return self._pool


class _Source(Generic[_T]):
    """A generator that one thread at a time may use, begun with its first item."""

    def __init__(self, start: Callable[[], Generator[_T, None, None]]) -> None:
        self._start = start
        self._items: Generator[_T, None, None] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def next(self) -> _T | None:
        """The next item, None after the last."""
        with self._lock:
            if self._ended:
                return None
            if self._items is None:
                self._items = self._start()
            return next(self._items, None)

    def close(self) -> None:
        """Close the generator, once whoever is in it has left."""
        with self._lock:
            self._ended = True
            if self._items is not None:
                self._items.close()
