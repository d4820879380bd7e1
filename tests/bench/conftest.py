"""Instruments whose readings a test chooses: the one seam at which the benchmarks are faked."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest

from tinygptv_fast.bench.noise import Reading
from tinygptv_fast.cli import main


class FakeInstruments:
    """A clock that advances by ``step`` seconds per look, and probes that cycle through ``bandwidths``. ``busy`` CPU
    seconds of other processes pass per look at the noise."""

    def __init__(self, bandwidths: tuple[float, ...] = (10e9,), step: float = 0.5, busy: float = 0.0) -> None:
        self._probes, self._step, self._busy = cycle(bandwidths), step, busy
        self._time = self._noise = 0.0

    def now(self) -> float:
        self._time += self._step
        return self._time

    def bandwidth(self) -> float:
        return next(self._probes)

    def noise(self) -> Reading:
        self._noise += 1.0
        return Reading(busy=self._busy * self._noise, stolen=0.0, own=0.0, wall=self._noise)


@pytest.fixture
def fake_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeInstruments]]:
    """The command uses fake instruments: no gigabyte to read, no figure that depends on this machine's load."""
    from tinygptv_fast.bench import runner

    monkeypatch.setattr(runner, "MachineInstruments", lambda threads: FakeInstruments())
    yield FakeInstruments


@dataclass(frozen=True)
class Result:
    """What a program that calls ``tinygptv`` sees."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``run("bench", ...)`` inside this process."""

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call
