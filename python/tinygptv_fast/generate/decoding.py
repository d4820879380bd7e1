"""One request from prompt to answer: tasks that turn a backend's events into text, pieces and answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import TinyGPTVError
from ..processing.boxes import Boxes, parse_boxes
from ..processing.templates import Template
from ..processing.tokenizer import StreamDecoder, Tokenizer
from ..protocol import Backend, Event, GenerationOptions, Job, Prompt
from .answer import Answer, Piece, Timings, Usage
from .box_probabilities import with_probabilities
from .confidence import Calibration, evidence
from .control import Control
from .stops import StopWatch
from .strict_json import read_json

POLL_S = 0.1  # the longest wait for events: a signal (Ctrl-C) is seen between two


@dataclass
class Prepared:
    """A request made ready for a backend."""

    prompt: Prompt
    image_tokens: int
    sizes: list[tuple[int, int]]  # (width, height) of each picture
    options: GenerationOptions
    template: Template
    stops: list[str]
    label: str | None
    timings: Timings
    control: Control
    calibration: Calibration | None = None
    cached: int = 0  # positions of the prompt that were not computed, once that is known


@dataclass
class _Row:
    """One sequence while it grows."""

    watch: StopWatch
    decoder: StreamDecoder | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)  # characters that each id added to the text
    text: str = ""
    reason: str | None = None

    def add(self, token: int, logprob: float, eos_ids: tuple[int, ...]) -> str:
        """Take one id; returns the text that may be shown now."""
        assert self.decoder is not None
        self.ids.append(token)
        self.logprobs.append(logprob)
        text = "" if token in eos_ids else self.decoder.put(token)
        self.widths.append(len(text))
        shown = self.watch.put(text)
        self.text += shown
        if token in eos_ids or self.watch.stopped:
            self.reason = "stop"
        return shown

    def finish(self, reason: str) -> str:
        """Flush what is held back; returns it."""
        tail = self.watch.put(self.decoder.end()) if self.decoder is not None else ""
        if not self.watch.stopped:
            tail += self.watch.end()
        self.text += tail
        self.reason = self.reason or ("stop" if self.watch.stopped else reason)
        return tail


class Task(ABC):
    """A request. ``poll`` until there is an ``answer``; ``close`` gives it up."""

    answer: Answer | None = None

    @abstractmethod
    def poll(self, timeout_s: float = POLL_S) -> str:
        """Take what has come, waiting at most so long; returns text of the first sequence that may be shown now.

        Raises TinyGPTVError with the backend's message if the request failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Cancel and wait for the end of what runs; nothing is under way afterwards."""


class BackendTask(Task):
    """A request that a backend works on.

    Subclasses say what an event means (``_take``) and what the answer is (``_finish``).
    """

    def __init__(self, submit: Callable[[], Job], work: Prepared) -> None:
        self._work = work
        self._error = ""
        self._reason = "length"
        self._follow(submit)

    def poll(self, timeout_s: float = POLL_S) -> str:
        shown, report = "", None
        events = self._job.poll(timeout_s)
        # First, because what follows may fail: close() must not wait for an end that has come already.
        self._over = any(event[0] == "done" for event in events)
        for event in events:
            if event[0] == "done":
                report = event[1]
            elif event[0] == "end" and event[2] == "error":
                self._error = event[3]
            else:
                shown += self._take(event)
        if report is None:
            return shown
        if self._error:
            raise TinyGPTVError(f"the request failed: {self._error}")
        return shown + self._finish(report)

    def close(self) -> None:
        if not self._over:
            self._job.cancel()
        while not self._over:
            self._over = any(event[0] == "done" for event in self._job.poll(POLL_S))

    def _follow(self, submit: Callable[[], Job]) -> None:
        self._submitted_ms = self._work.control.elapsed_ms()
        self._job, self._over = submit(), False
        self._work.control.attach(self._job.cancel)

    @abstractmethod
    def _take(self, event: Event) -> str:
        """Take one event; returns text of the first sequence that may be shown now."""

    @abstractmethod
    def _finish(self, report: dict[str, float]) -> str:
        """Make the answer; returns the text that was held back."""

    def _time(self, report: dict[str, float]) -> None:
        timings = self._work.timings
        timings.queue, timings.prefill, timings.decode = report["queue"], report["prefill"], report["decode"]
        timings.first_token = self._submitted_ms + report["first_token"] if report["first_token"] else 0.0
        timings.total = self._work.control.elapsed_ms()
        self._work.cached = int(report.get("cached", 0))


