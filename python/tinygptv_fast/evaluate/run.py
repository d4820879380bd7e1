"""An evaluation: every question asked once, in batches, each answer on disk before the next batch."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TextConfig
from ..errors import ImageError, InvalidArgumentError, PromptError
from ..generate import Answer, TinyGPTV
from .answers import FILE, AnswerFile
from .asking import Settings, given, requests
from .benchmark import Benchmark
from .question import DataSet, Given, Question, Skipped

TOGETHER = 8  # questions asked together, and the most that a kill can lose

__all__ = ["Run", "Settings", "evaluate"]


@dataclass(frozen=True)
class Run:
    """What an evaluation found out. answers: in the order of the data. skipped: of the files and of the asking.
    known: how many answers were there before."""

    benchmark: Benchmark
    data: DataSet
    settings: Settings
    model: Mapping[str, Any]
    answers: tuple[tuple[Question, Given], ...]
    skipped: tuple[Skipped, ...]
    known: int


def evaluate(
    model: TinyGPTV,
    benchmark: Benchmark,
    data: DataSet,
    settings: Settings,
    out: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Run:
    """Ask every question of ``data`` that has no answer in ``out`` yet, and keep each answer there.

    A question whose picture cannot be read, or whose text the template refuses, is skipped; another run tries it again.
    report: called with (questions done, questions in all). Ctrl-C and a kill keep what is in the file. Raises
    InvalidArgumentError where ``out`` holds answers of another model, data or settings, or nothing could be asked.
    """
    benchmark.needs()
    out.mkdir(parents=True, exist_ok=True)
    key = {"set": benchmark.name, "model": model.info["model_id"], "adapter": model.info["adapter"]}
    key |= {"compute": _compute(model), "data": data.digest, "settings": settings.to_dict()}
    with _alone(out):
        file = AnswerFile(out / FILE, key, frozenset(question.id for question in data.questions))
        known = len(file.known)
        skipped: list[Skipped] = []
        todo = [question for question in data.questions if question.id not in file.known]
        report(known, len(data.questions))
        for begin in range(0, len(todo), TOGETHER):
            part = todo[begin : begin + TOGETHER]
            answers, failed = _ask(model, benchmark, part, settings)
            file.append(answers)
            skipped += failed
            report(known + begin + len(part), len(data.questions))
    if not file.known:
        raise InvalidArgumentError(f"none of {len(todo)} questions could be asked, the first: {_say(skipped[0])}")
    pairs = tuple((q, file.known[q.id]) for q in data.questions if q.id in file.known)
    return Run(benchmark, data, settings, describe(model), pairs, (*data.skipped, *skipped), known)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold folder ``out``: two runs would ask everything twice. The lock goes with the process, however it ends."""
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidArgumentError(f"--out is {out}, where another evaluation runs; expected another") from None
        yield
    finally:
        os.close(handle)


def describe(model: TinyGPTV) -> dict[str, Any]:
    """What of a model's info decides its answers, and how large it is."""
    info = model.info
    names = ("model_id", "adapter", "backend", "device", "quantization", "group_size", "kv_dtype", "vision_dtype")
    out = {name: info.get(name) for name in (*names, "image_size", "template")}
    return out | {"dtype": str(info.get("dtype")), "language_parameters": language_parameters(model.config.text)}


def language_parameters(text: TextConfig) -> int:
    """Weights of the language model, norms and biases included, from its sizes: what the paper's "2.8B" counts."""
    c, f = text.width, text.mlp_width
    attention = 3 * c * c + 3 * c + c * c + c
    norms = 2 * c + (4 * text.head_dim if text.qk_norm else 0) + (c if text.post_attention_norm else 0)
    layer = attention + 2 * c * f + f + c + norms
    head = text.vocab_size * c + text.vocab_size
    return text.vocab_size * c + text.layers * layer + 2 * c + head


def _compute(model: TinyGPTV) -> list[str]:
    """What answers are computed in: the same weights at another precision may answer otherwise."""
    info = model.info
    return [str(info.get(name)) for name in ("backend", "device", "dtype", "kv_dtype", "vision_dtype")]


def _ask(
    model: TinyGPTV, benchmark: Benchmark, part: list[Question], settings: Settings
) -> tuple[dict[str, Given], list[Skipped]]:
    """The answers to a batch by question id, and the questions that could not be asked."""
    each = [requests(model, benchmark, question, settings) for question in part]
    started = time.perf_counter()
    found = iter(model.generate_batch([one for group in each for one in group], on_error="return"))
    share = (time.perf_counter() - started) / len(part)
    answers: dict[str, Given] = {}
    skipped: list[Skipped] = []
    for question, group in zip(part, each, strict=True):
        said = [next(found) for _ in group]
        error = next((one for one in said if isinstance(one, Exception)), None)
        if error is not None:
            skipped.append(_skipped(question, error))
        else:
            whole = [one for one in said if isinstance(one, Answer)]
            answers[question.id] = given(model, benchmark, question, settings, whole, share)
    return answers, skipped


def _skipped(question: Question, error: Exception) -> Skipped:
    """Of errors that are one question's own; any other ends the run."""
    if isinstance(error, ImageError):
        return Skipped(question.where, f"its picture cannot be read: {error}")
    if isinstance(error, (PromptError, InvalidArgumentError)):
        return Skipped(question.where, f"it cannot be asked: {error}")
    raise error


def _say(skipped: Skipped) -> str:
    return f"{skipped.where}: {skipped.why}"
