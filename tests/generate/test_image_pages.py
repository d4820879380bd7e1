"""Image states with keys and values: the same answers, about that picture, in that place and by that model alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import tinygptv_fast as tgv
from golden_support import GOLDEN, convert_case
from tinygptv_fast.engine import NativeBackend
from tinygptv_fast.engine.pages import make_pages
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, PromptError, UnsupportedError
from tinygptv_fast.generate import image_state
from tinygptv_fast.processing.templates import Template
from tinygptv_fast.protocol import VISUAL, Prompt

IMAGES = [str(GOLDEN / "images" / f"img{index}.png") for index in range(2)]
QUESTIONS = ("where?", "a dog near the tree", "the quick brown fox jumps over it")
KV_DTYPES = ("int8", "float16", "bfloat16", "float32")


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int4") / "model"
    return convert_case("B_stage4", folder, quantization="int4", dtype="auto", vision_dtype="int8")


@pytest.fixture(scope="module")
def model(int4: Path) -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained(int4, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def state(model: tgv.TinyGPTV) -> tgv.ImageState:
    return model.encode_image(IMAGES[0], pages=True)


def kept(state: tgv.ImageState) -> Any:
    assert state.pages is not None
    return state.pages


def said(answer: tgv.Answer) -> tuple[list[int], list[float], str]:
    return answer.token_ids, answer.logprobs, answer.finish_reason


def brought(model: tgv.TinyGPTV) -> int:
    return int(model.stats()["brought_tokens"])


def idle(model: tgv.TinyGPTV) -> None:
    """Nothing is under way, and the cache keeps its rules."""
    while model.stats()["running"] or model.stats()["waiting"]:
        time.sleep(0.005)
    backend = model._backend
    assert isinstance(backend, NativeBackend)
    backend.engine.check()
    assert backend.engine.counts()["sequences"] == 0


# -- the same answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_answers_are_those_without_pages(int4: Path, tmp_path: Path, kv_dtype: str) -> None:
    settings: dict[str, Any] = {"threads": 1, "kv_dtype": kv_dtype}
    with tgv.TinyGPTV.from_pretrained(int4, **settings) as model:
        state = model.encode_image(IMAGES[0], pages=True)
        state.save(tmp_path / "x.tgvi")
        without = [said(model.generate(state.without_pages(), text, max_new_tokens=12)) for text in QUESTIONS]
        assert brought(model) == 0
    again = tgv.ImageState.load(tmp_path / "x.tgvi")
    for name in ("kind", "model_id", "ids"):
        assert getattr(kept(again), name) == getattr(kept(state), name)
    assert kept(again).numbers.tobytes() == kept(state).numbers.tobytes()
    assert torch.equal(again.embeddings, state.embeddings)
    with tgv.TinyGPTV.from_pretrained(int4, vision=False, **settings) as model:
        for number, text in enumerate(QUESTIONS):
            answer = model.generate(again, text, max_new_tokens=12)
            assert said(answer) == without[number]
            assert answer.usage.cached == kept(again).positions >= 16
            assert answer.to_dict()["usage"]["cached"] == answer.usage.cached
            assert brought(model) == kept(again).positions  # the first brought them, the others found them
        idle(model)


ASK = """
import json, sys
import tinygptv_fast as tgv
path, file, questions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
state = tgv.ImageState.load(file)
with tgv.TinyGPTV.from_pretrained(path, vision=False, threads=2) as model:
    answers = [model.generate(state, text, max_new_tokens=12) for text in questions]
    print(json.dumps([[a.token_ids, a.logprobs, a.finish_reason, a.usage.cached] for a in answers]))