class DecodingTask(BackendTask):
    """Greedy or sampled decoding; sequences after the first become alternatives, the most probable first."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, work: Prepared) -> None:
        self._rows = [_new_row(tokenizer, work) for _ in range(work.options.num_return_sequences)]
        super().__init__(lambda: backend.submit(work.prompt, work.options, work.stops, work.control.remaining()), work)

    def _take(self, event: Event) -> str:
        if event[0] == "end":
            return self._rows[event[1]].finish(event[2]) if event[1] == 0 else self._end(event[1], event[2])
        _, number, token, logprob, _ = event
        row = self._rows[number]
        if row.reason is not None:  # ids after a stop string that the backend had already begun
            return ""
        shown = row.add(token, logprob, self._work.options.eos_ids)
        if row.reason is not None and all(one.reason for one in self._rows):
            self._job.cancel()
        return shown if number == 0 else ""

    def _end(self, number: int, reason: str) -> str:
        self._rows[number].finish(reason)
        return ""

    def _finish(self, report: dict[str, float]) -> str:
        self._time(report)
        first, *others = self._rows
        answers = sorted((_answer(row, self._work) for row in others), key=lambda a: -a.probability)
        self.answer = _answer(first, self._work, answers)
        return ""


class BeamTask(BackendTask):
    """Beam search, then one scoring of what it found, for the log-probabilities of the ids."""

    def __init__(self, backend: Backend, tokenizer: Tokenizer, work: Prepared) -> None:
        self._backend, self._tokenizer = backend, tokenizer
        self._found: list[list[int]] = []
        self._logprobs: dict[int, list[float]] = {}
        self._report: dict[str, float] | None = None
        super().__init__(lambda: backend.submit_beams(work.prompt, work.options, work.control.remaining()), work)

    def _take(self, event: Event) -> str:
        if event[0] == "beam":
            self._found.append(event[2])
        elif event[0] == "scores":
            self._logprobs[event[1]] = event[2]
        elif event[0] == "end" and self._report is None and event[2] != "stop":
            self._reason = event[2]
        return ""

    def _finish(self, report: dict[str, float]) -> str:
        if self._report is None:
            self._time(report)
            self._report = report
            if not self._found:
                self.answer = empty_answer(self._reason, self._work.timings, self._work.control, self._work)
                return ""
            self._work.timings.first_token = self._work.timings.total  # no id is certain before the last step
            self._follow(lambda: self._backend.submit_score(self._work.prompt, self._found, None))
            return ""
        rows = [self._row(ids, self._logprobs.get(index, [])) for index, ids in enumerate(self._found)]
        self._work.timings.total = self._work.control.elapsed_ms()
        self.answer = _answer(rows[0], self._work, [_answer(row, self._work) for row in rows[1:]])
        return ""

    def _row(self, ids: list[int], logprobs: list[float]) -> _Row:
        row = _new_row(self._tokenizer, self._work)
        for token, logprob in zip(ids, logprobs, strict=False):  # cancelled while scoring: what there is
            row.add(token, logprob, self._work.options.eos_ids)
            if row.reason:
                break
        row.finish(self._reason)
        return row


class ChoiceTask(BackendTask):
    """Every candidate (text, ids with end symbol) as an answer, most probable per token first."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer, work: Prepared, candidates: Sequence[tuple[str, list[int]]]
    ) -> None:
        self._candidates, self._tokenizer = candidates, tokenizer
        self._logprobs: dict[int, list[float]] = {}
        ids = [list(one) for _, one in candidates]
        super().__init__(lambda: backend.submit_score(work.prompt, ids, work.control.remaining()), work)

    def _take(self, event: Event) -> str:
        if event[0] == "scores":
            self._logprobs[event[1]] = event[2]
        elif event[0] == "end":
            self._reason = event[2]
        return ""

    def _finish(self, report: dict[str, float]) -> str:
        self._time(report)
        if len(self._logprobs) < len(self._candidates):  # a choice among some of them would be no choice
            self.answer = empty_answer(self._reason, self._work.timings, self._work.control, self._work)
            return ""
        means = [sum(self._logprobs[index]) / len(ids) for index, (_, ids) in enumerate(self._candidates)]
        calibration = self._work.calibration
        sure = None if calibration is None else calibration.choices(means)
        answers = []
        for index, (text, ids) in enumerate(self._candidates):
            decoder = self._tokenizer.stream(skip_special_tokens=True)
            widths = [len(decoder.put(token)) for token in ids]
            row = _Row(StopWatch([]), None, list(ids), self._logprobs[index], widths, text, "stop")
            answer = _answer(row, self._work)
            answers.append(replace(answer, confidence=None if sure is None else sure[index]))
        answers.sort(key=lambda a: -sum(a.logprobs) / len(a.logprobs))
        answers[0].alternatives.extend(answers[1:])
        self.answer = answers[0]
        return ""


