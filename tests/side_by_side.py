"""Work of several tests that uses one processor each, done side by side: every test waits for its own part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

Job, Result = TypeVar("Job"), TypeVar("Result")


@contextmanager
def side_by_side(
    request: pytest.FixtureRequest,
    needed: Callable[[str, Any], Sequence[Job]],
    run: Callable[[Job], Result],
) -> Iterator[Callable[[Job], Result]]:
    """What ``run`` makes of a job. ``needed(test, argument)`` says what a test of the requesting module waits for, by
    its name and its only argument. Begun in the order of the tests that were chosen; the rest is dropped at the end."""
    jobs: dict[Job, Future[Result]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in request.session.items:
            if item.path != request.path or not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
                continue
            for job in needed(item.originalname, next(iter(item.callspec.params.values()))):
                if job not in jobs:
                    jobs[job] = pool.submit(run, job)
        yield lambda job: jobs[job].result()
        pool.shutdown(cancel_futures=True)
