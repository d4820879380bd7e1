"""A small soak of the engine, and that a soak notices what it is for."""

from __future__ import annotations

from typing import Any

import pytest

from tinygptv_fast.bench.options import Options
from tinygptv_fast.bench.soak import Expected, Result, Soak
from tinygptv_fast.bench.subject import open_subject
from tinygptv_fast.errors import InvalidArgumentError, TinyGPTVError


def test_three_hundred_requests_leave_nothing_behind() -> None:
    subject = open_subject(Options(shape="tiny", threads=2))
    result = Soak.over(subject, 300, seed=1, threads=2).run()
    assert result.problems == []
    assert result.requests == 300
    assert set(result.kinds) == {"generate", "beams", "score", "logits"}
    assert {"length", "stop", "cancelled"} <= set(result.reasons)
    assert result.pages["sequences"] == result.pages["referenced"] == 0


class Script:
    """An engine that answers with prepared events, and says what is left in its cache."""

    def __init__(self, events: list[tuple[Any, ...]], counts: dict[str, int], forget: bool = True) -> None:
        self._events, self._counts, self._forget = events, counts, forget

    def submit(self, *args: Any, **settings: Any) -> int:
        return 7

    submit_beams = submit_score = submit_logits = submit

    def next(self, request: int, timeout_s: float) -> list[tuple[Any, ...]]:
        if not self._events and self._forget:
            raise InvalidArgumentError("unknown request")
        events, self._events = self._events, []
        return events

    def cancel(self, request: int) -> None:
        raise AssertionError("nothing is cancelled here")

    def counts(self) -> dict[str, int]:
        return self._counts

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


CLEAN = {"pages": 4, "free": 3, "kept": 1, "referenced": 0, "promised": 0, "sequences": 0}
DONE = ("done", {})
END = ("end", 0, "length", "")


@pytest.mark.parametrize(
    ("events", "counts", "forget", "problem"),
    [
        ([DONE], CLEAN, True, "ended {} times"),
        ([END, END, DONE], CLEAN, True, "ended {0: 2} times"),
        ([END, ("token", 0, 3, -1.0, []), DONE], CLEAN, True, "after its end"),
        ([END, DONE, END], CLEAN, True, "after 'done'"),
        ([("end", 0, "error", "NaN"), DONE], CLEAN, True, "ended as error: NaN"),
        ([("end", 0, "cancelled", ""), DONE], CLEAN, True, "ended as cancelled"),
        ([END, DONE], CLEAN, False, "still known"),
        ([END, DONE], {**CLEAN, "referenced": 2}, True, "referenced=2"),
        ([END, DONE], {**CLEAN, "free": 2}, True, "pages are lost"),
    ],
)
def test_a_fault_is_seen(
    events: list[tuple[Any, ...]], counts: dict[str, int], forget: bool, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = Soak(Script(list(events), counts, forget), 50, 8, 1)  # type: ignore[arg-type]
    monkeypatch.setattr(soak, "_maybe_cancel", lambda: None)
    monkeypatch.setattr(soak, "_submit", lambda: soak._under_way.update({7: Expected(7, "generate", 1, False)}) or 1)
    result = soak.run()
    assert any(problem in text for text in result.problems), result.problems
    with pytest.raises(TinyGPTVError, match="soak: "):
        result.raise_if_failed()


def test_growing_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygptv_fast.bench import soak as module

    sizes = iter([100_000_000, 110_000_000, 121_000_001] + [110_000_000] * 20)
    monkeypatch.setattr(module, "resident_bytes", lambda: next(sizes))
    soak = Soak(Script([], CLEAN), 50, 8, 10)  # type: ignore[arg-type]
    for done in range(1, 11):
        soak.result.requests = done
        soak._watch_memory(lambda done, text: None)
    assert soak.result.growth == 21_000_001
    assert "grew by 21.0 MB" in soak.result.problems[0]


def test_a_clean_result_raises_nothing() -> None:
    Result().raise_if_failed()
