"""What the steps learn from, made ahead in a process of its own.

Drawing and asking is a tenth of a step of *look*, and Python: a thread for it would take the interpreter's lock from
the one that trains. The process has a low priority, so that it gets what the training leaves of the cores: torch's two
threads wait for each other, and one that is held up holds up both.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from ...errors import TrainingError

T = TypeVar("T")
WORTH = 100  # steps: for a few it is not worth to start a process, which imports torch anew
_AHEAD = 2
_MEEK = 10  # added to the niceness of the one that trains


class _Steps(Dataset[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> T:
        return self.make(step)


def _as_it_is(item: T) -> T:
    return item


def _stand_back(_worker: int) -> None:
    """In the process: Ctrl-C is for the one that trains; any core will do, whichever that one is bound to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_MEEK)
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


class Ahead(Generic[T]):
    """``make(step)`` for one step after another, up to ``steps``; out of turn as well, but then from the start.

    Raises what ``make`` raises, and TrainingError if the process is gone.
    """

    def __init__(self, make: Callable[[int], T], steps: int) -> None:
        self._make, self._steps = make, steps
        self._next = -1
        self._items: Iterator[T] | None = None

    def __call__(self, step: int) -> T:
        if step != self._next:
            self._start(step)
        self._next = step + 1
        if self._items is None:
            return self._make(step)
        try:
            return next(self._items)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(f"step {step}: the process that makes what is learnt from is gone: {error}") from error

    def _start(self, step: int) -> None:
        self.close()
        if self._steps - step < WORTH:
            return
        loader: Any = DataLoader(
            _Steps(self._make),
            sampler=range(step, self._steps),
            batch_size=None,
            num_workers=1,
            prefetch_factor=_AHEAD,
            collate_fn=_as_it_is,
            worker_init_fn=_stand_back,
            multiprocessing_context="spawn",
        )
        self._items = iter(loader)

    def close(self) -> None:
        """End the process."""
        # The iterator's finaliser would, too, but an exception that is being handled keeps the iterator alive.
        stop = getattr(self._items, "_shutdown_workers", None)
        self._items, self._next = None, -1
        if stop is not None:
            stop()


@contextlib.contextmanager
def ahead(make: Callable[[int], T], steps: int) -> Iterator[Callable[[int], T]]:
    """``make``, which can be pickled and depends on the step alone, computed ahead for a run that ends at ``steps``."""
    made = Ahead(make, steps)
    try:
        yield made
    finally:
        made.close()