class EndedTask(Task):
    """A request that its deadline or a cancel ended before anything was submitted."""

    def __init__(self, reason: str, timings: Timings, control: Control) -> None:
        self.answer = empty_answer(reason, timings, control)

    def poll(self, timeout_s: float = POLL_S) -> str:
        del timeout_s
        return ""

    def close(self) -> None:
        pass


def start(backend: Backend, tokenizer: Tokenizer, work: Prepared) -> Task:
    """Submit ``work``."""
    kind = BeamTask if work.options.num_beams > 1 else DecodingTask
    return kind(backend, tokenizer, work)


def run(task: Task) -> Answer:
    """Wait for the answer. Whatever interrupts the wait, Ctrl-C too, cancels the request."""
    try:
        while task.answer is None:
            task.poll()
    finally:
        if task.answer is None:
            task.close()
    return task.answer


def pieces(begin: Callable[[], Task]) -> Generator[Piece, None, None]:
    """Text of the first sequence as it comes; the last piece carries the answer. Closing the iterator cancels.

    ``begin`` is called with the first piece asked for, so that an iterator nobody uses leaves nothing running.
    """
    task, shown = begin(), ""
    try:
        while task.answer is None:
            shown = task.poll()
            if shown and task.answer is None:
                yield Piece(shown)
        yield Piece(shown, task.answer)
    finally:
        if task.answer is None:
            task.close()


def empty_answer(reason: str, timings: Timings, control: Control, work: Prepared | None = None) -> Answer:
    """The answer of a request that ended before it produced anything."""
    timings.total = control.elapsed_ms()
    usage = Usage(0, 0, 0) if work is None else Usage(len(work.prompt), work.image_tokens, 0, work.cached)
    return Answer("", [], [], Boxes(), 1.0, reason, usage, timings)


def _new_row(tokenizer: Tokenizer, work: Prepared) -> _Row:
    return _Row(StopWatch(work.stops), tokenizer.stream(skip_special_tokens=True))


def _answer(row: _Row, work: Prepared, alternatives: list[Answer] | None = None) -> Answer:
    grammar = work.options.grammar
    exact = work.template.verbatim or (grammar is not None and grammar.kind != "boxes")
    text = row.text if exact else row.text.strip()
    boxes = Boxes()
    if work.sizes:
        width, height = work.sizes[0]
        boxes = parse_boxes(text, width, height, label=work.label)
        indent = len(row.text) - len(row.text.lstrip()) if text != row.text else 0
        boxes = with_probabilities(boxes, text, indent, row.widths, row.logprobs)
    return Answer(
        text=text,
        token_ids=row.ids,
        logprobs=row.logprobs,
        boxes=boxes,
        probability=math.exp(sum(row.logprobs)),
        finish_reason=row.reason or "length",
        usage=Usage(len(work.prompt), work.image_tokens, len(row.ids), work.cached),
        timings=work.timings,
        confidence=_confidence(row, work),
        alternatives=alternatives or [],
        json=_parsed(text, row.reason) if grammar is not None and grammar.kind == "json_schema" else None,
    )


def _confidence(row: _Row, work: Prepared) -> float | None:
    """Of an answer that the model ended itself; one cut short is not the answer that was calibrated."""
    if work.calibration is None or row.reason != "stop" or row.decoder is None:
        return None
    return work.calibration.answers(evidence(row.text, row.widths, row.logprobs))


def _parsed(text: str, reason: str | None) -> Any:
    """The json of a whole answer, None for one that was cut off. Raises as ``read_json``."""
    if reason != "stop":
        return None
    try:
        return read_json(text)
    except ValueError:  # the caller's own stop string cut it
        return None
