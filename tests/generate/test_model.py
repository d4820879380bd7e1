"""The facade: settings, streaming, choices, boxes, image states, deadlines, errors and closing."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tinygptv_fast as tgv
from golden_support import GOLDEN, convert_case
from tinygptv_fast.errors import (
    CheckpointError,
    ClosedError,
    ImageError,
    InvalidArgumentError,
    PromptError,
    UnsupportedError,
)

from .conftest import BACKENDS

IMAGE = str(GOLDEN / "images" / "img0.png")
RAW = "<Img><ImageHere></Img> where?"


def test_streamed_pieces_are_the_answer(stage4: tgv.TinyGPTV) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12}
    *pieces, last = stage4.stream(IMAGE, "where?", **settings)
    whole = stage4.generate(IMAGE, "where?", **settings)
    assert last.answer is not None
    assert (last.answer.token_ids, last.answer.text) == (whole.token_ids, whole.text)
    assert "".join(piece.text for piece in [*pieces, last]).strip() == whole.text
    assert all(piece.answer is None for piece in pieces)


def test_image_forms_agree(stage4: tgv.TinyGPTV) -> None:
    rgb = np.asarray(Image.open(IMAGE).convert("RGB"))
    golden = stage4.encode_image(IMAGE).embeddings
    forms = [Path(IMAGE), Path(IMAGE).read_bytes(), Image.open(IMAGE), rgb]
    for form in forms:
        assert torch.equal(stage4.encode_image(form).embeddings, golden)
    assert torch.equal(stage4.encode_image(rgb[..., ::-1].copy(), color="bgr").embeddings, golden)


def test_image_state_saved_and_asked_later(stage4: tgv.TinyGPTV, tmp_path: Path) -> None:
    state = stage4.encode_image(IMAGE)
    state.save(tmp_path / "x.tgvi")
    again = tgv.ImageState.load(tmp_path / "x.tgvi")
    assert (again.width, again.height, again.model_id) == (state.width, state.height, state.model_id)
    assert stage4.generate(again, "where?", max_new_tokens=6).token_ids == (
        stage4.generate(IMAGE, "where?", max_new_tokens=6).token_ids
    )
    assert [p.name for p in tmp_path.iterdir()] == ["x.tgvi"]


def test_image_state_of_another_model_is_refused(stage4: tgv.TinyGPTV) -> None:
    state = stage4.encode_image(IMAGE)
    foreign = tgv.ImageState(state.embeddings, state.width, state.height, "0" * 64)
    with pytest.raises(InvalidArgumentError, match="state of model"):
        stage4.generate(foreign, "where?")


def test_choices_rank_by_likelihood(stage4: tgv.TinyGPTV) -> None:
    answer = stage4.generate(IMAGE, "where?", choices=["a dog", "near the tree", "none"])
    everyone = [answer, *answer.alternatives]
    means = [sum(a.logprobs) / len(a.logprobs) for a in everyone]
    assert sorted(a.text for a in everyone) == ["a dog", "near the tree", "none"]
    assert means == sorted(means, reverse=True)
    assert answer.probability == pytest.approx(math.exp(sum(answer.logprobs)))


def test_logprobs_are_of_the_unprocessed_logits(stage4: tgv.TinyGPTV) -> None:
    answer = stage4.generate(IMAGE, RAW, template="raw", max_new_tokens=5, repetition_penalty=1.5)
    first = stage4.logits(IMAGE, RAW)[-1].log_softmax(-1)[answer.token_ids[0]]
    assert answer.logprobs[0] == pytest.approx(float(first), abs=1e-5)


def test_sampling_is_seeded_and_beams_return_alternatives(stage4: tgv.TinyGPTV) -> None:
    one, two = (stage4.generate(IMAGE, "where?", temperature=1.5, seed=3, max_new_tokens=8) for _ in range(2))
    other = stage4.generate(IMAGE, "where?", temperature=1.5, seed=4, max_new_tokens=8)
    assert one.token_ids == two.token_ids != other.token_ids
    beams = stage4.generate(IMAGE, "where?", num_beams=3, num_return_sequences=3, max_new_tokens=6)
    assert len(beams.alternatives) == 2
    many = stage4.generate(IMAGE, "where?", temperature=1.0, seed=1, num_return_sequences=4, max_new_tokens=4)
    assert len(many.alternatives) == 3


def test_deadline_returns_what_there_is(stage4: tgv.TinyGPTV) -> None:
    began = time.perf_counter()
    answer = stage4.generate(IMAGE, "where?", max_new_tokens=400, deadline_ms=1.0)
    assert answer.finish_reason == "deadline"
    assert len(answer.token_ids) < 400
    assert answer.timings.total <= 1e3 * (time.perf_counter() - began)


def test_stop_strings_end_an_answer_and_are_not_in_it(stage4: tgv.TinyGPTV) -> None:
    free = stage4.generate(IMAGE, RAW, template="raw", max_new_tokens=10)
    stop = free.text[3:5]
    cut = stage4.generate(IMAGE, RAW, template="raw", max_new_tokens=10, stop=stop)
    assert cut.finish_reason == "stop"
    assert cut.text == free.text[: free.text.index(stop)]


def test_messages_equal_the_prompt_they_stand_for(stage4: tgv.TinyGPTV) -> None:
    messages = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "where?"}]}]
    assert stage4.generate(messages=messages, max_new_tokens=5).token_ids == (
        stage4.generate(IMAGE, "where?", max_new_tokens=5).token_ids
    )


def test_identify_writes_the_box_into_the_question(stage4: tgv.TinyGPTV) -> None:
    picture = Image.open(IMAGE).convert("RGB")
    width, height = picture.size
    box = (0.1 * width + 0.1, 0.2 * height + 0.1, 0.5 * width + 0.1, height)
    asked = stage4.generate(IMAGE, "[identify] what object is in this location {<10><20><50><100>}", max_new_tokens=4)
    bgr = np.asarray(picture)[..., ::-1].copy()
    for image, settings in ((IMAGE, {}), (bgr, {"color": "bgr"}), (stage4.encode_image(IMAGE), {})):
        found = stage4.identify(image, box, max_new_tokens=4, **settings)
        assert (found.token_ids, found.usage) == (asked.token_ids, asked.usage)


def test_answer_to_dict_is_json(stage4: tgv.TinyGPTV) -> None:
    answer = stage4.generate(IMAGE, "where?", max_new_tokens=3)
    data = json.loads(json.dumps(answer.to_dict()))
    assert data["schema_version"] == 1
    cached = data["usage"].pop("cached")
    assert cached == answer.usage.cached and cached % 16 == 0
    assert data["usage"] == {"prompt": answer.usage.prompt, "image": 8, "generated": 3}
    assert set(data["timings"]) == {"preprocess", "vision", "queue", "prefill", "decode", "first_token", "total"}


def test_batch_keeps_order_and_returns_errors_in_place(stage4: tgv.TinyGPTV) -> None:
    good: dict[str, Any] = {"image": IMAGE, "prompt": "where?", "max_new_tokens": 2}
    bad = good | {"image": "missing.png"}
    answers = stage4.generate_batch([good, bad, tgv.Request(**good)], on_error="return")
    assert isinstance(answers[1], ImageError)
    assert isinstance(answers[0], tgv.Answer) and isinstance(answers[2], tgv.Answer)
    with pytest.raises(ImageError):
        stage4.generate_batch([good, bad])


def test_text_only_and_vision_off(stage4: tgv.TinyGPTV, tmp_path: Path) -> None:
    path = stage4.info["path"]
    with tgv.TinyGPTV.from_pretrained(path, backend=stage4.info["backend"], vision=False) as blind:
        with pytest.raises(UnsupportedError, match="without its vision tower"):
            blind.generate(IMAGE, "where?")
        state = stage4.encode_image(IMAGE)
        assert blind.generate(state, "where?", max_new_tokens=3).token_ids == (
            stage4.generate(IMAGE, "where?", max_new_tokens=3).token_ids
        )
    assert stage4.generate(None, "hello", max_new_tokens=2).usage.image == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantised_directory_loads_and_contradictions_raise(backend: str, tmp_path: Path) -> None:
    path = convert_case("A_stage1", tmp_path / "int4", quantization="int4", dtype="auto", vision_dtype="int8")
    with tgv.TinyGPTV.from_pretrained(path, backend=backend) as model:
        assert (model.info["quantization"], model.info["vision_dtype"]) == ("int4", "int8")
        assert len(model.generate(IMAGE, "where?", max_new_tokens=3).token_ids) == 3
    for contradiction in ({"quantization": "none"}, {"vision_dtype": "float32"}):
        with pytest.raises(InvalidArgumentError, match="the directory holds"):
            tgv.TinyGPTV.from_pretrained(path, backend=backend, **contradiction)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.9}, "top_p is given but decoding is greedy"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0"),
        ({"do_sample": True, "temperature": 0}, "temperature is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 2, "do_sample": True}, "num_beams is 2"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ["x"] * 17}, "stop is"),
        ({"stop": ""}, "stop is"),
        ({"deadline_ms": 0}, "deadline_ms is 0"),
        ({"task": "sing"}, "task is 'sing'"),
        ({"template": "none"}, "template is 'none'"),
        ({"eos_token_id": -3}, "eos_token_id is -3"),
        ({"eos_token_id": 2**40}, "eos_token_id is 1099511627776"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"speculate": 1}, "speculate is 1"),
        ({"presence_penalty": "much"}, "presence_penalty is 'much'"),
        ({"logit_bias": [3]}, "logit_bias is list"),
        ({"logit_bias": {3: math.inf}}, r"logit_bias\[3\] is inf"),
        ({"colour": "rgb"}, r"generate\(\) has no argument 'colour'; the nearest is 'color' \(of box, boxes, "),
        ({"max_tokens": 3}, "the nearest is 'max_new_tokens'"),
        ({"box": (0, 0, 5, 5)}, "box is given"),
        ({"choices": []}, "choices is .*, expected a list of non-empty strings"),
    ],
)
def test_bad_settings_name_the_argument(stage4: tgv.TinyGPTV, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        stage4.generate(IMAGE, "where?", **settings)


def test_bad_prompts(stage4: tgv.TinyGPTV) -> None:
    for prompt in ("a ### b", "see <ImageHere>", "[/INST]"):
        with pytest.raises(PromptError, match="prompt contains"):
            stage4.generate(IMAGE, prompt)
    with pytest.raises(PromptError, match="1 image was given"):
        stage4.generate(IMAGE, "no placeholder", template="raw")
    with pytest.raises(PromptError, match="prompt is None"):
        stage4.generate(IMAGE)
    with pytest.raises(PromptError, match=r"the prompt is \d+ tokens"):
        stage4.generate(None, "dog " * 600)


def test_a_box_does_not_go_with_messages(stage4: tgv.TinyGPTV) -> None:
    messages = [{"role": "user", "content": "what is it?"}]
    with pytest.raises(InvalidArgumentError, match="both box and messages are given"):
        stage4.generate(messages=messages, box=(0, 0, 5, 5))


@pytest.mark.parametrize(("name", "meant"), [("torch_dtype", "dtype"), ("device_map", "device"), ("thread", "threads")])
def test_settings_that_do_not_exist_name_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(
        InvalidArgumentError, match=rf"from_pretrained\(\) has no argument '{name}'; the nearest is '{meant}'"
    ):
        tgv.TinyGPTV.from_pretrained("demo", **{name: "auto"})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"backend": "fast"}, InvalidArgumentError),
        ({"backend": "reference", "device": "cuda"}, UnsupportedError),
        ({"backend": "reference", "device": "tpu"}, InvalidArgumentError),
        ({"backend": "reference", "dtype": torch.float64}, InvalidArgumentError),
        ({"backend": "reference", "threads": 0}, InvalidArgumentError),
        ({"backend": "reference", "adapter": "x"}, CheckpointError),
        ({"backend": "reference", "kv_dtype": "int8"}, UnsupportedError),
        ({"backend": "reference", "kv_tokens": 64}, UnsupportedError),
        ({"device": "cuda"}, UnsupportedError),
        ({"adapter": 3}, InvalidArgumentError),
        ({"dtype": "float16"}, InvalidArgumentError),
        ({"kv_dtype": "int4"}, InvalidArgumentError),
        ({"kv_tokens": 0}, InvalidArgumentError),
        ({"max_sequences": 1 << 20}, InvalidArgumentError),
        ({"threads": 5000}, InvalidArgumentError),
        ({"load": "lazy"}, InvalidArgumentError),
        ({"backend": "reference", "load": "mmap"}, UnsupportedError),
        ({"backend": "reference", "vision": 1}, InvalidArgumentError),
    ],
)
def test_bad_load_settings(stage4: tgv.TinyGPTV, settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(k for k in reversed(settings))):
        tgv.TinyGPTV.from_pretrained(stage4.info["path"], **settings)


def test_missing_directory_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 'demo', a model directory or a hub id"):
        tgv.TinyGPTV.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed_model_refuses_everything(backend: str, directories: dict[str, Path]) -> None:
    model = tgv.TinyGPTV.from_pretrained(directories["A_stage1"], backend=backend)
    model.close()
    model.close()
    for call in (
        lambda: model.generate(IMAGE, "where?"),
        lambda: model.encode_image(IMAGE),
        lambda: model.logits(None, "x"),
        lambda: list(model.stream(None, "x")),
        lambda: model.generate_batch([{"prompt": "x"}]),
        lambda: model.rank(None, "x", ["y"]),
        lambda: asyncio.run(model.agenerate(None, "x")),
        lambda: model.stats(),
    ):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_save_pretrained_copies_and_never_overwrites(stage4: tgv.TinyGPTV, tmp_path: Path) -> None:
    stage4.save_pretrained(tmp_path / "copy")
    with tgv.TinyGPTV.from_pretrained(tmp_path / "copy", backend=stage4.info["backend"]) as copy:
        assert copy.info["model_id"] == stage4.info["model_id"]
    with pytest.raises(InvalidArgumentError, match="not empty"):
        stage4.save_pretrained(tmp_path / "copy")
