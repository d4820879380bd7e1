"""Stop strings in a stream: what is let out is exactly the text before the first stop, however it is cut up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinygptv_fast.generate.stops import StopWatch

ALPHABET = st.text("a#b\n", max_size=12)


def expected(text: str, stops: list[str]) -> str:
    cuts = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(cuts)] if cuts else text


@given(st.lists(ALPHABET, max_size=8), st.lists(st.text("a#b", min_size=1, max_size=3), max_size=3))
def test_any_cutting_gives_the_text_before_the_first_stop(pieces: list[str], stops: list[str]) -> None:
    watch = StopWatch(stops)
    shown = fed = ""
    for piece in pieces:
        shown += watch.put(piece)
        fed += piece
        if watch.stopped:
            break  # generation ends here: later text is never fed
    if not watch.stopped:
        shown += watch.end()
    assert shown == expected(fed, stops)
    assert watch.stopped == any(stop in fed for stop in stops)


def test_text_that_may_become_a_stop_is_held_back() -> None:
    watch = StopWatch(["###"])
    assert watch.put("a #") == "a "
    assert watch.put("#b") == "##b"
    assert watch.put("##") == ""
    assert watch.put("#tail") == ""
    assert watch.stopped


def test_nothing_is_lost_without_a_stop() -> None:
    watch = StopWatch(["###"])
    assert watch.put("x##") == "x"
    assert watch.end() == "##"
