"""What steps learn from, made ahead in a process: the same things in the same order, and nothing left behind."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinygptv_fast.errors import TrainingError
from tinygptv_fast.train.demo import ahead as module
from tinygptv_fast.train.demo.ahead import WORTH, Ahead, ahead
from tinygptv_fast.train.demo.looking import Looked, Views
from tinygptv_fast.train.demo.recipe import TINY
from tinygptv_fast.train.demo.seeing import Drawn
from tinygptv_fast.train.demo.stages import Asking
from tinygptv_fast.train.demo.telling import Told


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_a_process_makes_the_same_as_none() -> None:
    told = Told(TINY)
    with ahead(told, WORTH + 2) as made:
        assert [made(step) for step in (0, 1, 2)] == [told(step) for step in (0, 1, 2)]
        assert len(multiprocessing.active_children()) == 1
        assert made(1) == told(1)  # out of turn
        assert made(2) == told(2)


def test_a_short_run_starts_none() -> None:
    with ahead(operator.neg, WORTH + 5) as made:
        assert [made(step) for step in range(6, 9)] == [-6, -7, -8]
        assert multiprocessing.active_children() == []


def test_tensors_come_as_they_were_made() -> None:
    drawn = Drawn(TINY, "v4")
    with ahead(drawn, WORTH + 3) as made:
        for step in (2, 3):  # a large and a small one
            (pixels, labels), (wanted, names) = made(step), drawn(step)
            assert torch.equal(pixels, wanted) and labels.counts == names.counts
            assert all(torch.equal(labels.cells[name], names.cells[name]) for name in names.cells)


def test_all_that_steps_learn_from_can_be_pickled() -> None:
    asking = Asking(TINY, "s4", "multitask", 50, 3, 2)
    looked = Looked(TINY, (("multitask", "multitask", 40), ("pretrain", "instruct", 30)))
    for made in (asking, looked, Told(TINY)):
        again = pickle.loads(pickle.dumps(made))
        assert _said(again(5)) == _said(made(5)) and _said(again(6)) != _said(made(5))


def _said(made: Any) -> Any:
    """What can be compared of it."""
    if not isinstance(made, Views):
        return made
    pictures = {name: (at.tolist(), things.counts) for name, (at, things) in made.seen.items()}
    return made.conversations, pictures


def test_what_goes_wrong_there_is_raised_here() -> None:
    with ahead(functools.partial(operator.floordiv, 7), WORTH + 1) as made, pytest.raises(ZeroDivisionError):
        made(0)


def test_a_process_that_is_killed_is_named() -> None:
    with ahead(operator.neg, WORTH + 10) as made:
        assert made(0) == 0
        (worker,) = multiprocessing.active_children()
        worker.kill()
        worker.join()
        with pytest.raises(TrainingError, match=r"step \d+: the process that makes what is learnt from is gone"):
            for step in range(1, 10):  # what it had made before comes first
                made(step)


def test_it_stands_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Low priority, and deaf to Ctrl-C."""
    monkeypatch.setattr(module, "WORTH", 1)
    made = Ahead(operator.neg, 50)
    try:
        made(0)
        (worker,) = multiprocessing.active_children()
        status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
        ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
        assert ignored >> 1 & 1  # SIGINT is 2
        nice = int(Path(f"/proc/{worker.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[16])
        assert nice == min(19, os.nice(0) + 10)
    finally:
        made.close()


def test_pictures_are_those_of_the_step() -> None:
    drawn = Drawn(TINY, "v4")
    assert drawn.size(3) == TINY.small_size and drawn.size(4) == TINY.large_size
    assert not np.array_equal(drawn(0)[0].numpy(), drawn(1)[0].numpy())
