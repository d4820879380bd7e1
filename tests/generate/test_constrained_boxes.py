"""Answers of the demo model with boxes that parse by construction: greedy ones stay as they are, hot ones parse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.showcase import SHOWCASE_SIDE, showcase
from tinygptv_fast.errors import InvalidArgumentError

HOT = 1.5
REFER = "[refer] give me the location of the {}"


@pytest.fixture(scope="module")
def model() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo") as model:
        yield model


@pytest.fixture(scope="module")
def states(model: tgv.TinyGPTV) -> list[tgv.ImageState]:
    return [model.encode_image(draw(showcase(seed).scene, SHOWCASE_SIDE)) for seed in range(6)]


def is_in_order(answer: tgv.Answer) -> bool:
    """Every '{' of the answer is a box inside the picture with a width and a height."""
    inside = all(0 <= min(box.xyxyn) and max(box.xyxyn) <= 1 and box.x1 < box.x2 and box.y1 < box.y2
                 for box in answer.boxes)  # fmt: skip
    return inside and not answer.boxes.dropped and answer.text.count("{") == len(answer.boxes)


def test_hot_descriptions_parse_where_free_ones_do_not(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    requests = [
        {"image": states[seed % 6], "task": "grounding", "temperature": HOT, "seed": seed} for seed in range(60)
    ]
    answers = [one for one in model.generate_batch(requests) if isinstance(one, tgv.Answer)]
    assert len(answers) == 60 and all(map(is_in_order, answers))
    assert sum(len(answer.boxes) for answer in answers) > 60
    free = model.generate_batch([{**request, "boxes": "free"} for request in requests])
    assert not all(is_in_order(one) for one in free if isinstance(one, tgv.Answer))


def test_greedy_answers_in_order_stay_as_they_are(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    compared = 0
    for seed, state in enumerate(states):
        names = [thing.name for thing in showcase(seed).scene.things]
        asked: list[dict[str, Any]] = [{"prompt": REFER.format(name)} for name in names]
        for request in [*asked, {"task": "grounding"}, {"prompt": names[0], "task": "detection"}]:
            free = model.generate(state, boxes="free", **request)
            held = model.generate(state, **request)
            assert is_in_order(held)
            if is_in_order(free):
                compared += 1
                assert (free.token_ids, free.logprobs) == (held.token_ids, held.logprobs)
    assert compared > 25


def test_a_refusal_needs_no_box(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    answer = model.generate(states[0], REFER.format("giraffe"))
    assert answer.finish_reason == "stop" and not answer.boxes and "{" not in answer.text


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 20, 30])
def test_no_answer_is_cut_inside_a_box(model: tgv.TinyGPTV, states: list[tgv.ImageState], most: int) -> None:
    for seed in range(6):
        for task, prompt in (("refer", "the red thing"), ("grounding", None)):
            settings = {"task": task, "max_new_tokens": most, "temperature": HOT, "seed": seed}
            assert is_in_order(model.generate(states[seed], prompt, **settings))
    assert is_in_order(model.generate(states[0], task="grounding", max_new_tokens=most))


def test_several_samples_each_parse(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    answer = model.generate(states[1], task="grounding", temperature=HOT, num_return_sequences=6, seed=3)
    texts = [answer.text, *(other.text for other in answer.alternatives)]
    assert len(set(texts)) == 6 and all(map(is_in_order, [answer, *answer.alternatives]))


def test_beams_parse(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    for most in (9, 10, 24, 60):
        answer = model.generate(states[2], task="grounding", num_beams=4, num_return_sequences=4, max_new_tokens=most)
        assert all(map(is_in_order, [answer, *answer.alternatives]))


def test_guessing_from_the_prompt_changes_nothing(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    """The prompt has a piece that looks like a box and is none, for the guesses to be tempted by."""
    question = "[grounding] describe <p>red</p>{<9><9><3><3>} {<1><2>} {<10><20><30><40>}"
    for state in states:
        for most in (10, 25, 60):
            settings = {"max_new_tokens": most, "repetition_penalty": 0.8}
            plain = model.generate(state, question, **settings)
            fast = model.generate(state, question, speculate=True, **settings)
            assert (fast.token_ids, fast.logprobs) == (plain.token_ids, plain.logprobs) and is_in_order(fast)


def test_a_stream_is_the_same_answer(model: tgv.TinyGPTV, states: list[tgv.ImageState]) -> None:
    settings = {"task": "grounding", "temperature": HOT, "seed": 5}
    pieces = list(model.stream(states[3], **settings))
    whole = model.generate(states[3], **settings)
    assert pieces[-1].answer is not None and pieces[-1].answer.token_ids == whole.token_ids


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"task": "refer", "prompt": "x"}, "boxes"),
        ({"task": "detection", "prompt": "x"}, "boxes"),
        ({"task": "grounding"}, "boxes"),
        ({"prompt": "[detection] x"}, "boxes"),
        ({"messages": [{"role": "user", "content": "[refer] x"}]}, "boxes"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "[refer] x"}]}]}, "boxes"),
        ({"task": "vqa", "prompt": "x"}, None),
        ({"task": "identify", "prompt": "x"}, None),
        ({"prompt": "where is it?"}, None),
        ({"prompt": "where is it?", "boxes": "constrained"}, "boxes"),
        ({"task": "refer", "prompt": "x", "boxes": "free"}, None),
        ({"prompt": "[refer] x", "template": "raw"}, None),
        ({"prompt": "[refer] x", "template": "raw", "boxes": "constrained"}, "boxes"),
        ({"messages": [{"role": "user", "content": "[refer] x"}, {"role": "assistant", "content": "y"},
                       {"role": "user", "content": "why?"}]}, None),
    ],
)  # fmt: skip
def test_where_boxes_are_constrained(model: tgv.TinyGPTV, request_: dict[str, Any], kind: str | None) -> None:
    from tinygptv_fast.generate.answer import Timings
    from tinygptv_fast.generate.control import Control
    from tinygptv_fast.generate.request import Request

    backend = model._running()
    work = model._preparer.prepare(backend, Request.of(request_), Control(), Timings())
    assert (work.options.grammar and work.options.grammar.kind) == kind


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"boxes": "tight"}, "boxes is 'tight', expected 'constrained' or 'free'"),
        ({"boxes": True}, "boxes is True, expected 'constrained' or 'free'"),
        ({"boxes": "constrained", "json_schema": {}}, "boxes='constrained' and json_schema are given, expected one"),
        ({"boxes": "constrained", "stop": ["}"]}, "stop has '}', which would cut a box in two"),
        ({"boxes": "constrained", "stop": "a{"}, "stop has 'a{', which would cut a box in two"),
        ({"boxes": "constrained", "choices": ["a"]}, "boxes is given with choices, expected one of the two"),
    ],
)
def test_settings_that_make_no_sense_raise(model: tgv.TinyGPTV, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape(words)):
        model.generate(None, "[refer] it", **settings)


@pytest.mark.parametrize(
    "settings",
    [{"do_sample": True}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"seed": 1},
     {"num_beams": 2}, {"num_return_sequences": 2}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.5},
     {"frequency_penalty": 0.5}, {"logit_bias": {3: 1.0}}, {"speculate": True}],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_choices_refuse_settings_of_generation(model: tgv.TinyGPTV, settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(InvalidArgumentError, match=f"{name} is given with choices, expected one of the two"):
        model.generate(None, "which?", choices=["red", "blue"], **settings)
    with pytest.raises(InvalidArgumentError, match=f"{name} is given with choices"):
        model.rank(None, "which?", ["red", "blue"], **settings)


def test_choices_take_what_means_greedy(model: tgv.TinyGPTV) -> None:
    greedy = {"do_sample": False, "temperature": 0, "num_beams": 1, "boxes": "free", "max_new_tokens": 5}
    assert model.generate(None, "which?", choices=["red", "blue"], **greedy).text in ("red", "blue")


def test_a_tokenizer_that_cannot_write_boxes() -> None:
    from tinygptv_fast.generate.constraints import BoxWriting, choose_grammar
    from tinygptv_fast.generate.request import Request
    from tinygptv_fast.processing.templates import get_template

    class Braceless:
        def token_bytes(self, size: int) -> list[bytes]:
            return [bytes([byte]) for byte in range(128) if byte != ord("{")]

    writing, template = BoxWriting(Braceless(), 128), get_template("train-stage4")  # type: ignore[arg-type]
    assert choose_grammar(Request(prompt="[refer] x"), template, writing) is None
    with pytest.raises(InvalidArgumentError, match=r"has no token for '\{', which boxes are written with"):
        choose_grammar(Request(prompt="[refer] x", boxes="constrained"), template, writing)


def test_the_reference_follows_the_same_grammar(states: list[tgv.ImageState], model: tgv.TinyGPTV) -> None:
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as slow:
        state = tgv.ImageState(states[4].embeddings, states[4].width, states[4].height, model_id=states[4].model_id)
        for most in (11, 30):
            assert is_in_order(slow.generate(state, task="grounding", temperature=3.0, seed=1, max_new_tokens=most))
            assert is_in_order(slow.generate(state, task="grounding", num_beams=3, max_new_tokens=most))
        hot = {"task": "grounding", "max_new_tokens": 30, "repetition_penalty": 0.5}
        assert is_in_order(slow.generate(state, **hot)) and is_in_order(model.generate(states[4], **hot))