"""


def test_another_process_without_the_vision_tower(
    int4: Path, model: tgv.TinyGPTV, state: tgv.ImageState, tmp_path: Path
) -> None:
    state.save(tmp_path / "x.tgvi")
    command = [sys.executable, "-c", ASK, str(int4), str(tmp_path / "x.tgvi"), json.dumps(QUESTIONS)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    expected = [
        [*said(model.generate(IMAGES[0], text, max_new_tokens=12)), kept(state).positions] for text in QUESTIONS
    ]
    assert json.loads(out.stdout) == json.loads(json.dumps(expected))


def test_every_way_of_asking(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    plain = state.without_pages()
    for settings in (
        {"num_beams": 3, "max_new_tokens": 5},
        {"choices": ["yes", "no", "perhaps"]},
        {"temperature": 1.2, "seed": 3, "num_return_sequences": 2, "max_new_tokens": 9},
        {"speculate": True, "max_new_tokens": 15},
    ):
        one, other = (model.generate(image, "where?", **settings) for image in (state, plain))
        assert [said(a) for a in (one, *one.alternatives)] == [said(a) for a in (other, *other.alternatives)]
        assert one.usage.cached >= kept(state).positions
    prompt = "<s>[INST] <Img><ImageHere></Img> why [/INST]"
    assert torch.equal(model.logits(state, prompt), model.logits(plain, prompt))
    talks = [model.chat(image, max_new_tokens=6) for image in (state, plain)]
    for text in ("where?", "why?"):
        assert said(talks[0].ask(text)) == said(talks[1].ask(text))
    idle(model)


def test_a_chat_keeps_the_embeddings_alone(model: tgv.TinyGPTV, state: tgv.ImageState, tmp_path: Path) -> None:
    chat = model.chat(state, max_new_tokens=4)
    chat.ask("where?")
    chat.save(tmp_path / "talk.json")
    assert model.load_chat(tmp_path / "talk.json").images[0].pages is None


def test_a_picture_that_comes_first_of_several(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    second = model.encode_image(IMAGES[1])
    one = model.generate([state, second], "which?", max_new_tokens=8)
    assert said(one) == said(model.generate([state.without_pages(), second], "which?", max_new_tokens=8))
    assert one.usage.cached >= kept(state).positions
    with pytest.raises(InvalidArgumentError, match=r"image 1 of the prompt is a state with pages.*without_pages"):
        model.generate([second, state], "which?")


def test_a_state_that_was_kept_gets_pages(model: tgv.TinyGPTV, state: tgv.ImageState, tmp_path: Path) -> None:
    """Of int8 rows too: the pages are those of the rows as they are."""
    state.without_pages().save(tmp_path / "x.tgvi", dtype="int8")
    rows = tgv.ImageState.load(tmp_path / "x.tgvi")
    more = model.encode_image(rows, pages=True)
    assert kept(more).numbers.tobytes() != kept(state).numbers.tobytes()
    assert said(model.generate(more, "where?", max_new_tokens=12)) == said(
        model.generate(rows, "where?", max_new_tokens=12)
    )
    assert model.encode_image(state, pages=True) is state  # it has them


# -- room --------------------------------------------------------------------------------------------------------------


def test_a_full_cache_and_eviction(int4: Path, model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    expected = said(model.generate(state.without_pages(), "where?", max_new_tokens=12))
    other = "a long question " * 4
    with tgv.TinyGPTV.from_pretrained(int4, threads=1, vision=False, kv_tokens=96, max_sequences=2) as small:
        for round_ in range(3):
            answer = small.generate(state, "where?", max_new_tokens=12)
            assert said(answer) == expected and answer.usage.cached >= kept(state).positions
            assert brought(small) == (round_ + 1) * kept(state).positions
            room = 96 - small.generate(None, other, max_new_tokens=1).usage.prompt
            small.generate(None, other, max_new_tokens=room, min_length=96)  # takes every page
        assert small.stats()["kv_pages_evicted"] > 0
        requests = [{"image": state, "prompt": text, "max_new_tokens": 12} for text in QUESTIONS]
        whole = [said(model.generate(state, text, max_new_tokens=12)) for text in QUESTIONS]
        assert [said(answer) for answer in small.generate_batch(requests)] == whole
        idle(small)


def test_others_are_cancelled_meanwhile(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    expected = said(model.generate(state.without_pages(), "where?", max_new_tokens=12))
    for _ in range(3):
        pieces = model.stream(state, "a dog", max_new_tokens=60)
        next(pieces)
        assert said(model.generate(state, "where?", max_new_tokens=12)) == expected
        pieces.close()
        assert model.generate(state, "a dog", deadline_ms=1e-3).finish_reason == "deadline"
    idle(model)


# -- never about something else ----------------------------------------------------------------------------------------


def test_the_pages_of_another_picture(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    other = model.encode_image(IMAGES[1])
    with pytest.raises(InvalidArgumentError, match="other embeddings"):
        model.generate(replace(state, embeddings=other.embeddings), "where?")
    rows = state.embeddings.clone()
    rows[0, 0] += 1
    with pytest.raises(InvalidArgumentError, match="other embeddings"):
        model.generate(replace(state, embeddings=rows), "where?")


def test_false_pages_spoil_the_answers_about_themselves_alone(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    """A hash shows that a file is whole, not who wrote it: what somebody brings is found by nobody else."""
    pages = kept(state)
    prompt = Prompt(np.array(pages.ids, np.int32), state.embeddings[: pages.ids.count(VISUAL)].numpy())
    numbers = np.roll(pages.numbers, 3, axis=-1)
    false = replace(state, pages=make_pages(prompt, numbers, pages.scales, kind=pages.kind, weights_id=pages.model_id))
    good = said(model.generate(state.without_pages(), "where?", max_new_tokens=12))
    assert said(model.generate(false, "where?", max_new_tokens=12)) != good
    assert said(model.generate(IMAGES[0], "where?", max_new_tokens=12)) == good
    assert said(model.generate(state, "where?", max_new_tokens=12)) == good


def test_another_template(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    mine = Template("mine", user="a dog near the tree: ", assistant=" so ", accepts_system=True, system_end=" and ")
    with pytest.raises(
        InvalidArgumentError, match=r"begins with '<s>\[INST\] <Img>', this one begins with .* and a dog"
    ):
        model.generate(state, "where?", template=mine)
    other = model.encode_image(state, pages=True, template=mine)
    answer = model.generate(other, "where?", template=mine, max_new_tokens=9)
    assert said(answer) == said(model.generate(IMAGES[0], "where?", template=mine, max_new_tokens=9))
    assert answer.usage.cached >= kept(other).positions
    with pytest.raises(InvalidArgumentError, match="begins with"):
        model.generate(other, "where?")
    with pytest.raises(InvalidArgumentError, match="begins with"):  # a message before the picture
        model.chat(other, template=mine, system="Be brief.").ask("where?")
    with pytest.raises(InvalidArgumentError, match="there is nothing to keep"):  # its text alone fills the pages
        model.encode_image(state, pages=True, template="vicuna")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kv_dtype": "float32"}, InvalidArgumentError, "keys and values in int8, expected f32"),
        ({"dtype": "float32", "kv_dtype": "int8"}, InvalidArgumentError, "weights in the form"),
        ({"backend": "reference"}, UnsupportedError, "backend 'reference'"),
    ],
)
def test_the_model_loaded_otherwise(
    int4: Path, state: tgv.ImageState, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with tgv.TinyGPTV.from_pretrained(int4, vision=False, **settings) as other:
        for ask in (other.encode_image, lambda image: other.generate(image, "where?")):
            with pytest.raises(error, match=f"{message}.*without_pages"):
                ask(state)
        assert other.generate(state.without_pages(), "where?", max_new_tokens=2).text is not None


def test_another_model(state: tgv.ImageState, directories: dict[str, Path]) -> None:
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"], vision=False) as other:
        with pytest.raises(InvalidArgumentError, match="state of model"):
            other.generate(state, "where?")
        with pytest.raises(InvalidArgumentError, match=r"weights in the form|keys and values in"):
            other.generate(replace(state, model_id=other.info["model_id"]), "where?")


def test_arguments(model: tgv.TinyGPTV, state: tgv.ImageState, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="pages is 'yes', expected True or False"):
        model.encode_image(IMAGES[0], pages="yes")
    with pytest.raises(InvalidArgumentError, match="template is given without pages=True"):
        model.encode_image(IMAGES[0], template="vicuna")
    with pytest.raises(InvalidArgumentError, match="template is 'raw', which puts nothing before a picture"):
        model.encode_image(IMAGES[0], pages=True, template="raw")
    with pytest.raises(PromptError, match="template is 'nope'"):
        model.encode_image(IMAGES[0], pages=True, template="nope")
    with pytest.raises(InvalidArgumentError, match="dtype is 'int8' for a state with pages"):
        state.save(tmp_path / "x.tgvi", dtype="int8")
    short = replace(state, embeddings=state.embeddings[:1], pages=None)
    with pytest.raises(InvalidArgumentError, match="there is nothing to keep"):
        model.encode_image(short, pages=True)
    assert not list(tmp_path.iterdir())


def test_coroutines(model: tgv.TinyGPTV, state: tgv.ImageState) -> None:
    again = asyncio.run(model.aencode_image(IMAGES[0], pages=True))
    assert kept(again).numbers.tobytes() == kept(state).numbers.tobytes()


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_size_of_a_file(state: tgv.ImageState, tmp_path: Path) -> None:
    state.save(tmp_path / "x.tgvi")
    pages = kept(state)
    numbers = state.embeddings.numel() * 4 + pages.numbers.nbytes + pages.scales.nbytes
    assert numbers < (tmp_path / "x.tgvi").stat().st_size < numbers + 2048
    state.without_pages().save(tmp_path / "y.tgvi")
    assert b'"version":"2"' in (tmp_path / "y.tgvi").read_bytes()  # what earlier versions read


def test_any_changed_byte_is_noticed(state: tgv.ImageState, tmp_path: Path) -> None:
    path = tmp_path / "x.tgvi"
    state.save(path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(start, start + 64), *range(len(whole) - 64, len(whole)), *rng.integers(start, len(whole), 100)]
    for at in (*places, whole.index(kept(state).model_id.encode()), whole.index(b'int8"')):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"x\.tgvi"):
            tgv.ImageState.load(path)
    for cut in (0, 7, start, start + 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"x\.tgvi"):
            tgv.ImageState.load(path)


# 12 ids and 8 rows: one page. L=2, H=2, D=4, so C=8.
FACTS = {"width": "5", "height": "5", "model_id": "x", "kv_kind": "int8", "weights_id": "w"}
ROWS = np.ones((8, 8), np.float32)
NUMBERS, SCALES = np.ones((1, 2, 2, 2, 16, 4), np.int8), np.ones((1, 2, 2, 2, 16), np.float16)
OPENING = np.arange(12, dtype=np.int32)
GOOD = {"embeddings": ROWS, "keys_values": NUMBERS, "keys_values_scales": SCALES, "opening": OPENING}
NAN = np.full_like(SCALES, np.nan)
HOSTILE: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "nan scales": ({}, {"keys_values_scales": NAN}, "scale 0 of keys and values is nan"),
    "infinite scales": ({}, {"keys_values_scales": SCALES * np.float16("inf")}, "scale 0 of keys and values is inf"),
    "negative scales": ({}, {"keys_values_scales": -SCALES}, "scale 0 of keys and values is -1"),
    "-128": ({}, {"keys_values": NUMBERS - np.int8(127) - np.int8(2)}, "element 0 of keys and values"),
    "two pages": ({}, {"keys_values": np.concatenate([NUMBERS] * 2)}, "n=1"),
    "no pages": ({}, {"keys_values": NUMBERS[:0], "keys_values_scales": SCALES[:0]}, "n=1"),
    "scales of one page more": ({}, {"keys_values_scales": np.concatenate([SCALES] * 2)}, "n=1"),
    "pages of 8": ({}, {"keys_values": NUMBERS[..., :8, :]}, "16"),
    "one of K and V": ({}, {"keys_values": NUMBERS[:, :, :1]}, "numbers is"),
    "no layers": ({}, {"keys_values": NUMBERS[:, :0], "keys_values_scales": SCALES[:, :0]}, "layers is 0"),
    "other layers": ({}, {"keys_values_scales": SCALES[:, :1]}, "L=2"),
    "other heads": ({}, {"keys_values": NUMBERS[:, :, :, :1], "keys_values_scales": SCALES[:, :, :, :1]}, "embeddings"),
    "rank": ({}, {"keys_values": NUMBERS[0]}, "which save never writes"),
    "without scales": ({}, {"keys_values_scales": None}, "which save never writes"),
    "without numbers": ({}, {"keys_values": None}, "which save never writes"),
    "without ids": ({}, {"opening": None}, "which save never writes"),
    "ids in int64": ({}, {"opening": OPENING.astype(np.int64)}, "which save never writes"),
    "as float16": ({"kv_kind": "f16"}, {}, "which save never writes"),
    "another kind": ({"kv_kind": "fp8"}, {}, "which save never writes"),
    "no kind": ({"kv_kind": ""}, {}, "which save never writes"),
    "float16 without scales": (
        {"kv_kind": "f16"}, {"keys_values": NUMBERS * np.float16("nan"), "keys_values_scales": None}, "element 0"),
    "bfloat16": (
        {"kv_kind": "bf16"}, {"keys_values": NUMBERS * np.int16(0x7f80), "keys_values_scales": None}, "element 0"),
    "float32": (
        {"kv_kind": "f32"}, {"keys_values": NUMBERS * np.float32("-inf"), "keys_values_scales": None}, "element 0"),
    "long opening": ({}, {"opening": np.arange(300, dtype=np.int32)}, "n=19"),
    "no opening": ({}, {"opening": OPENING[:0]}, "there is nothing to keep"),
    "a row in the opening": ({}, {"opening": OPENING - 1}, "opening holds -1"),
    "int8 rows": (
        {}, {"embeddings": ROWS.astype(np.int8), "scales": np.ones(8, np.float32)}, "expected embeddings F32"),
    "one tensor more": ({}, {"more": ROWS}, "expected embeddings F32"),
    "rows of another width": ({}, {"embeddings": ROWS[:, :4]}, "embeddings"),
    "nan rows": ({}, {"embeddings": ROWS * np.float32("nan")}, "NaN or infinity"),
    "version 2": ({"version": "2"}, {}, "expected embeddings F32"),
    "version 4": ({"version": "4"}, {}, "not an image state of version 2 or 3"),
    "other hash": ({"sha256": "0" * 64}, {}, "it is damaged"),
}  # fmt: skip


def write(path: Path, changes: dict[str, str], tensors: dict[str, Any]) -> None:
    """A file of ``GOOD`` with changes, whose hash is right."""
    kept = {name: np.ascontiguousarray(one) for name, one in {**GOOD, **tensors}.items() if one is not None}
    facts = {**FACTS, **{key: value for key, value in changes.items() if key in FACTS}}
    metadata = {"kind": "tinygptv_image_state", "version": "3", "sha256": image_state._digest(facts, kept)}
    save_file(kept, path, {**metadata, **facts, **changes})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    changes, tensors, message = HOSTILE[name]
    write(tmp_path / "bad.tgvi", changes, tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        tgv.ImageState.load(tmp_path / "bad.tgvi")
    assert "bad.tgvi" in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_hostile_files_are_made_from_is_good(model: tgv.TinyGPTV, tmp_path: Path) -> None:
    write(tmp_path / "x.tgvi", {}, {})
    state = tgv.ImageState.load(tmp_path / "x.tgvi")
    assert kept(state).ids == [*range(12), *[VISUAL] * 4]
    with pytest.raises(InvalidArgumentError, match="state of model 'x'"):
        model.generate(state, "where?")
    mine = replace(state, model_id=model.info["model_id"])
    with pytest.raises(InvalidArgumentError, match="of width 8"):
        model.generate(mine, "where?")
