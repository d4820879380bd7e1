"""``TinyGPTVProcessor`` renders, tokenises and opens what ``TinyGPTV`` does; its files make it again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, ProcessorMixin

import tinygptv_fast as tgv
from hf.auto_support import CIRCLE, CONVERSATIONS, SQUARE, question
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.errors import CheckpointError, ImageError, InvalidArgumentError, PromptError, UnsupportedError
from tinygptv_fast.hf import TinyGPTVProcessor
from tinygptv_fast.processing.prompt import encode_prompt, render_messages
from tinygptv_fast.processing.templates import TEMPLATES


def test_prompts_are_those_of_our_own_code(auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV) -> None:
    wanted = [render_messages(one, template=demo.default_template)[0] for one in CONVERSATIONS]
    assert auto_processor.apply_chat_template(CONVERSATIONS, add_generation_prompt=True) == wanted
    assert auto_processor.apply_chat_template(CONVERSATIONS[0], add_generation_prompt=True) == wanted[0]
    for name in ("vicuna", "minigptv2", "inst", "train-stage4"):
        found = auto_processor.apply_chat_template(CONVERSATIONS[0], name, add_generation_prompt=True)
        assert found == render_messages(CONVERSATIONS[0], template=name)[0]
    tagged = auto_processor.apply_chat_template(question("what is it?", CIRCLE), add_generation_prompt=True, task="vqa")
    assert tagged == render_messages(question("what is it?", CIRCLE), template=demo.default_template, task="vqa")[0]


def test_an_answer_that_was_begun(auto_processor: TinyGPTVProcessor) -> None:
    begun = [*CONVERSATIONS[0], {"role": "assistant", "content": "a red"}]
    whole = auto_processor.apply_chat_template(begun)
    mark = auto_processor.template.assistant_end
    assert (
        whole.endswith(f"a red{mark}")
        and auto_processor.apply_chat_template(begun, continue_final_message=True) == (whole[: -len(mark)])
    )
    with pytest.raises(PromptError, match="expected 'assistant' to continue"):
        auto_processor.apply_chat_template(CONVERSATIONS[0], continue_final_message=True)


def test_ids_and_pixels(auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV) -> None:
    made = auto_processor.apply_chat_template(
        CONVERSATIONS, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert list(made) == auto_processor.model_input_names
    queries, place = demo.config.qformer.queries, auto_processor.image_token_id
    for row, conversation in enumerate(CONVERSATIONS):
        prompt, _ = render_messages(conversation, template=demo.default_template)
        first, *others = encode_prompt(prompt, demo.tokenizer)
        wanted = [*first, *(i for segment in others for i in ([place] * queries + segment))]
        mask = made["attention_mask"][row]
        assert made["input_ids"][row][mask == 1].tolist() == wanted
        assert mask.tolist() == [0] * (len(mask) - len(wanted)) + [1] * len(wanted)
    pictures = [CIRCLE, SQUARE, CIRCLE, SQUARE, SQUARE]
    pixels = torch.stack([demo.image_processor.pixels(one) for one in pictures])  # type: ignore[union-attr]
    assert torch.equal(made["pixel_values"], pixels)
    assert torch.equal(auto_processor.image_processor(pictures, return_tensors="pt")["pixel_values"], pixels)


def test_kinds_of_pictures_and_tensors(auto_processor: TinyGPTVProcessor, tmp_path: Path) -> None:
    CIRCLE.save(tmp_path / "circle.png")
    buffer = io.BytesIO()
    CIRCLE.save(buffer, "PNG")
    kinds = [CIRCLE, tmp_path / "circle.png", str(tmp_path / "circle.png"), buffer.getvalue(), np.asarray(CIRCLE)]
    text = "<Img><ImageHere></Img> what?"
    same = [auto_processor(kind, text, return_tensors="np")["pixel_values"] for kind in kinds]
    assert all(np.array_equal(one, same[0]) for one in same) and same[0].dtype == np.float32
    plain = auto_processor(text=["one", "two three"], padding=False)
    assert [len(row) for row in plain["input_ids"]] == [sum(row) for row in plain["attention_mask"]]
    assert list(plain) == ["input_ids", "attention_mask"]
    nested = auto_processor([[CIRCLE], [], [SQUARE, CIRCLE]], [text, "none", text + text], return_tensors="pt")
    flat = auto_processor([CIRCLE, SQUARE, CIRCLE], [text, "none", text + text], return_tensors="pt")
    assert torch.equal(nested["pixel_values"], flat["pixel_values"]) and len(flat["pixel_values"]) == 3


def test_text_of_ids(auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV) -> None:
    for ids in ([450, 0], [465, 503, 411], list(range(2, 300)), demo.tokenizer.encode("näive ☂  two  spaces")):
        assert auto_processor.decode(ids, skip_special_tokens=True) == demo.tokenizer.decode(ids)
        assert auto_processor.batch_decode([ids, ids], skip_special_tokens=True) == [demo.tokenizer.decode(ids)] * 2
    assert auto_processor.decode([auto_processor.image_token_id]) == "<ImageHere>"
    answer = demo.generate(messages=CONVERSATIONS[1])
    ids = auto_processor.apply_chat_template(CONVERSATIONS[1], add_generation_prompt=True, tokenize=True)
    prompt, whole = auto_processor.post_process_image_text_to_text([ids, ids + answer.token_ids])
    assert whole == prompt + answer.text


def test_files_make_it_again(auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV, tmp_path: Path) -> None:
    written = auto_processor.save_pretrained(tmp_path / "new")
    source = Path(demo.info["path"])
    assert all(Path(one).read_bytes() == (source / Path(one).name).read_bytes() for one in written)
    again = AutoProcessor.from_pretrained(tmp_path / "new")
    assert isinstance(again, TinyGPTVProcessor) and isinstance(again, ProcessorMixin)
    texts = {"text": "<ImageHere> hello", "images": CIRCLE, "return_tensors": "pt"}
    left, right = again(**texts), auto_processor(**texts)
    assert all(torch.equal(left[name], right[name]) for name in left)
    again.tokenizer.save_pretrained(tmp_path / "new")
    again.image_processor.save_pretrained(tmp_path / "new")
    assert {one.name for one in (tmp_path / "new").iterdir()} == {Path(one).name for one in written}
    assert TinyGPTVProcessor.from_pretrained("demo").to_dict() == auto_processor.to_dict()
    assert not open_directory(source).verify_hashes()


def test_every_template_is_a_name(auto_processor: TinyGPTVProcessor) -> None:
    assert auto_processor.apply_chat_template(question("hello"), TEMPLATES["raw"]) == "hello"
    with pytest.raises(UnsupportedError, match="which is not rendered; expected one of 'vicuna'"):
        auto_processor.apply_chat_template(question("hello"), "{{ messages }}")


TEXT = "<Img><ImageHere></Img> hello"


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ({"images": CIRCLE, "text": "what is it?"}, PromptError, "prompt has 0 <ImageHere> placeholders but 1 image"),
        ({"images": None, "text": TEXT}, PromptError, "prompt has 1 <ImageHere> placeholder but 0 images"),
        ({"images": [CIRCLE], "text": [TEXT, TEXT]}, PromptError, "prompt has 2 <ImageHere> placeholders but 1 image"),
        (
            {"images": [[CIRCLE]], "text": [TEXT, TEXT]},
            InvalidArgumentError,
            "images has 1 lists, expected one for each",
        ),
        ({"images": 5, "text": TEXT}, ImageError, "image is int, expected a path, bytes"),
        ({"images": "nowhere.png", "text": TEXT}, ImageError, "'nowhere.png', which does not exist"),
        ({"text": 5}, InvalidArgumentError, "text is int, expected a prompt or a list of prompts"),
        ({"text": [5]}, InvalidArgumentError, "text is a list of int, expected a prompt"),
        ({"text": ["a", ""]}, PromptError, r"text\[1\] is empty"),
        ({"text": "a", "paddin": True}, InvalidArgumentError, "no argument 'paddin'; the nearest is 'padding'"),
        ({"text": "a", "padding": "max_length"}, InvalidArgumentError, "padding is 'max_length', expected True"),
        ({"text": "a", "padding_side": "top"}, InvalidArgumentError, "padding_side is 'top', expected 'left'"),
        ({"text": "a", "return_tensors": "tf"}, InvalidArgumentError, "return_tensors is 'tf', expected None"),
        ({"text": ["a", "a b c"], "padding": False, "return_tensors": "pt"}, PromptError, "expected padding=True"),
        ({"text": "a", "truncation": True}, UnsupportedError, "truncation is asked for, which would cut pictures"),
    ],
)
def test_what_cannot_be_prepared(
    auto_processor: TinyGPTVProcessor, call: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        auto_processor(**call)


def test_what_cannot_be_rendered(auto_processor: TinyGPTVProcessor) -> None:
    unnamed = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hello"}]}]
    assert "<ImageHere>" in auto_processor.apply_chat_template(unnamed)
    with pytest.raises(PromptError, match="an image part names no picture"):
        auto_processor.apply_chat_template(unnamed, tokenize=True)
    with pytest.raises(PromptError, match="uses itself; expected text without it"):
        auto_processor.apply_chat_template(question("a ### b"))
    with pytest.raises(PromptError, match="role is 'tool', expected 'system', 'user' or 'assistant'"):
        auto_processor.apply_chat_template([{"role": "tool", "content": "x"}])
    with pytest.raises(UnsupportedError, match="tools is given"):
        auto_processor.apply_chat_template(question("hello"), tools=[{"name": "x"}])
    with pytest.raises(InvalidArgumentError, match="the nearest is 'task'"):
        auto_processor.apply_chat_template(question("hello"), tasks="vqa")


def test_directories_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no config.json; expected a directory written by 'tinygptv convert'"
    ):
        TinyGPTVProcessor.from_pretrained(tmp_path)
    with pytest.raises(InvalidArgumentError, match="pretrained_model_name_or_path is int, expected a directory"):
        TinyGPTVProcessor.from_pretrained(5)
    with pytest.raises(InvalidArgumentError, match="no argument 'revisio'; the nearest is 'revision'"):
        TinyGPTVProcessor.from_pretrained("demo", revisio="main")
