"""From a request to one under way: prepared, then submitted, unless its deadline or a cancel has ended it already."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..errors import InvalidArgumentError
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend
from .answer import Piece, Timings
from .constraints import check_choices
from .control import Control, Interrupted
from .decoding import ChoiceTask, EndedTask, Task, pieces, start
from .preparing import Preparer
from .request import Request


class Starter:
    """Begins requests of one model."""

    def __init__(self, preparer: Preparer, tokenizer: Tokenizer) -> None:
        self._preparer = preparer
        self._tokenizer = tokenizer

    def task(self, backend: Backend, request: Request, control: Control, label: str | None = None) -> Task:
        """The request under way; one that its deadline or a cancel has ended already comes back ended.

        label: what its boxes are called. Raises all that ``Preparer.prepare`` does but Interrupted.
        """
        timings = Timings()
        candidates = None if request.choices is None else check_candidates("choices", request.choices)
        if candidates is not None:
            check_choices(request)
        try:
            work = self._preparer.prepare(backend, request, control, timings, label)
        except Interrupted as interrupted:
            return EndedTask(interrupted.reason, timings, control)
        if candidates is None:
            return start(backend, self._tokenizer, work)
        end = work.template.stop[0] if work.template.stop else ""
        ids = [(text, self._tokenizer.encode(text + end)) for text in candidates]
        return ChoiceTask(backend, self._tokenizer, work, ids)

    def pieces(self, backend: Backend, request: Request, control: Control) -> Generator[Piece, None, None]:
        """Prepares at once, so that bad input raises here; submits with the first piece asked for."""
        timings = Timings()
        try:
            work = self._preparer.prepare(backend, request, control, timings)
        except Interrupted as interrupted:
            ended = EndedTask(interrupted.reason, timings, control)
            return pieces(lambda: ended)
        return pieces(lambda: start(backend, self._tokenizer, work))


def check_candidates(name: str, given: Any) -> list[str]:
    """``given`` as a list. Raises InvalidArgumentError, calling it ``name``, unless it is one of non-empty strings."""
    if not isinstance(given, (list, tuple)) or not given or not all(isinstance(text, str) and text for text in given):
        raise InvalidArgumentError(f"{name} is {str(given)[:60]!r}, expected a list of non-empty strings")
    return list(given)


def check_streamable(request: Request) -> Request:
    """``request``, unless its answer has no pieces. Raises InvalidArgumentError."""
    beams = request.num_beams
    if request.choices is not None or (isinstance(beams, int) and beams > 1):  # what else is wrong is said later
        raise InvalidArgumentError("stream takes neither choices nor num_beams, expected greedy or sampling")
    return request
