"""The native grammar of boxes against its twin: the same ids everywhere, and every way through it ends in a box."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import tinygptv_fast as tgv
from golden_support import GOLDEN
from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, TinyGPTVError
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.box_grammar import BoxGrammar

BOX = re.compile(rb"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")
ODD = b"5>< <10 ><9 >}{< >}then{ }{ {} {a< 00 007 9>}".split()  # beside single bytes


def demo() -> list[bytes]:
    """Numbers are one token."""
    return Tokenizer.from_directory(Path(tgv.__file__).parent / "assets" / "demo").token_bytes(1024)


def golden() -> list[bytes]:
    """Numbers are one token or several."""
    return Tokenizer.from_directory(GOLDEN / "phi").token_bytes(512)


def digits() -> list[bytes]:
    """Only single bytes, some twice, an id without text."""
    return [bytes([byte]) for byte in range(256)] + [b"1", b"", b"{"]


def odd() -> list[bytes]:
    """Ids that hold pieces of several numbers, the end of a box with text behind it, and what fits nowhere."""
    return digits() + ODD


VOCABULARIES = {make.__name__: make for make in (demo, golden, digits, odd)}


@pytest.fixture(params=VOCABULARIES)
def token_bytes(request: pytest.FixtureRequest) -> list[bytes]:
    return VOCABULARIES[request.param]()


def steer(generator: random.Random, ids: list[int], token_bytes: list[bytes]) -> int:
    """One of ``ids``, mostly one that opens a box where one does, so that walks come to boxes."""
    openers = [index for index in ids if b"{" in token_bytes[index]]
    return generator.choice(openers if openers and generator.random() < 0.7 else ids)


def test_walks_allow_what_the_twin_allows(token_bytes: list[bytes]) -> None:
    grammar, twin, generator = _native.box_grammar(token_bytes), BoxGrammar(token_bytes), random.Random(1)
    inside = 0
    for length in (*range(1, 20), 30, 40):
        row, ids = _native.GrammarRow(grammar), []
        for left in range(length, 0, -1):
            may_end = row.fill(left)
            assert row.ids() == twin.allowed(ids, left), (ids, left)
            assert row.ids(), (ids, left)
            inside += not may_end
            ids.append(steer(generator, row.ids(), token_bytes))
            row.accept(ids[-1])
        assert row.fill(1), "the last id leaves no box open"
    assert inside > 50


def test_every_box_of_a_walk_is_one(token_bytes: list[bytes]) -> None:
    grammar, generator = _native.box_grammar(token_bytes), random.Random(2)
    found = 0
    for length in (5, 9, 10, 13, 14, 40, 80):
        for _ in range(20):
            row, text = _native.GrammarRow(grammar), b""
            for left in range(length, 0, -1):
                row.fill(left)
                chosen = steer(generator, row.ids(), token_bytes)
                row.accept(chosen)
                text += token_bytes[chosen]
            boxes = [[int(number) for number in match.groups()] for match in BOX.finditer(text)]
            assert text.count(b"{") == len(boxes), text
            assert all(x1 < x2 <= 100 and y1 < y2 <= 100 for x1, y1, x2, y2 in boxes), text
            found += len(boxes)
    assert found > 20


def written(text: bytes, left: int) -> bool:
    """Whether single bytes may write ``text``, the last of them with ``left`` ids to come, itself included."""
    row = _native.GrammarRow(_native.box_grammar(digits()))
    for index, byte in enumerate(text):
        row.fill(left if index == len(text) - 1 else 1000)
        if byte not in row.ids():
            return False
        row.accept(byte)
    return True


@pytest.mark.parametrize(
    "text", [b"a cup {<0><0><1><1>} b", b"{<99><99><100><100>}", b"x } y > 1", b"{<1><2><10><100>}"]
)
def test_what_may_be_written(text: bytes) -> None:
    assert written(text, 1)


@pytest.mark.parametrize(
    "text",
    [b"{a", b"{ ", b"{{", b"{<>", b"{<01", b"{<100", b"{<101", b"{<1,", b"{<1>}", b"{<1><2><1>", b"{<50><2><4>",
     b"{<99><2><9>", b"{<1><2><3><2>", b"{<1><2><3><4><", b"{<1><2><3><4>{"],
)  # fmt: skip
def test_what_may_not(text: bytes) -> None:
    assert not written(text, 100)


def test_a_box_is_begun_only_if_it_can_be_completed() -> None:
    shortest = len(b"<0><0><1><1>}")
    assert written(b"{", 1 + shortest) is False  # x1 may yet become 99, and x2 with it three digits
    assert written(b"{", 1 + len(b"<0><0><100><100>}"))
    assert written(b"{<0><0><", 1 + len(b"1><1>}")) and not written(b"{<0><0><", len(b"1><1>}"))
    assert written(b"{<98><0><", 1 + len(b"99><1>}")) and not written(b"{<98><0><", len(b"99><1>}"))
    assert written(b"{<0><0><1><1", 1 + len(b">}")) and not written(b"{<0><0><1><1", len(b">}"))


def test_ids_are_taken_back() -> None:
    row = _native.GrammarRow(_native.box_grammar(digits()))
    row.accept(ord("{"))
    row.fill(50)
    before = row.ids()
    for byte in b"<12><3>":
        row.accept(byte)
    row.take_back(7)
    row.fill(50)
    assert row.ids() == before == [ord("<")]


def test_an_id_that_was_not_allowed_raises() -> None:
    row = _native.GrammarRow(_native.box_grammar(digits()))
    row.accept(ord("{"))
    with pytest.raises(TinyGPTVError, match="does not fit the box"):
        row.accept(ord("a"))
    with pytest.raises(InvalidArgumentError, match="id is -1, expected 0"):
        row.accept(-1)


@pytest.mark.parametrize("missing", [b"{", b"}", b"<", b">", b"0"])
def test_a_vocabulary_that_cannot_write_boxes_raises(missing: bytes) -> None:
    texts = [piece for piece in digits() if missing not in piece]
    with pytest.raises(InvalidArgumentError, match="that boxes are written with"):
        _native.box_grammar(texts)
