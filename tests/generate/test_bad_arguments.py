"""Every public argument of every way to ask: of a value that makes no sense one sentence says so, and what to do."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, PromptError, TinyGPTVError

NUMBERS_THAT_ARE_NONE: tuple[Any, ...] = ("1", math.nan, math.inf, [1], True)
COUNTS_THAT_ARE_NONE: tuple[Any, ...] = (-1, "2", 2.5, math.nan, [2], True)
# field of Request: values that it never takes, whatever else is asked
WRONG: dict[str, tuple[Any, ...]] = {
    "image": (3, "nowhere.png", b"", b"no picture", {"a": 1}, True, object(), "", "\0", np.zeros((4, 4)),
              np.zeros((0, 4, 3), np.uint8), [3], [[3]]),
    "prompt": (3, b"x", ["a"], "a ### b", "<ImageHere>"),
    "messages": ("x", 3, [], [3], [{"role": "user"}], [{"role": "x", "content": "y"}], {"role": "user"},
                 [{"role": "user", "content": 3}], [{"role": "assistant", "content": "y"}]),
    "task": (3, "", "sing", ["vqa"]),
    "template": (3, "sing", True),
    "color": ("red", 3, None, True),
    "max_new_tokens": (0, 2**40, *COUNTS_THAT_ARE_NONE),
    "min_length": COUNTS_THAT_ARE_NONE,
    "do_sample": ("yes", 1, 0, [True]),
    "temperature": (-1, *NUMBERS_THAT_ARE_NONE),
    "top_k": (0, *COUNTS_THAT_ARE_NONE),
    "top_p": (0, -1, 1.5, *NUMBERS_THAT_ARE_NONE),
    "min_p": (-1, 2, *NUMBERS_THAT_ARE_NONE),
    "repetition_penalty": (0, -1, *NUMBERS_THAT_ARE_NONE),
    "presence_penalty": NUMBERS_THAT_ARE_NONE,
    "frequency_penalty": NUMBERS_THAT_ARE_NONE,
    "logit_bias": ([3], "x", 3, {"a": 1}, {3: "x"}, {3: math.nan}, {-1: 1.0}, {10**9: 1.0}, {True: 1.0}),
    "num_beams": (0, 10**6, *COUNTS_THAT_ARE_NONE),
    "length_penalty": NUMBERS_THAT_ARE_NONE,
    "num_return_sequences": (0, 10**6, *COUNTS_THAT_ARE_NONE),
    "eos_token_id": (-1, "x", 3.5, [3.5], ["a"], True, 10**9, {3: 4}, [[3]]),
    "seed": (2**64, *COUNTS_THAT_ARE_NONE),
    "stop": ("", 3, [3], ["x"] * 17, [""], "x" * 300, b"x", {"a": 1}, True),
    "choices": ("a", [], [3], [""], 3, {"a": 1}, {"a"}, b"x", iter("ab")),
    "box": ("x", 3, [1, 2, 3], [1, 2, 3, "a"], [30, 30, 10, 10], [math.nan, 0, 1, 1], [900, 900, 950, 950]),
    "deadline_ms": (0, -1, *NUMBERS_THAT_ARE_NONE),
    "speculate": ("yes", 1, 0),
    "boxes": ("tight", True, 3),
    "json_schema": (3, "{", "[1]", [1], b"{}", {"x": object()}, {"type": "thing"}),
    "regex": ("", 3, "(", b"a"),
}  # fmt: skip
# Settings that a value needs beside it, so that it is what is wrong.
BESIDE: dict[str, dict[str, Any]] = {
    "top_k": {"temperature": 1.0},
    "top_p": {"temperature": 1.0},
    "min_p": {"temperature": 1.0},
    "box": {"task": "identify"},
}
# What is right alone and not together, and the argument that the error must name.
TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "both prompt and messages are given"),
    ({"box": (0, 0, 5, 5)}, "box is given, expected task='identify'"),
    ({"box": (0, 0, 5, 5), "messages": [{"role": "user", "content": "x"}], "prompt": None}, "both box and messages"),
    ({"prompt": None}, "prompt is None, expected text"),
    ({"task": "vqa", "prompt": "[refer] x"}, "prompt begins with [refer] but task is 'vqa'"),
    ({"task": "vqa", "prompt": " "}, "prompt is blank, expected text"),
    ({"task": "vqa", "template": "raw", "prompt": "<ImageHere> x"}, "task is 'vqa' with template 'raw'"),
    ({"top_p": 0.9}, "top_p is given but decoding is greedy, expected do_sample=True or temperature"),
    ({"top_k": 5, "do_sample": False}, "top_k is given but decoding is greedy"),
    ({"min_p": 0.1, "temperature": 0}, "min_p is given but decoding is greedy"),
    ({"do_sample": True, "temperature": 0}, "temperature is 0 with do_sample=True"),
    ({"num_beams": 2, "do_sample": True}, "num_beams is 2"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3, expected <= num_beams=2"),
    ({"num_return_sequences": 2}, "num_return_sequences is 2, expected 1 for greedy decoding"),
    ({"regex": "a", "json_schema": {}}, "json_schema and regex are given, expected one of them"),
    ({"regex": "a", "boxes": "constrained"}, "boxes='constrained' and regex are given, expected one of them"),
    ({"regex": "a", "num_beams": 2}, "num_beams is 2 with regex, expected 1"),
    ({"choices": ["a", "b"], "temperature": 1.0}, "temperature is given with choices, expected one of the two"),
    ({"choices": ["a", "b"], "regex": "a"}, "regex is given with choices, expected one of the two"),
    ({"boxes": "constrained", "stop": "}"}, "stop has '}', which would cut a box in two"),
]


@pytest.fixture(scope="module")
def model() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def state(model: tgv.TinyGPTV) -> tgv.ImageState:
    return model.encode_image(draw(arrange("red circle left of blue star", 5), 64))


def arguments(state: tgv.ImageState, name: str, value: Any) -> dict[str, Any]:
    """A request that is right but for ``name``."""
    out = {"image": state, "prompt": "hi", "max_new_tokens": 2, **BESIDE.get(name, {})}
    if name == "messages":
        out |= {"image": None, "prompt": None}
    return out | {name: value}


def sentence(call: Callable[[], Any], *words: str) -> str:
    """The error of ``call``: one line of ours that has every word and does not only complain."""
    with pytest.raises(TinyGPTVError) as caught:
        call()
    assert isinstance(caught.value, (InvalidArgumentError, CheckpointError)) or "max_sequences" in str(caught.value)
    text = str(caught.value)
    assert "\n" not in text and 10 < len(text) < 1000, text
    assert all(word in text for word in words), (words, text)
    return text


def whole(pieces: Iterator[tgv.Piece]) -> list[tgv.Piece]:
    return list(pieces)


def test_every_field_of_a_request_is_swept() -> None:
    assert sorted(WRONG) == sorted(field.name for field in dataclasses.fields(tgv.Request))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_named_by_generate_and_stream(model: tgv.TinyGPTV, state: tgv.ImageState, name: str) -> None:
    for value in WRONG[name]:
        given = arguments(state, name, value)
        # of a file that is not there the name of the file says it
        word = value if isinstance(value, str) and value == "nowhere.png" else name
        said = sentence(lambda given=given: model.generate(**given), word)
        assert "expected" in said or word != name or name in ("json_schema", "regex", "image"), said
        if name != "choices" and not (name == "num_beams" and value == 10**6):  # no stream has either
            assert sentence(lambda given=given: whole(model.stream(**given)), word) == said
        else:
            sentence(lambda given=given: whole(model.stream(**given)), "stream takes neither choices nor num_beams")
    assert model.stats()["running"] == model.stats()["waiting"] == 0


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("image", "prompt", "messages", "box")])
def test_a_wrong_value_is_named_by_the_short_forms(model: tgv.TinyGPTV, state: tgv.ImageState, name: str) -> None:
    value = WRONG[name][0]
    given = {**BESIDE.get(name, {}), name: value}
    short: list[Callable[[], Any]] = [
        lambda: model.refer(state, "circle", **given),
        lambda: model.detect(state, "circle", **given),
        lambda: model.caption(state, **given),
        lambda: model.describe(state, **given),
        lambda: model.identify(state, (1, 1, 9, 9), **given),
        lambda: model.generate_batch([{"image": state, "prompt": "x", **given}]),
    ]
    for call in short:
        sentence(call, name)
    if name != "choices" and name not in BESIDE:  # candidates are not sampled
        sentence(lambda: model.rank(state, "x", ["a", "b"], **given), name)
    if name not in ("task", "template", "color"):
        sentence(lambda: model.chat(state, **given).ask("x"), name)
        sentence(lambda: whole(model.chat(state).stream("x", **given)), name)


@pytest.mark.parametrize(("given", "words"), TOGETHER, ids=lambda value: value if isinstance(value, str) else "")
def test_what_does_not_go_together(
    model: tgv.TinyGPTV, state: tgv.ImageState, given: dict[str, Any], words: str
) -> None:
    request = {"image": state, "prompt": "hi", "max_new_tokens": 2, **given}
    sentence(lambda: model.generate(**request), words)
    (error,) = model.generate_batch([request], on_error="return")
    assert isinstance(error, TinyGPTVError) and words in str(error)


METHODS: dict[str, tuple[Any, ...]] = {
    "refer": ("circle",), "ground": ("circle",), "detect": ("circle",), "caption": (), "describe": (),
    "identify": ((1, 1, 9, 9),),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_methods_with_a_question_take_no_other(model: tgv.TinyGPTV, state: tgv.ImageState, method: str) -> None:
    call = getattr(model, method)
    where = "refer" if method == "ground" else method
    for name, value in (("prompt", "x"), ("messages", [{"role": "user", "content": "x"}]), ("task", "vqa")):
        sentence(lambda name=name, value=value: call(state, *METHODS[method], **{name: value}),
                 f"{name} is given to {where}(), which asks its own question, expected generate()")  # fmt: skip
    sentence(lambda: call(state, *METHODS[method], template="raw"), "template is 'raw'", where, "expected another")
    if method in ("refer", "ground", "detect"):
        for name, value in (("choices", ["a", "b"]), ("regex", "a"), ("json_schema", {})):
            sentence(lambda name=name, value=value: call(state, "circle", **{name: value}),
                     f"{name} is given to {where}(), whose answer is boxes, expected generate()")  # fmt: skip
        for phrase in (3, None, "", " ", b"x", ["a"]):
            sentence(lambda phrase=phrase: call(state, phrase), "phrase is", "expected what to find")


@pytest.mark.parametrize("candidates", ["a", [], [3], 3, None, {"a"}, ["a", ""], iter("ab")])
def test_candidates_of_rank(model: tgv.TinyGPTV, state: tgv.ImageState, candidates: Any) -> None:
    sentence(lambda: model.rank(state, "x", candidates), "candidates is", "expected a list of non-empty strings")


def test_rank_has_its_choices(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    sentence(lambda: model.rank(state, "x", ["a"], choices=["b"]), "choices is given to rank()", "candidates")
    sentence(lambda: model.rank(state, 3, ["a", "b"]), "prompt is int, expected a string")


@pytest.mark.parametrize("requests", [3, "x", {"prompt": "x"}, None, iter([])])
def test_batches_that_are_none(model: tgv.TinyGPTV, requests: Any) -> None:
    sentence(lambda: model.generate_batch(requests), "requests is", "expected a list of Requests or dicts")


def test_other_arguments(model: tgv.TinyGPTV, state: tgv.ImageState, tmp_path: Any) -> None:
    sentence(lambda: model.generate_batch([3]), "request is int, expected a Request or a dict")
    sentence(lambda: model.generate_batch([], on_error="ignore"), "on_error is 'ignore', expected 'raise' or 'return'")
    sentence(lambda: model.generate(state, "x", logprobs=5), "logprobs is 5, expected True or False")
    sentence(lambda: model.chat(color="red"), "color is 'red', expected 'rgb' or 'bgr'")
    sentence(lambda: model.chat(template="vicuna", system=3), "system is int, expected a string")
    sentence(lambda: model.encode_image(state, color="red"), "color is 'red', expected 'rgb' or 'bgr'")
    sentence(lambda: model.encode_image(None), "image")
    sentence(lambda: model.logits(None, 3), "prompt is int")  # type: ignore[arg-type]
    for call in (model.load_chat, model.chat().save, state.save, tgv.ImageState.load):
        for path in (3, None, "\0"):
            sentence(lambda call=call, path=path: call(path), f"path is {path!r}, expected the name of a file")
    sentence(lambda: model.save_pretrained(3), "directory is 3, expected the name of a file or folder")  # type: ignore[arg-type]


CALLS: dict[str, Callable[[tgv.TinyGPTV, tgv.ImageState, dict[str, Any]], Any]] = {
    "generate": lambda model, state, given: model.generate(state, "x", **given),
    "stream": lambda model, state, given: whole(model.stream(state, "x", **given)),
    "batch": lambda model, state, given: model.generate_batch([{"image": state, "prompt": "x", **given}]),
    "rank": lambda model, state, given: model.rank(state, "x", ["a", "b"], **given),
    "refer": lambda model, state, given: model.refer(state, "x", **given),
    "detect": lambda model, state, given: model.detect(state, "x", **given),
    "caption": lambda model, state, given: model.caption(state, **given),
    "identify": lambda model, state, given: model.identify(state, (1, 1, 9, 9), **given),
    "chat": lambda model, state, given: model.chat(state, **given),
    "ask": lambda model, state, given: model.chat(state).ask("x", **given),
    "from_pretrained": lambda model, state, given: tgv.TinyGPTV.from_pretrained("demo", **given),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_unknown_names_are_told_the_nearest(model: tgv.TinyGPTV, state: tgv.ImageState, call: str) -> None:
    loading = call == "from_pretrained"
    misspelt = [("thread", "threads"), ("quantisation", "quantization")] if loading else [
        ("max_tokens", "max_new_tokens"), ("temprature", "temperature"), ("deadline", "deadline_ms"), ("topk", "top_k"),
    ]  # fmt: skip
    for name, meant in misspelt:
        said = sentence(lambda name=name: CALLS[call](model, state, {name: 1}),
                        f"() has no argument {name!r}; the nearest is {meant!r}")  # fmt: skip
        assert "(of " in said  # and all that there are


def test_the_sweep_has_every_public_method() -> None:
    asking = {"generate", "agenerate", "stream", "astream", "generate_batch", "rank", "caption", "describe", "refer",
              "ground", "detect", "identify", "chat"}  # fmt: skip
    about = {"encode_image", "aencode_image", "load_chat", "logits", "save_pretrained", "from_pretrained", "close",
             "stats", "default_setting"}  # fmt: skip
    methods = {name for name, _ in inspect.getmembers(tgv.TinyGPTV, callable) if not name.startswith("_")}
    assert methods == asking | about


def test_coroutines_say_the_same(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    import asyncio

    async def read(given: dict[str, Any]) -> None:
        async for _ in model.astream(state, "x", **given):
            raise AssertionError("a piece of a request that is wrong")

    for name in ("temperature", "stop", "seed", "regex"):
        given = {name: WRONG[name][0]}
        said = sentence(lambda given=given: model.generate(state, "x", **given), name)
        assert sentence(lambda given=given: asyncio.run(model.agenerate(state, "x", **given)), name) == said
        assert sentence(lambda given=given: asyncio.run(read(given)), name) == said


def test_a_model_that_was_asked_nonsense_answers(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    with pytest.raises(PromptError):
        model.generate(state, "###")
    assert model.generate(state, "x", max_new_tokens=2).usage.generated > 0
