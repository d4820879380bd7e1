"""``Answer.json`` can be written as json again: what Python would read as infinity, or as no text, is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast.errors import InvalidArgumentError, TinyGPTVError
from tinygptv_fast.generate.strict_json import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_what_json_writes_is_read(value: Any) -> None:
    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1e999", "the number 1e999, which is beyond float64; expected a schema with minimum and maximum"),
        ('{"a": [1, -2.5e400]}', "the number -2.5e400"),
        ("9" * 5000, "the number 9999999999999999999999999999999999999999..., which is beyond"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'{"\udc00x": 1}', "half a surrogate pair"),
    ],
)
def test_what_python_cannot_hold_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(TinyGPTVError, match=re.escape(words)) as caught:
        read_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


@pytest.mark.parametrize("text", ["NaN", "Infinity", "[-Infinity]", "", "{", "[1,]", "1 2"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_json(text)
    assert not isinstance(caught.value, TinyGPTVError)


def test_the_edges_of_float64_are_inside() -> None:
    assert read_json("[1.7976931348623157e308, 5e-324, 1e-999, -0.0]") == [1.7976931348623157e308, 5e-324, 0.0, 0.0]
    assert read_json(str(10**400)) == 10**400  # an integer keeps its digits
    assert read_json(r'"\ud83d\ude00"') == "\U0001f600"


@pytest.fixture(scope="module")
def model() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as opened:
        yield opened


def test_numbers_that_a_model_writes(model: tgv.TinyGPTV) -> None:
    """Digits, e and the end alike likely, whatever the model thinks: some numbers are beyond float64."""
    ids = {piece: index for index, piece in enumerate(model.tokenizer.token_bytes(model.config.text.vocab_size))}
    bias = {ids[letter.encode()]: 900.0 for letter in "0123456789e"}
    bias[model.config.eos_token_id] = 900.0
    request = {"prompt": "How many?", "json_schema": {"type": "number"}, "temperature": 50.0, "logit_bias": bias}
    answers = model.generate_batch(
        [{**request, "seed": seed, "max_new_tokens": 40} for seed in range(60)], on_error="return"
    )
    errors = [one for one in answers if isinstance(one, Exception)]
    assert errors and all("beyond float64" in str(error) for error in errors)
    numbers = [one.json for one in answers if isinstance(one, tgv.Answer) and one.json is not None]
    assert len(numbers) > 10 and all(math.isfinite(number) for number in numbers)
    json.dumps([one.to_dict() for one in answers if isinstance(one, tgv.Answer)], allow_nan=False)
    assert model.stats()["running"] == model.stats()["waiting"] == 0


def test_such_an_error_ends_a_stream(model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond(text: str) -> Any:
        return read_json("1e999")

    monkeypatch.setattr("tinygptv_fast.generate.decoding.read_json", beyond)
    with pytest.raises(TinyGPTVError, match="beyond float64"):
        list(model.stream(None, "How many?", json_schema={"enum": [1, 2]}))
    assert model.stats()["running"] == 0


@pytest.mark.parametrize("schema", ['{"const": 1e999}', {"maximum": math.inf}, {"minimum": math.nan}])
def test_a_schema_with_such_a_number_is_refused(model: tgv.TinyGPTV, schema: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="json_schema cannot be written as json"):
        model.generate(None, "How many?", json_schema=schema)
