"""compat.conversation: the prompts the original's conversation object builds (golden text.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.compat.conversation import CONVERSATIONS, Conversation, new_conversation

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/golden/text.json").read_text())
NAMES = {
    "CONV_VISION_Vicuna0 (demo.py, pretrain_vicuna0)": "vicuna0",
    "CONV_VISION_LLama2 (demo.py, pretrain_llama2)": "llama2",
    "CONV_VISION_minigptv2 (eval_*.py)": "minigptv2",
    "CONV_VISION (demo_v2.py)": "inst",
}


def test_templates() -> None:
    assert set(NAMES) == set(GOLDEN["templates"]) and set(NAMES.values()) == set(CONVERSATIONS)
    for long_name, row in GOLDEN["templates"].items():
        system, roles, sep = CONVERSATIONS[NAMES[long_name]]
        assert (system, list(roles), sep) == (row["system"], row["roles"], row["sep"])
        assert row["sep2"] is None and row["style"] == "SINGLE"


@pytest.mark.parametrize("row", GOLDEN["chat_prompts"][:-1], ids=lambda row: f"{NAMES[row['template']]}-{row['image']}")
def test_chat_prompts(row: dict[str, Any]) -> None:
    conversation = new_conversation(NAMES[row["template"]])
    if row["image"]:
        conversation.add_image()
    prompts = []
    for question, answer in row["turns"]:
        conversation.ask(question)
        conversation.begin_answer()
        prompts.append(conversation.prompt())
        if answer is not None:
            conversation.finish_answer(answer)
    assert prompts == row["prompts"]


def test_two_images() -> None:
    row = GOLDEN["chat_prompts"][-1]
    assert row["template"] == "CONV_VISION_Vicuna0 two images"
    conversation = new_conversation("vicuna0")
    for question, answer in (("first", "ok"), ("second", None)):
        conversation.add_image()
        conversation.ask(question)
        conversation.begin_answer()
        if answer:
            conversation.finish_answer(answer)
    assert [conversation.prompt()] == row["prompts"]


def test_separator_two() -> None:
    row = GOLDEN["separator_two"]
    conversation = Conversation(row["system"], tuple(row["roles"]), row["sep"], row["sep2"])
    for index, text in enumerate(row["messages"]):
        conversation.messages.append((row["roles"][index % 2], text))
    assert conversation.prompt() == row["prompt"]


@pytest.mark.parametrize("row", GOLDEN["demo_v2_prompts"], ids=lambda row: row["user"])
def test_demo_v2(row: dict[str, Any]) -> None:
    conversation = new_conversation("inst")
    conversation.add_image()
    conversation.ask(row["user"])
    conversation.begin_answer()
    assert conversation.prompt() == row["prompt"]


def test_chat_prompts_of_the_model_runs(golden_dir: Path) -> None:
    names = {"vicuna": "vicuna0", "inst": "inst"}
    for case in ("A_stage1", "A_stage3", "B_stage4"):
        chat = json.loads((golden_dir / f"golden/{case}.json").read_text())["chat"]
        conversation = new_conversation(names[chat["conversation"]])
        conversation.add_image()
        for turn in chat["turns"]:
            conversation.ask(turn["question"])
            conversation.begin_answer()
            assert conversation.prompt() == turn["prompt"]
            conversation.finish_answer(turn["answer"])


def test_quirks() -> None:
    conversation = new_conversation("minigptv2")
    conversation.add_image()
    conversation.add_image()
    conversation.ask("where?")  # joins the second picture only
    assert conversation.prompt() == "###Human: <Img><ImageHere></Img>###Human: <Img><ImageHere></Img> where?###"
    empty = new_conversation("minigptv2")
    empty.ask("")  # rendered as if it were still to come
    empty.begin_answer()
    assert empty.prompt() == "###Human: Assistant: "
