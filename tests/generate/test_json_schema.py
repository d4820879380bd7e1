"""Answers held to a JSON schema or a regular expression: whatever the model would rather say, they match."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.engine import grammars
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "count": {"type": "integer", "maximum": 99},
                   "words": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 2}},
    "required": ["colour", "count", "words"],
    "additionalProperties": False,
}  # fmt: skip
QUESTION = "What is in this picture?"
HOT = 2.0


@pytest.fixture(scope="module")
def model() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo") as model:
        yield model


def check(value: Any) -> None:
    """Raises AssertionError unless ``value`` fits SCHEMA."""
    assert list(value) == ["colour", "count", "words"]
    assert value["colour"] in ("red", "green", "blue") and isinstance(value["count"], int) and value["count"] <= 99
    assert len(value["words"]) <= 2 and all(len(word) <= 6 for word in value["words"])


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)], ids=["dict", "text"])
def test_a_greedy_answer_fits_the_schema(model: tgv.TinyGPTV, schema: Any) -> None:
    answer = model.generate(None, QUESTION, json_schema=schema)
    check(answer.json)
    assert answer.finish_reason == "stop" and answer.text == json.dumps(answer.json)
    assert answer.to_dict()["json"] == answer.json


def test_hot_answers_fit_the_schema(model: tgv.TinyGPTV) -> None:
    requests = [{"prompt": QUESTION, "json_schema": SCHEMA, "temperature": HOT, "seed": seed} for seed in range(40)]
    answers = [one for one in model.generate_batch(requests) if isinstance(one, tgv.Answer)]
    whole = [answer for answer in answers if answer.finish_reason == "stop"]
    for answer in whole:
        check(answer.json)
    assert len(answers) == 40 and len(whole) > 30, [answer.text for answer in answers]
    assert len({answer.text for answer in whole}) > 20


def test_every_sample_fits_the_schema(model: tgv.TinyGPTV) -> None:
    answer = model.generate(None, QUESTION, json_schema=SCHEMA, temperature=HOT, num_return_sequences=5, seed=1)
    for one in (answer, *answer.alternatives):
        check(one.json)


def test_an_answer_that_is_cut_off_has_no_json(model: tgv.TinyGPTV) -> None:
    answer = model.generate(None, QUESTION, json_schema=SCHEMA, max_new_tokens=4)
    assert answer.finish_reason == "length" and answer.json is None and answer.text.startswith('{"')


def test_other_answers_have_no_json(model: tgv.TinyGPTV) -> None:
    assert model.generate(None, QUESTION, max_new_tokens=3).json is None
    assert model.generate(None, QUESTION, regex="[0-9]").json is None


@pytest.mark.parametrize(
    "regex", [r"[0-9]{3}", r"(yes|no)", r"[a-z]+( and [a-z]+)?", r"x*", r"(red|blue)\. [A-Z]{2}#{0,2}!", "\\s+é?"]
)
def test_answers_match_the_regular_expression(model: tgv.TinyGPTV, regex: str) -> None:
    for seed in range(8):
        answer = model.generate(None, QUESTION, regex=regex, temperature=HOT, seed=seed, max_new_tokens=60)
        assert answer.finish_reason == "length" or re.fullmatch(regex, answer.text), (regex, answer.text)
    greedy = model.generate(None, QUESTION, regex=regex, max_new_tokens=60)
    assert greedy.finish_reason == "length" or re.fullmatch(regex, greedy.text)


def test_a_match_that_cannot_go_on_ends_the_answer(model: tgv.TinyGPTV) -> None:
    answer = model.generate(None, QUESTION, regex="[0-9]{3}")
    assert answer.finish_reason == "stop" and re.fullmatch("[0-9]{3}", answer.text)
    assert model.tokenizer.decode(answer.token_ids) == answer.text, "no end token is needed"


def test_a_stop_string_ends_only_where_the_answer_may_end(model: tgv.TinyGPTV) -> None:
    """The regular expression allows the stop string within, and only at the end may it stop the answer."""
    for seed in range(12):
        answer = model.generate(None, QUESTION, regex="[ab#]{6}", stop=["#a"], temperature=HOT, seed=seed)
        assert re.fullmatch("[ab#]{6}", answer.text) and "#a" not in answer.text


def test_a_stream_is_the_same_answer(model: tgv.TinyGPTV) -> None:
    pieces = list(model.stream(None, QUESTION, json_schema=SCHEMA))
    whole = model.generate(None, QUESTION, json_schema=SCHEMA)
    assert "".join(piece.text for piece in pieces) == whole.text and pieces[-1].answer is not None
    assert pieces[-1].answer.json == whole.json


def test_guessing_from_the_prompt_changes_nothing(model: tgv.TinyGPTV) -> None:
    question = 'Write {"colour": "red", "count": 12, "words": ["red", "###"]} {"colour": "green", "count": 3}'
    for schema in (SCHEMA, {"type": "array", "items": SCHEMA, "minItems": 3, "maxItems": 3}):
        template = {"template": "raw", "max_new_tokens": 150}
        plain = model.generate(None, question, json_schema=schema, **template)
        fast = model.generate(None, question, json_schema=schema, speculate=True, **template)
        assert (fast.token_ids, fast.logprobs, fast.text) == (plain.token_ids, plain.logprobs, plain.text)


def test_requests_with_and_without_a_schema_run_together(model: tgv.TinyGPTV) -> None:
    alone = [model.generate(None, QUESTION), model.generate(None, QUESTION, json_schema=SCHEMA)]
    both = model.generate_batch([{"prompt": QUESTION}, {"prompt": QUESTION, "json_schema": SCHEMA}])
    assert [one.token_ids for one in both if isinstance(one, tgv.Answer)] == [one.token_ids for one in alone]


def test_the_schemas_own_spacing_is_kept(model: tgv.TinyGPTV) -> None:
    tight = {"item_separator": ",", "key_separator": ":", "whitespace_flexible": False}
    answer = model.generate(None, QUESTION, json_schema={**SCHEMA, "x-guidance": tight})
    assert answer.text == json.dumps(answer.json, separators=(",", ":"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"json_schema": "{"}, "json_schema is not json"),
        ({"json_schema": "[1]"}, "json_schema is list, expected a JSON schema"),
        ({"json_schema": 3}, "json_schema is int, expected a JSON schema"),
        ({"json_schema": {"x": object()}}, "json_schema cannot be written as json"),
        ({"json_schema": {"type": "thing"}}, "json_schema cannot be used: "),
        ({"json_schema": {"pattern": "("}}, "json_schema cannot be used: "),
        ({"regex": ""}, "regex is '', expected a regular expression"),
        ({"regex": 3}, "regex is 3, expected a regular expression"),
        ({"regex": "("}, "regex cannot be used: "),
        ({"regex": "a", "json_schema": {}}, "json_schema and regex are given, expected one of them"),
        ({"json_schema": {}, "choices": ["a"]}, "json_schema is given with choices, expected one of the two"),
        ({"regex": "a", "choices": ["a"]}, "regex is given with choices, expected one of the two"),
        ({"json_schema": {}, "num_beams": 2}, "num_beams is 2 with json_schema, expected 1"),
        ({"regex": "a", "num_beams": 2}, "num_beams is 2 with regex, expected 1"),
    ],
)
def test_what_cannot_be_asked_raises(model: tgv.TinyGPTV, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        model.generate(None, QUESTION, **settings)


def test_the_reference_says_that_it_cannot() -> None:
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as slow:
        with pytest.raises(UnsupportedError, match="regex is not available with backend 'reference', expected"):
            slow.generate(None, QUESTION, regex="a")


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name="llguidance")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UnsupportedError) as caught:
        grammars.find_library("json_schema")
    assert str(caught.value) == "json_schema needs the package llguidance: pip install 'tinygptv_fast[grammar]'"


def test_a_broken_library_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libc is too old")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(UnsupportedError, match=r"needs the package llguidance: .* \(libc is too old\)"):
        grammars.find_library("regex")


def test_a_library_of_another_kind_is_refused() -> None:
    from tinygptv_fast import _native

    with pytest.raises(UnsupportedError, match="lacks llg_get_version, expected llguidance 1"):
        _native.Guidance(_native.__file__, [b"a"])
    with pytest.raises(UnsupportedError, match="llguidance cannot be loaded"):
        _native.Guidance("/nowhere/lib.so", [b"a"])
