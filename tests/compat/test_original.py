"""compat.Chat and compat.OriginalModel: the original's recorded texts, ids and rankings, and its bugs, fixed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tinygptv_fast as tgv
from golden_support import ATOL, CASES, GENERATIONS, GOLDEN, Case, convert_case, load_case
from tinygptv_fast.compat import CONV_VISION, CONV_VISION_Vicuna0, Conversation, OriginalModel
from tinygptv_fast.compat import Chat as OriginalChat
from tinygptv_fast.errors import ImageError, InvalidArgumentError, PromptError, TinyGPTVError

PICTURES = [str(GOLDEN / "images" / f"img{index}.png") for index in range(3)]
GREEDY = {"do_sample": False, "max_new_tokens": 20}


@pytest.fixture(scope="module", params=CASES)
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, Any]]:
    """A golden case and the model made of its files, every number kept, on the native engine."""
    path = convert_case(request.param, tmp_path_factory.mktemp("exact") / request.param)
    with tgv.TinyGPTV.from_pretrained(path, dtype="float32", quantization="none", threads=1) as model:
        yield load_case(request.param), model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tgv.TinyGPTV]:
    path = convert_case("A_stage3", tmp_path_factory.mktemp("one") / "A_stage3")
    with tgv.TinyGPTV.from_pretrained(path, dtype="float32", quantization="none", threads=1) as opened:
        yield opened


def begun(image: Any = None, chat: OriginalChat | None = None, name: str = "vicuna") -> tuple[Conversation, list[Any]]:
    conversation: Conversation = {"vicuna": CONV_VISION_Vicuna0, "inst": CONV_VISION}[name].copy()
    pictures: list[Any] = []
    if chat is not None and image is not None:
        assert chat.upload_img(image, conversation, pictures) == "Received."
        chat.encode_img(pictures)
    return conversation, pictures


# --- the recordings -----------------------------------------------------------------------------------------------
def test_the_recorded_conversation(exact: tuple[Case, tgv.TinyGPTV]) -> None:
    case, model = exact
    if case.name == "A_stage1":
        return  # its two chat recordings are an artefact of the recorder: see tests/reference/test_golden.py
    recorded = case.info["chat"]
    chat = OriginalChat(model, quirks=True)
    conversation, pictures = begun(PICTURES[recorded["image"]], chat, recorded["conversation"])
    for turn in recorded["turns"]:
        chat.ask(turn["question"], conversation)
        text, ids = chat.answer(conversation, pictures, **GREEDY)
        assert ids.tolist() == turn["output_ids"] and ids.dtype == np.int64
        assert text == turn["answer"] == conversation.messages[-1][1]
    fixed = OriginalChat(model)
    conversation, pictures = begun(PICTURES[recorded["image"]], fixed, recorded["conversation"])
    fixed.ask(recorded["turns"][0]["question"], conversation)
    _, ids = fixed.answer(conversation, pictures, **GREEDY)
    assert ids.tolist() == recorded["turns"][0]["output_ids"][1:]


@pytest.mark.parametrize("name", GENERATIONS)
def test_recorded_generations(exact: tuple[Case, tgv.TinyGPTV], name: str) -> None:
    case, model = exact
    entry, original = case.info[name], OriginalModel(model, quirks=True)
    first = 1 if name == "gen_single1" else 0
    chosen = PICTURES[first : first + len(entry["texts"])]
    images = torch.stack([original.vis_processor(path) for path in chosen])
    settings = {"eos_token_id": entry["over"].get("eos_token_id"), **entry["kwargs"]}
    assert original.generate(images, entry["texts"], **settings) == _as_generate_gives(entry["answers"])
    assert original.generate(chosen, entry["texts"], **settings) == _as_generate_gives(entry["answers"])


def _as_generate_gives(answers: list[str]) -> list[str]:
    return [text.split("</s>")[0].replace("<s>", "").split("[/INST]")[-1].strip() for text in answers]


def test_recorded_rankings(exact: tuple[Case, tgv.TinyGPTV]) -> None:
    case, model = exact
    for quirks in (False, True):
        original = OriginalModel(model, quirks=quirks)
        for name in ("multi_select_b1", "multi_select_b1_num_cand2"):
            entry = case.info[name]
            images = [PICTURES[index] for index in entry["images"]]
            count = entry.get("num_cand")
            ranks = original.multi_select(images, entry["texts"], entry["answers"], count)
            kept = len(entry["answers"]) if count is None else count[0]
            assert ranks[0][:kept] == entry["rank"][0][:kept] and sorted(ranks[0]) == [0, 1, 2, 3]
    entry = case.info["multi_select_b2_per_sample"]
    images = [PICTURES[index] for index in entry["images"]]
    asked = (images, entry["texts"], entry["answers"])
    assert OriginalModel(model).multi_select(*asked) == [row["rank"] for row in entry["rows"]]
    bug = case.info["multi_select_b2_original_bug"]
    assert OriginalModel(model, quirks=True).multi_select(*asked) == bug["rank"]


def test_recorded_embeddings_from_pixels(exact: tuple[Case, tgv.TinyGPTV]) -> None:
    case, model = exact
    original = OriginalModel(model)
    pixels = torch.stack([original.vis_processor(path) for path in PICTURES])
    torch.testing.assert_close(pixels, case.array("pixel_values"), rtol=0, atol=1e-5)
    embeddings, mask = original.encode_img(pixels)
    torch.testing.assert_close(embeddings, case.array("img_embeds"), rtol=0, atol=ATOL)
    assert mask.shape == embeddings.shape[:2] and mask.dtype == torch.int64 and bool(mask.all())


# --- what is fixed ------------------------------------------------------------------------------------------------
def test_an_answer_ends_at_the_separator_of_its_own_row(exact: tuple[Case, tgv.TinyGPTV]) -> None:
    case, model = exact
    entry = case.info["gen_batch2"]
    assert case.name != "A_stage1" or all("###" in text for text in entry["answers"])
    fixed = OriginalModel(model).generate(PICTURES[:2], entry["texts"])
    for text, recorded in zip(fixed, entry["answers"], strict=True):
        assert "###" not in text
        ours = "".join(text.split())  # the recording has the slow tokenizer's spaces
        assert ours == "".join(recorded.split("###")[0].split("[/INST]")[-1].split())


def test_pictures_of_any_mode_and_several_of_them(model: tgv.TinyGPTV) -> None:
    chat = OriginalChat(OriginalModel(model))
    conversation, pictures = begun()
    for image in (Image.open(PICTURES[0]).convert("RGBA"), Image.open(PICTURES[1]).convert("L"), PICTURES[2]):
        chat.upload_img(image, conversation, pictures)
        chat.encode_img(pictures)
    assert [type(picture) for picture in pictures] == [tgv.ImageState] * 3
    chat.ask("where?", conversation)
    text, ids = chat.answer(conversation, pictures, max_new_tokens=4, do_sample=False)
    assert len(ids) <= 4 and conversation.messages[-1] == ["Assistant: ", text]


def test_the_sampling_preset_is_the_originals(model: tgv.TinyGPTV) -> None:
    chat = OriginalChat(model)
    conversation, pictures = begun(PICTURES[0], chat)
    chat.ask("where?", conversation)
    prompt = conversation.copy()
    prompt.begin_answer()
    _, ids = chat.answer(conversation, pictures, max_new_tokens=12, seed=3)
    end = model.tokenizer.encode("###")
    preset = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05}
    asked = {"template": "raw", "max_new_tokens": 12, "min_length": 1, "stop": "###", "eos_token_id": end, "seed": 3}
    assert model.generate(pictures, prompt.prompt(), **asked, **preset).token_ids == ids.tolist()


def test_a_stream_tells_what_answer_says(model: tgv.TinyGPTV) -> None:
    chat = OriginalChat(model)
    one, pictures = begun(PICTURES[0], chat)
    chat.ask("where?", one)
    two = one.copy()
    text, _ = chat.answer(one, pictures, **GREEDY)
    stream = chat.stream_answer(two, pictures, **GREEDY)
    told = next(stream)
    assert two.messages[-1][0] == "Assistant: "
    told += "".join(stream)
    assert told.split("Assistant:")[-1].strip() == text and two.messages == one.messages
    chat.ask("and?", two)
    chat.stream_answer(two, pictures, **GREEDY).close()
    assert two.messages[-1] == ["Human: ", "and?"]


def test_what_fails_leaves_no_message(model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = OriginalChat(model)
    conversation, pictures = begun(PICTURES[0], chat)
    chat.ask("where?", conversation)
    before = json.dumps(conversation.messages)

    def broken(*_: Any) -> Any:
        raise TinyGPTVError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(model._backend, "submit", broken)
        with pytest.raises(TinyGPTVError, match="broken"):
            chat.answer(conversation, pictures)
        with pytest.raises(TinyGPTVError, match="broken"):
            list(chat.stream_answer(conversation, pictures))
    assert json.dumps(conversation.messages) == before


def test_old_turns_give_way_whole(model: tgv.TinyGPTV, caplog: pytest.LogCaptureFixture) -> None:
    chat = OriginalChat(model)
    conversation, pictures = begun(PICTURES[0], chat)
    for number in range(4):
        chat.ask(f"question {number}: where is it, and what is the man holding?", conversation)
        with caplog.at_level(logging.WARNING, "tinygptv_fast"):
            chat.answer(conversation, pictures, max_length=150, max_new_tokens=10, do_sample=False)
    assert "left out" in caplog.text and len(conversation.messages) == 8
    short = conversation.without_oldest_turn()
    assert short.prompt().count("<ImageHere>") == 1 and len(short.messages) == 6
    assert short.messages[0][1].startswith("<Img><ImageHere></Img> question 1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate(PICTURES[:2], ["one"]), "texts has 1 entries with 2 images"),
        (lambda m: m.generate(PICTURES[:1], "one"), "texts is 'one', expected a list of strings"),
        (lambda m: m.generate("x.png", ["one"]), "images is str, expected a tensor"),
        (lambda m: m.generate(torch.zeros(3, 8, 8), ["one"]), r"images is a tensor \[3, 8, 8\]"),
        (lambda m: m.generate(torch.zeros(1, 3, 8, 8), ["one"]), r"image is a tensor \[3, 8, 8\], expected pixels"),
        (lambda m: m.generate(torch.full((1, 3, 56, 56), 9.0), ["one"]), "other pixels than vis_processor makes"),
        (lambda m: m.generate(["nowhere.png"], ["<ImageHere>"]), "nowhere.png"),
        (lambda m: m.multi_select(PICTURES[:1], ["x"], "ab"), "answers is str, expected a list of lists"),
        (lambda m: m.multi_select(PICTURES[:1], ["x"], [["a", "b"]]), r"answers\[0\] has 2 entries with 1 images"),
        (lambda m: m.multi_select(PICTURES[:1], ["x"], []), "answers or images is empty"),
        (lambda m: m.multi_select(PICTURES[:1], ["x"], [["a"]], [1, 2]), "num_cand has 2 entries"),
    ],
)
def test_what_the_model_refuses(model: tgv.TinyGPTV, call: Any, message: str) -> None:
    with pytest.raises((InvalidArgumentError, ImageError), match=message):
        call(OriginalModel(model))


def test_what_chat_refuses(model: tgv.TinyGPTV) -> None:
    chat = OriginalChat(model)
    conversation, pictures = begun()
    with pytest.raises(PromptError, match="text is int, expected a string"):
        chat.ask(3, conversation)  # type: ignore[arg-type]
    chat.upload_img(PICTURES[0], conversation, pictures)
    chat.ask("where?", conversation)
    with pytest.raises(InvalidArgumentError, match="img_list holds str, expected pictures encoded"):
        chat.answer(conversation, pictures)
    chat.encode_img(pictures)
    with pytest.raises(InvalidArgumentError, match="max_length is 0"):
        chat.answer(conversation, pictures, max_length=0)
    with pytest.raises(InvalidArgumentError, match="num_beams is 2, expected 1 when do_sample is True"):
        chat.answer(conversation, pictures, num_beams=2)
    with pytest.raises(PromptError, match="placeholder"):
        chat.answer(conversation, [])


def test_names_are_there_without_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, tinygptv_fast.compat as c\n"
        "c.CONV_VISION_Vicuna0, c.CONV_VISION, c.CONV_VISION_minigptv2, c.CONV_VISION_LLama2\n"
        "print('torch' in sys.modules, all(hasattr(c, n) for n in c.__all__))\n"
        "c.Nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False True" and "has no attribute 'Nothing'" in done.stderr
    assert Path(tgv.compat.__file__).name == "__init__.py"
