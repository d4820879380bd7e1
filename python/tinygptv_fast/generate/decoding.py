"""One request from prompt embeddings to answers: the loop that watches end ids, stop strings, deadline and cancel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..processing.boxes import Boxes, parse_boxes
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from ..reference import GenerationOptions
from .answer import Answer, Piece, Timings, Usage
from .reference_backend import ReferenceBackend
from .stops import StopWatch


@dataclass
class Prepared:
    """A request made ready: everything the loop needs."""

    inputs_embeds: Tensor  # [T, C]
    image_tokens: int
    sizes: list[tuple[int, int]]  # (width, height) of each picture
    options: GenerationOptions
    template: Template
    stops: list[str]
    label: str | None
    timings: Timings
    started: float  # time.perf_counter() of the call
    deadline: float | None  # perf_counter() value, or None


@dataclass
class _Row:
    """One sequence while it grows."""

    watch: StopWatch
    put: Callable[[int], str]
    end: Callable[[], str]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    reason: str | None = None

    def add(self, token: int, logprob: float, eos_ids: tuple[int, ...]) -> str:
        """Take one id; returns the text that may be shown now."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        shown = "" if token in eos_ids else self.watch.put(self.put(token))
        self.text += shown
        if token in eos_ids or self.watch.stopped:
            self.reason = "stop"
        return shown

    def finish(self, reason: str) -> str:
        """Flush what is held back; returns it."""
        tail = self.watch.put(self.end())
        if not self.watch.stopped:
            tail += self.watch.end()
        self.text += tail
        self.reason = self.reason or ("stop" if self.watch.stopped else reason)
        return tail


def decode(backend: ReferenceBackend, tokenizer: Tokenizer, work: Prepared) -> Answer:
    """Run ``work`` to its end; further sequences become ``alternatives``."""
    if work.options.num_beams > 1:
        return _decode_beams(backend, tokenizer, work)
    *_, last = decode_pieces(backend, tokenizer, work)
    assert last.answer is not None
    return last.answer


def decode_pieces(backend: ReferenceBackend, tokenizer: Tokenizer, work: Prepared) -> Iterator[Piece]:
    """Pieces of the first sequence as they come; the last piece carries the answer."""
    rows = [_new_row(tokenizer, work) for _ in range(work.options.num_return_sequences)]
    reason, marked = "length", time.perf_counter()
    for index, step in enumerate(backend.steps(work.inputs_embeds, work.options)):
        marked = _mark(work.timings, index, marked, work.started)
        logprobs = step.raw.log_softmax(-1).gather(1, step.ids[:, None])[:, 0]
        for number, row in enumerate(rows):
            if row.reason is None:
                shown = row.add(int(step.ids[number]), float(logprobs[number]), work.options.eos_ids)
                if number == 0 and shown:
                    yield Piece(shown)
        if all(row.reason for row in rows):
            break
        if work.deadline is not None and time.perf_counter() >= work.deadline:
            reason = "deadline"
            break
    tails = [row.finish(reason) for row in rows]
    work.timings.total = 1e3 * (time.perf_counter() - work.started)
    answers = sorted((_answer(row, work) for row in rows[1:]), key=lambda a: -a.probability)
    yield Piece(tails[0], _answer(rows[0], work, answers))


def _decode_beams(backend: ReferenceBackend, tokenizer: Tokenizer, work: Prepared) -> Answer:
    marked = time.perf_counter()
    found = backend.beams(work.inputs_embeds, work.options)
    work.timings.decode = 1e3 * (time.perf_counter() - marked)
    work.timings.first_token = 1e3 * (time.perf_counter() - work.started)
    rows = []
    for ids in found:
        row = _new_row(tokenizer, work)
        for token, logprob in zip(ids, backend.score(work.inputs_embeds, ids), strict=True):
            row.add(token, logprob, work.options.eos_ids)
            if row.reason:
                break
        row.finish("length")
        rows.append(row)
    work.timings.total = 1e3 * (time.perf_counter() - work.started)
    return _answer(rows[0], work, [_answer(row, work) for row in rows[1:]])


def _mark(timings: Timings, index: int, marked: float, started: float) -> float:
    now = time.perf_counter()
    if index == 0:
        timings.prefill = 1e3 * (now - marked)
        timings.first_token = 1e3 * (now - started)
    else:
        timings.decode += 1e3 * (now - marked)
    return now


def _new_row(tokenizer: Tokenizer, work: Prepared) -> _Row:
    stream = tokenizer.stream(skip_special_tokens=True)
    return _Row(StopWatch(work.stops), stream.put, stream.end)


def _answer(row: _Row, work: Prepared, alternatives: list[Answer] | None = None) -> Answer:
    text = row.text if work.template.verbatim else row.text.strip()
    boxes = Boxes()
    if work.sizes:
        width, height = work.sizes[0]
        boxes = parse_boxes(text, width, height, label=work.label)
    return Answer(
        text=text,
        token_ids=row.ids,
        logprobs=row.logprobs,
        boxes=boxes,
        probability=math.exp(sum(row.logprobs)),
        finish_reason=row.reason or "length",
        usage=Usage(prompt=work.inputs_embeds.shape[0], image=work.image_tokens, generated=len(row.ids)),
        timings=work.timings,
        alternatives=alternatives or [],
    )


def choose(backend: ReferenceBackend, work: Prepared, candidates: list[tuple[str, list[int]]]) -> list[Answer]:
    """Every candidate (text, ids with end symbol) as an answer, most probable per token first."""
    answers = []
    for text, ids in candidates:
        logprobs = backend.score(work.inputs_embeds, ids)
        row = _Row(StopWatch([]), lambda _i: "", lambda: "", ids, logprobs, text, "stop")
        answers.append(_answer(row, work))
    answers.sort(key=lambda a: -float(torch.tensor(a.logprobs).mean()))
    work.timings.total = 1e3 * (time.perf_counter() - work.started)
    return answers
