"""Many requests at once: begun in order, decoded together, answered in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from .answer import Answer
from .decoding import Task

_R = TypeVar("_R")
_WAIT_S = 0.02  # for the oldest task; the others are only looked at, so that no event queue fills up


def run_batch(
    begin: Callable[[_R], Task], requests: Sequence[_R], parallel: int, *, raise_errors: bool
) -> list[Answer | Exception]:
    """The answer of each request, or with ``raise_errors=False`` its error. At most ``parallel`` are under way.

    Whatever ends this early (an error, Ctrl-C) cancels what is under way.
    """
    out: list[Answer | Exception | None] = [None] * len(requests)
    running: dict[int, Task] = {}

    def attempt(index: int, step: Callable[[], Task]) -> None:
        """One step of request ``index``, whose error is its answer."""
        try:
            task = running[index] = step()
            out[index] = task.answer
        except Exception as error:
            if raise_errors:
                raise
            if index in running:
                running[index].close()
            out[index] = error
        if out[index] is not None:
            running.pop(index, None)

    def advance(wait_s: float) -> None:
        for index, task in list(running.items()):
            attempt(index, lambda task=task, wait=wait_s: _polled(task, wait))  # type: ignore[misc]
            wait_s = 0.0

    try:
        for index, request in enumerate(requests):
            while len(running) >= parallel:
                advance(_WAIT_S)
            attempt(index, lambda request=request: begin(request))  # type: ignore[misc]
            advance(0.0)
        while running:
            advance(_WAIT_S)
    finally:
        with ExitStack() as closing:  # every one, should closing another fail
            for task in running.values():
                closing.callback(task.close)
    return [answer for answer in out if answer is not None]


def _polled(task: Task, wait_s: float) -> Task:
    task.poll(wait_s)
    return task
