"""Sections in order, each row as soon as it is there."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import __version__, _native, env
from . import decoder, kernels, serving, startup, vision
from .instruments import Instruments, MachineInstruments, int8_peak
from .options import Options
from .row import Row
from .session import Session
from .subject import open_subject

Progress = Callable[[int, int, str], None]
"""``progress(sections_done, sections_in_all, text)``."""

_RUN: dict[str, Callable[[Session], Iterator[Row]]] = {
    "kernels": kernels.kernels,
    "decode": decoder.decode,
    "prefill": decoder.prefill,
    "batch": decoder.batch,
    "engine": serving.engine,
    "load": startup.load,
    "ttft": startup.ttft,
    "vision": vision.vision,
    "jitter": serving.jitter,
    "soak": serving.soak,
}


def run(
    options: Options, progress: Progress | None = None, instruments: Instruments | None = None
) -> Iterator[tuple[dict[str, Any], Row]]:
    """Measure; yields (what the row was measured on, row). Stop by closing the generator: nothing is left behind.

    Raises InvalidArgumentError, UnsupportedError (an instruction set this CPU lacks), CheckpointError. ``instruments``
    replaces the machine's own in tests.
    """
    threads = options.threads or env.read_settings().threads or _native.physical_cores()
    isa = options.isa or env.read_settings().cpu_isa
    options = _with(options, threads, isa)
    if isa and isa not in _native.isas():
        _native.int8_peak(1, isa, 1)  # raises what fits: an unknown name, or one this CPU lacks
    show = progress or (lambda done, total, text: None)
    show(0, len(options.sections), "weights")
    subject = open_subject(options)
    context = describe(options, subject.name, isa or _native.best_isa())
    context["group"], context["kv"] = subject.forms.body.group_size, subject.kv_kind
    context["weight_bytes"], context["step_bytes"] = subject.weights.bytes, subject.weights.step_bytes
    session = Session(options, subject, instruments or MachineInstruments(threads), None)
    for done, name in enumerate(options.sections):
        session.note = lambda text, done=done: show(done, len(options.sections), text)  # type: ignore[misc]
        session.note(name)
        session.peak = _larger(session.peak, int8_peak(threads, isa))
        for row in _RUN[name](session):
            yield context, row


def _larger(a: float | None, b: float | None) -> float | None:
    """A peak is the most that was ever seen: whoever disturbs a measurement of it only makes it smaller."""
    return max((one for one in (a, b) if one is not None), default=None)


def describe(options: Options, subject: str, isa: str) -> dict[str, Any]:
    """What stands beside every row: version, commit, machine, settings."""
    return {
        "benchmark": "cpu",
        "version": __version__,
        "git": git_hash(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "cpu": _native.cpu_brand(),
        "machine": platform.machine(),
        "isa": isa,
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
        "subject": subject,
        "quick": options.quick,
    }


def _with(options: Options, threads: int, isa: str) -> Options:
    return dataclasses.replace(options, threads=threads, isa=isa)


def git_hash() -> str | None:
    """Short hash of the checkout this package runs from, with '+' when files differ; None outside of one."""
    folder = Path(__file__).resolve().parent

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)

    try:
        hash_, changed = run("rev-parse", "--short", "HEAD"), run("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if hash_.returncode != 0:
        return None
    return str(hash_.stdout.strip()) + ("+" if changed.stdout.strip() else "")
