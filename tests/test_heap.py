"""Freed memory goes back to the system every so often, not at every tensor."""

from __future__ import annotations

import pytest

from tinygptv_fast import heap


def test_the_heap_is_trimmed_once_per_period(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(heap, "_trim", calls.append)
    trimmer = heap.HeapTrimmer(period=100)
    for _ in range(10):
        trimmer.used(30)
    assert len(calls) == 2


def test_a_system_without_trimming_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim", None)
    heap.HeapTrimmer(period=1).used(10)
    assert heap._find_trim() is None or callable(heap._find_trim())
