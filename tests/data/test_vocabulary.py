"""The tokenizer: reproducible, covers every byte, numbers and marks are single tokens."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.data.bpe import END, learn_merges
from tinygptv_fast.data.vocabulary import VOCAB_SIZE, build_tokenizer, tokenizer_json
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.processing.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_string(tokenizer_json())


def test_reproducible(tokenizer: Tokenizer) -> None:
    first = tokenizer_json()
    tokenizer_json.cache_clear()
    assert tokenizer_json() == first
    assert tokenizer.size <= VOCAB_SIZE


def test_integers_are_single_tokens(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(str(n)) for n in range(101)]
    assert all(len(one) == 1 for one in ids)
    assert len({one[0] for one in ids}) == 101
    box = tokenizer.encode("{<0><37><99><100>}")
    assert [tokenizer.decode([i]) for i in box] == ["{<", "0", "><", "37", "><", "99", "><", "100", ">}"]


def test_end_and_marks_are_single_tokens(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id(END)
    assert end == 0 and tokenizer.special_ids == {0}
    assert tokenizer.encode(f"red{END}")[-1] == end
    assert tokenizer.decode(tokenizer.encode(f"red{END}")) == "red"
    for mark in (
        "<s>",
        "[INST]",
        " [/INST]",
        " <Img>",
        "</Img>",
        " [vqa]",
        " [refer]",
        "<p>",
        "</p>",
        "<delim>",
        "red",
        " red",
    ):
        assert len(tokenizer.encode(mark)) == 1, mark


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).filter(lambda text: END not in text))
def test_any_text_survives(text: str) -> None:
    tokenizer = Tokenizer.from_string(tokenizer_json())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    text = bytes(range(256)).decode("latin-1")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_take_the_most_frequent_pair_and_break_ties_by_name() -> None:
    assert learn_merges(Counter({"abab": 2, "cd": 3}), 2) == [("a", "b"), ("c", "d")]
    assert learn_merges(Counter({"xy": 1, "ab": 1}), 5) == [("a", "b"), ("x", "y")]
    assert learn_merges(Counter({"12": 9}), 5) == []


def test_too_small_vocabulary() -> None:
    with pytest.raises(InvalidArgumentError, match="vocab_size is 300, expected at least 348"):
        build_tokenizer(300)
