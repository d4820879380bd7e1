"""Conversations: what the model is asked, how often it looks, what is left out, what is kept on disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, PromptError, TinyGPTVError
from tinygptv_fast.generate.transcript import Transcript, Turn, said
from tinygptv_fast.processing.templates import RESERVED, TEMPLATES

QUESTION = "How many things are there?"


@pytest.fixture(scope="module")
def demo() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    scenes = ["red circle left of blue star", "green ring", "two plain hearts"]
    return [draw(arrange(scene, 5), 128) for scene in scenes]


def looks(model: tgv.TinyGPTV) -> int:
    """How often the vision tower has run."""
    count: int = model.stats()["images"]["misses"]
    return count


def test_a_chat_asks_what_generate_asks_and_looks_once(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    before = looks(demo)
    chat = demo.chat(pictures[0], max_new_tokens=24)
    first = chat.ask(QUESTION, task="vqa")
    second = chat.ask("and what colour is the circle?")
    third = chat.ask("why?", max_new_tokens=5)
    assert looks(demo) - before <= 1 and third.usage.generated <= 5
    alone = demo.generate(pictures[0], QUESTION, task="vqa", max_new_tokens=24)
    assert (first.token_ids, first.usage) == (alone.token_ids, alone.usage)
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 3
    again = demo.generate(messages=chat.messages[:3], max_new_tokens=24)
    assert (second.token_ids, second.usage) == (again.token_ids, again.usage)
    assert third.usage.image == first.usage.image and third.dropped_turns == 0 == third.to_dict()["dropped_turns"]
    assert chat.messages[0]["content"][1]["text"] == f"[vqa] {QUESTION}" and len(chat) == 3


def test_pictures_come_with_turns(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    chat = demo.chat([pictures[0], pictures[1]], max_new_tokens=8)
    tokens = chat.ask("what is different?").usage.image
    assert tokens % 2 == 0
    assert chat.ask("and here?", image=pictures[2]).usage.image == tokens * 3 // 2
    assert len(chat.images) == 3 and [len(m["content"]) for m in chat.messages[::2]] == [3, 2]
    text_only = demo.chat()
    assert text_only.ask("hello", max_new_tokens=2).usage.image == 0
    assert text_only.ask("look", image=pictures[2], max_new_tokens=2).usage.image == tokens // 2


def test_streams_are_asks(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    one, two, three = (demo.chat(pictures[0], max_new_tokens=16) for _ in range(3))

    async def read(text: str) -> tgv.Answer:
        *pieces, last = [piece async for piece in three.astream(text)]
        assert last.answer is not None and all(piece.answer is None for piece in pieces)
        return last.answer

    for text in (QUESTION, "what colour?"):
        asked = one.ask(text)
        *pieces, last = two.stream(text)
        assert last.answer is not None and last.answer.token_ids == asked.token_ids
        assert "".join(piece.text for piece in [*pieces, last]).strip() == asked.text
        assert asyncio.run(read(text)).token_ids == asked.token_ids
    assert [m for m in one.messages if m["role"] == "assistant"] == [
        m for m in two.messages if m["role"] == "assistant"
    ]
    assert asyncio.run(one.aask("why?", image=pictures[1])).usage.image == 2 * asked.usage.image


def test_the_oldest_turns_give_way_and_pictures_stay_whole(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    chat = demo.chat(pictures[0], max_new_tokens=40)
    tokens = chat.ask("what is it?").usage.image
    chat.ask("and this one?", image=pictures[1])
    dropped = [chat.ask(f"question {number}: " + "is it red or blue, " * 6) for number in range(12)]
    room = demo.info["max_positions"]
    assert all(answer.usage.prompt + 40 <= room for answer in dropped)
    counts = [answer.dropped_turns for answer in dropped]
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] == chat.dropped_turns > 2
    for answer in dropped:
        assert answer.usage.image == tokens * (2 if answer.dropped_turns < 2 else 1)
    assert len(chat) == 14 and len(chat.messages) == 28, "the transcript stays whole"
    # What was asked last is what generate gets without the turns left out, the chat's picture with the oldest kept.
    kept = chat.messages[2 * counts[-1] : -1]
    kept[0]["content"] = [{"type": "image", "image": chat.images[0]}, *kept[0]["content"]]
    assert demo.generate(messages=kept, max_new_tokens=40).token_ids == dropped[-1].token_ids


def test_what_cannot_fit_is_said_and_leaves_no_trace(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    chat = demo.chat(pictures[0], max_new_tokens=8)
    chat.ask("one")
    with pytest.raises(PromptError, match=r"text makes a prompt of \d+ tokens with 1 picture, expected < 512: shorten"):
        chat.ask("is it red? " * 300)
    assert len(chat) == 1 and chat.dropped_turns == 0
    crowd = demo.chat([pictures[0]] * 40)
    with pytest.raises(PromptError, match="with 40 pictures, expected < 512"):
        crowd.ask("is it red? " * 60)
    long = demo.chat(pictures[0]).ask("what? " * 100, max_new_tokens=10_000)  # generate's rule: cut to what is left
    assert long.finish_reason in ("stop", "length")


@hypothesis_settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 100), st.integers(0, 100), st.integers(0, 11)
)
def test_first_that_fits(sizes: list[int], room: int, reserve: int, first: int) -> None:
    transcript = Transcript(turns=tuple(Turn("?" * size) for size in sizes))
    first = min(first, len(sizes) - 1)

    def count(given: Transcript, start: int) -> int:
        return sum(len(turn.question) for turn in given.turns[start:])

    reserve = min(reserve, room - 1)
    if sizes[-1] >= room:
        with pytest.raises(PromptError):
            transcript.first_that_fits(first, room, reserve, count)
        return
    found = transcript.first_that_fits(first, room, reserve, count)
    assert found >= first
    assert sum(sizes[found:]) + reserve <= room or found == len(sizes) - 1
    assert found == first or sum(sizes[found - 1 :]) + reserve > room, "no turn goes that could stay"


def begun(chat: tgv.Chat) -> Generator[tgv.generate.Piece, None, None]:
    """A stream that has given a piece and has more to come; the engine may be done before anybody looks."""
    for _ in range(50):
        stream = chat.stream("where?", max_new_tokens=400)
        if next(stream).answer is None:
            return stream
        stream.close()
        chat.reset()
    raise AssertionError("no stream was seen under way")


def test_a_closed_stream_leaves_no_trace(native: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    chat = native.chat(pictures[0])
    stream = begun(chat)
    with pytest.raises(TinyGPTVError, match="a turn under way"):
        chat.ask("meanwhile?")
    with pytest.raises(TinyGPTVError, match="a turn under way"):
        chat.reset()
    stream.close()
    assert len(chat) == 0 and native.stats()["running"] == 0

    async def leave() -> None:
        for _ in range(50):
            async with aclosing(chat.astream("where?", max_new_tokens=400)) as pieces:
                piece = await anext(pieces)
            if piece.answer is None:
                assert len(chat) == 0
                break
            chat.reset()
        await chat.aask("what is it?", max_new_tokens=3)

    asyncio.run(leave())
    assert len(chat) == 1
    chat.reset()
    assert (len(chat), len(chat.images), chat.messages) == (0, 1, [])


def test_nothing_said_before_a_deadline_is_no_turn(demo: tgv.TinyGPTV, pictures: list[Image.Image]) -> None:
    chat = demo.chat(pictures[0])
    answer = chat.ask("what is it?", deadline_ms=1e-6)
    assert (answer.finish_reason, answer.text, len(chat)) == ("deadline", "", 0)


@hypothesis_settings(deadline=None)
@given(st.lists(st.sampled_from([*RESERVED, "###", "#", "[INST]", "[/INST]", "<s>", "a", "<Img", ">", "[IN", "ST]"])))
def test_an_answer_in_the_history_opens_nothing(parts: list[str]) -> None:
    for template in TEMPLATES.values():
        assert template.verbatim or template.reserved_in(said("".join(parts), template)) is None
    assert said("a red cup", TEMPLATES["inst"]) == "a red cup"


def test_saved_and_gone_on_with(demo: tgv.TinyGPTV, pictures: list[Image.Image], tmp_path: Path) -> None:
    chat = demo.chat(pictures[0], template="inst", max_new_tokens=12)
    chat.ask(QUESTION)
    chat.ask("and here?", image=pictures[1])
    path = tmp_path / "chat.json"
    chat.save(path)
    before = looks(demo)
    loaded = demo.load_chat(path)
    assert len(loaded) == 2 and loaded.messages[1] == chat.messages[1]
    assert loaded.ask("why?").token_ids == chat.ask("why?").token_ids
    assert looks(demo) == before and [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]
    data = json.loads(path.read_text())
    for key, value in (
        ("kind", "x"),
        ("schema_version", 2),
        ("turns", [{}]),
        ("turns", [{"question": 1, "answer": "", "pictures": []}]),
        ("about", [7]),
        ("about", None),
        ("template", 3),
        ("template", {"name": "mine", "stop": [3]}),
        ("template", {"name": 7}),
        ("template", {"colour": "red"}),
        ("settings", []),
        ("pictures", [{**data["pictures"][0], "embeddings": "!"}]),
        ("pictures", [{**data["pictures"][0], "shape": [3, 3]}]),
        ("pictures", [{**data["pictures"][0], "width": 0}]),
    ):
        path.write_text(json.dumps({**data, key: value}))
        with pytest.raises(CheckpointError, match="chat file"):
            demo.load_chat(path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is not a chat file"):
        demo.load_chat(path)
    data["pictures"][0]["model_id"] = "another"
    path.write_text(json.dumps(data))
    with pytest.raises(InvalidArgumentError, match="a state of model 'another'"):
        demo.load_chat(path)


def test_a_template_of_ones_own_is_saved_too(demo: tgv.TinyGPTV, tmp_path: Path) -> None:
    mine = replace(TEMPLATES["train-stage4"], name="mine", stop=("###", "END"))
    chat = demo.chat(template=mine, stop=["stop"], max_new_tokens=3)
    chat.ask("what?")
    chat.save(tmp_path / "chat.json")
    loaded = demo.load_chat(tmp_path / "chat.json")
    assert repr(loaded) == repr(chat) and "'mine'" in repr(loaded)
    assert loaded.ask("why?").token_ids == chat.ask("why?").token_ids
    odd = demo.chat(max_new_tokens=3, logit_bias={3: object()})
    with pytest.raises(InvalidArgumentError, match="cannot be written as json"):
        odd.save(tmp_path / "odd.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 3}, r"chat\(\) has no argument 'max_tokens'; the nearest is 'max_new_tokens'"),
        ({"prompt": "x"}, r"chat\(\) has no argument 'prompt'"),
        ({"template": "raw"}, "template is 'raw', which has no turns"),
        ({"template": "alpaca"}, "template is 'alpaca', expected a Template or one of"),
        ({"template": "inst", "system": "Be brief."}, "system is given, which template 'inst' has no place for"),
        ({"template": "vicuna", "system": "###"}, "system contains '###'"),
    ],
)
def test_what_chat_refuses(demo: tgv.TinyGPTV, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidArgumentError, PromptError), match=message):
        demo.chat(None, **settings)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        (3, {}, "text is int, expected a string"),
        ("  ", {}, "text is blank"),
        ("a <ImageHere>", {}, "text contains '<ImageHere>'"),
        ("x", {"tasks": "vqa"}, r"ask\(\) has no argument 'tasks'; the nearest is 'task'"),
        ("x", {"task": "count"}, "task is 'count', expected None or one of"),
        ("x", {"max_new_tokens": "9"}, "max_new_tokens is '9', expected an integer"),
        ("x", {"image": "nowhere.png"}, "nowhere.png"),
        ("x", {"top_p": 0.5}, "top_p is given but decoding is greedy"),
    ],
)
def test_what_ask_refuses(demo: tgv.TinyGPTV, text: Any, settings: dict[str, Any], message: str) -> None:
    chat = demo.chat()
    with pytest.raises(TinyGPTVError, match=message):
        chat.ask(text, **settings)
    with pytest.raises(TinyGPTVError, match=message):
        list(chat.stream(text, **settings))
    assert len(chat) == 0


def test_a_system_message(demo: tgv.TinyGPTV) -> None:
    chat = demo.chat(template="vicuna", system="Be brief.", max_new_tokens=3)
    answer = chat.ask("what?")
    assert answer.usage == demo.generate(messages=chat.messages[:2], template="vicuna", max_new_tokens=3).usage
    assert chat.messages[0] == {"role": "system", "content": "Be brief."}
