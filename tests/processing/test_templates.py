"""processing.templates and processing.prompt: every prompt of the original, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.errors import PromptError
from tinygptv_fast.processing import prompt as prompts
from tinygptv_fast.processing.templates import IMAGE_MARKUP, STAGE_TEMPLATES, TEMPLATES, Template, get_template
from tinygptv_fast.processing.tokenizer import Tokenizer

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/golden/text.json").read_text())
NAMES = {
    "CONV_VISION_Vicuna0 (demo.py, pretrain_vicuna0)": "vicuna",
    "CONV_VISION_LLama2 (demo.py, pretrain_llama2)": "vicuna",
    "CONV_VISION_minigptv2 (eval_*.py)": "minigptv2",
    "CONV_VISION (demo_v2.py)": "inst",
}
CHAT = [name for name in TEMPLATES if name != "raw"]


@pytest.mark.parametrize("row", GOLDEN["chat_prompts"][:-1], ids=lambda row: f"{NAMES[row['template']]}-{row['image']}")
def test_chat_prompts(row: dict[str, Any]) -> None:
    template = NAMES[row["template"]]
    turns: list[dict[str, Any]] = []
    rendered = []
    for index, (question, answer) in enumerate(row["turns"]):
        image = [{"type": "image", "image": "a"}] if row["image"] and index == 0 else []
        turns.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        rendered.append(prompts.render_messages(turns, template=template)[0])
        turns.append({"role": "assistant", "content": answer})
    assert rendered == row["prompts"]


def test_chat_prompt_with_two_images() -> None:
    def user(text: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image", "image": text}, {"type": "text", "text": text}]}

    messages = [user("first"), {"role": "assistant", "content": "ok"}, user("second")]
    text, pictures = prompts.render_messages(messages, template="vicuna")
    assert [text] == GOLDEN["chat_prompts"][-1]["prompts"]
    assert pictures == ["first", "second"]


def test_separator_two() -> None:
    row = GOLDEN["separator_two"]
    template = Template(
        "two",
        system=row["system"],
        system_end=row["sep"],
        user=row["roles"][0],
        user_end=row["sep"],
        assistant=row["roles"][1],
        assistant_end=row["sep2"],
    )
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "bye")]
    assert [text for _, text in turns] == row["messages"][:-1]
    assert template.render(turns) == row["prompt"]


@pytest.mark.parametrize("row", GOLDEN["eval_prompts"].values(), ids=list(GOLDEN["eval_prompts"]))
def test_evaluation_prompts(row: dict[str, Any]) -> None:
    assert prompts.render(row["question"], images=1, template="minigptv2") == row["prompt"]


def test_iconqa_prompt() -> None:
    question = GOLDEN["eval_prompts"]["vqa (OKVQA, GQA, IconQA eval)"]["question"]
    assert prompts.render(question, images=1, template="train-stage3") == GOLDEN["eval_prompt_iconqa_multi_select"]


@pytest.mark.parametrize("row", GOLDEN["demo_v2_prompts"], ids=lambda row: row["user"])
def test_demo_v2_prompts(row: dict[str, Any]) -> None:
    assert prompts.render(row["user"], images=1, template="inst") == row["prompt"]


ARGUMENTS = {
    "refer": "the red umbrella on the left",
    "identify": "{<12><7><55><98>}",
    "detection": "the red umbrella on the left",
    "vqa": "what is the man holding in his left hand?",
    "grounding": "",
    "caption": "",
}


def test_training_prompts_of_stage_4() -> None:
    """Template, tag and wording pools together give every training prompt of the original, spaces included."""
    ours = [
        prompts.render(wording.replace("{}", ARGUMENTS[name]), images=1, template="train-stage4", task=name)
        for name, task in prompts.TASKS.items()
        for wording in task.training
    ]
    assert sorted(ours) == sorted(row["wrapped"] for row in GOLDEN["train_stage4_prompts"]["rows"])


def test_evaluation_wordings() -> None:
    question, phrase = ARGUMENTS["vqa"], ARGUMENTS["refer"]
    ours = [
        prompts.task_text(name, wording.replace("{}", phrase if "true or false" in wording else ARGUMENTS[name]))
        for name, task in prompts.TASKS.items()
        for wording in task.evaluation
    ]
    ours.append(prompts.HATEFUL_MEMES.format(phrase))
    assert question in ours[0]
    assert sorted(ours) == sorted(row["question"] for row in GOLDEN["eval_prompts"].values())


def test_stage_4_text_only_has_no_extra_space(golden_dir: Path) -> None:
    losses = json.loads((golden_dir / "golden/B_stage4.json").read_text())["losses"]
    for text in losses["loss_stage4_text_only"]["samples"]["instruction_input"]:
        assert prompts.render(text, template="train-stage4") == losses["loss_stage4_text_only"]["attrs"][
            "prompt_template"
        ].format(text)


@pytest.mark.parametrize("case", ["A_stage1", "B_stage4"])
def test_prompt_token_ids(golden_dir: Path, case: str) -> None:
    golden = json.loads((golden_dir / f"golden/{case}.json").read_text())
    tokenizer = Tokenizer.from_file(golden_dir / "phi")
    for name, text in golden["prompts"].items():
        assert prompts.encode_prompt(text, tokenizer) == golden["prompt_token_ids"][name]


def test_segments_are_tokenised_apart_and_may_be_empty(golden_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(golden_dir / "phi")
    assert prompts.split_images("<ImageHere>") == ["", ""]
    assert prompts.encode_prompt("<ImageHere><ImageHere>a", tokenizer) == [[], [], tokenizer.encode("a")]
    apart = prompts.encode_prompt("a <ImageHere> b", tokenizer)
    assert apart == [tokenizer.encode("a "), tokenizer.encode(" b")]
    assert [*apart[0], *apart[1]] != tokenizer.encode("a  b")


CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "why?"}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": 'it\'s "this" \\ \n{{x}}?'}]}],
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and then"}, {"type": "image"}]}],
    [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " a "}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
    [
        {"role": "user", "content": "no picture yet"},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "now"}, {"type": "image"}]},
    ],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}],
]


def jinja(template: Template, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
    """Rendered as transformers does it."""
    jinja2 = pytest.importorskip("jinja2")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    compiled = environment.from_string(template.jinja())
    return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
@pytest.mark.parametrize("name", CHAT)
def test_jinja_equals_the_renderer(name: str, messages: list[dict[str, Any]]) -> None:
    template = TEMPLATES[name]
    if messages[0]["role"] == "system" and not template.accepts_system:
        with pytest.raises(PromptError, match="no place for a system message"):
            prompts.render_messages(messages, template=template)
        with pytest.raises(Exception, match="no place for a system message"):
            jinja(template, messages)
        return
    assert jinja(template, messages) == prompts.render_messages(messages, template=template)[0]


@pytest.mark.parametrize("name", CHAT)
def test_jinja_of_an_answered_conversation(name: str) -> None:
    messages = [*CONVERSATIONS[3], {"role": "assistant", "content": "d"}]
    turns = [("user", IMAGE_MARKUP + "  a "), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert jinja(TEMPLATES[name], messages, False) == TEMPLATES[name].render(turns, add_generation_prompt=False)


def test_jinja_refuses_what_the_renderer_refuses() -> None:
    doubled = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    for name in TEMPLATES:
        with pytest.raises(Exception, match=r"alternate|exactly one"):
            jinja(TEMPLATES[name], doubled)
        with pytest.raises(PromptError):
            prompts.render_messages(doubled, template=name)


def test_raw() -> None:
    text = "<s>[INST] <Img><ImageHere></Img> ### [/INST]"
    assert prompts.render(text, images=1, template="raw") == text
    assert jinja(TEMPLATES["raw"], [{"role": "user", "content": text}]) == text
    assert prompts.render("", template="raw") == ""
    message = [{"role": "user", "content": [{"type": "image", "image": 1}, {"type": "text", "text": text}]}]
    assert prompts.render_messages(message, template="raw") == (text, [1])
    with pytest.raises(PromptError, match="task is 'vqa' with template 'raw'"):
        prompts.render(text, images=1, template="raw", task="vqa")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (0, "prompt has 2 <ImageHere> placeholders but 0 images were given"),
        (1, "prompt has 2 <ImageHere> placeholders but 1 image was given"),
        (3, "prompt has 2 <ImageHere> placeholders but 3 images were given"),
    ],
)
def test_image_count(images: int, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompts.render("<ImageHere> and <ImageHere>", images=images, template="raw")


def test_image_count_of_none() -> None:
    with pytest.raises(PromptError, match="prompt has 0 <ImageHere> placeholders but 1 image was given"):
        prompts.render("hello", images=1, template="raw")
    parts = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(PromptError, match="prompt has 0 <ImageHere> placeholders but 1 image was given"):
        prompts.render_messages(parts, template="raw")


@pytest.mark.parametrize("name", CHAT)
@pytest.mark.parametrize("mark", ["<ImageHere>", "<Img>", "</Img>", "###"])
def test_reserved_strings(name: str, mark: str) -> None:
    with pytest.raises(PromptError, match=f"prompt contains '{mark}'"):
        prompts.render(f"say {mark} please", images=1, template=name)
    messages = [{"role": "user", "content": [{"type": "text", "text": f"x{mark}"}]}]
    with pytest.raises(PromptError, match=r"messages\[0\].content\[0\] contains"):
        prompts.render_messages(messages, template=name)


def test_template_markers_are_refused_where_they_mean_something() -> None:
    with pytest.raises(PromptError, match=r"contains '\[INST\]'"):
        prompts.render("[INST] hi", template="inst")
    with pytest.raises(PromptError, match="contains '<s>'"):
        prompts.render("<s> hi", template="inst")
    assert "[INST] hi" in prompts.render("[INST] hi", template="minigptv2")


@pytest.mark.parametrize("task", list(prompts.TASKS))
def test_tags(task: str) -> None:
    tag = f"[{task}]"
    assert prompts.TASKS[task].tag == tag
    assert prompts.task_text(task, "a cup") == f"{tag} a cup"
    assert prompts.task_text(task, f"{tag} a cup") == f"{tag} a cup"
    other = "vqa" if task != "vqa" else "refer"
    with pytest.raises(PromptError, match=r"prompt begins with"):
        prompts.task_text(task, f"[{other}] a cup")
    if prompts.TASKS[task].needs_text:
        with pytest.raises(PromptError, match="prompt is blank"):
            prompts.task_text(task, " ")
        with pytest.raises(PromptError, match="is blank"):
            prompts.default_question(task, " ")
    else:
        assert prompts.task_text(task, "") == f"{tag} {prompts.TASKS[task].default}"


def test_task_none_changes_nothing() -> None:
    assert prompts.task_text(None, "[vqa]  x ") == "[vqa]  x "
    assert prompts.render("[vqa] x", template="inst") == "<s>[INST] [vqa] x [/INST]"


def test_default_questions() -> None:
    assert prompts.default_question("refer", "the {} cup") == "[refer] give me the location of the {} cup"
    assert prompts.default_question("identify", "{<1><2><3><4>}").endswith("this location {<1><2><3><4>}")
    assert prompts.default_question("caption") == "[caption] please describe this image?"


def test_several_images_of_one_prompt() -> None:
    out = prompts.render("which?", images=2, template="minigptv2", task="vqa")
    assert out == f"###Human: {IMAGE_MARKUP} {IMAGE_MARKUP} [vqa] which?###Assistant: "


def test_interleaved_images(golden_dir: Path) -> None:
    golden = json.loads((golden_dir / "golden/A_stage1.json").read_text())["prompts"]["two_images"]
    parts = [{"type": "image", "path": "a"}, {"type": "text", "text": "and then"}, {"type": "image", "url": "b"}]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "where?"}]}]
    assert prompts.render_messages(messages, template="train-stage3") == (golden, ["a", "b"])


def test_task_on_messages() -> None:
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "image", "image": 0}, {"type": "text", "text": "what is it?"}]},
    ]
    text, _ = prompts.render_messages(messages, template="minigptv2", task="vqa")
    assert text.endswith(f"###Human: {IMAGE_MARKUP} [vqa] what is it?###Assistant: ") and text.count("[vqa]") == 1
    alone = [{"role": "user", "content": [{"type": "image", "image": 0}]}]
    text, _ = prompts.render_messages(alone, template="minigptv2", task="caption")
    assert text == f"###Human: {IMAGE_MARKUP} [caption] please describe this image?###Assistant: "


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hello", "messages is"),
        ([], "messages is"),
        (None, "messages is"),
        ([1], r"messages\[0\] is 1"),
        ([{"role": "user"}], r"messages\[0\] is"),
        ([{"role": "tool", "content": "a"}], r"messages\[0\].role is 'tool'"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content is 5"),
        ([{"role": "user", "content": [{"type": "video"}]}], r"messages\[0\].content\[0\] is"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], r"messages\[0\].content\[0\] is"),
        ([{"role": "user", "content": ["text"]}], r"messages\[0\].content\[0\] is 'text'"),
        ([{"role": "assistant", "content": "a"}], "ends with role 'assistant'"),
        ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}], "turn 0 has role 'assistant'"),
        ([{"role": "system", "content": [{"type": "image"}]}], "image in a system message"),
    ],
    ids=str,
)
def test_malformed_messages(messages: Any, expected: str) -> None:
    with pytest.raises(PromptError, match=expected):
        prompts.render_messages(messages, template="vicuna")


def test_unknown_names() -> None:
    for name in ("Vicuna", "", None, 3):
        with pytest.raises(PromptError, match="expected a Template or one of 'vicuna', 'minigptv2', 'inst'"):
            get_template(name)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="task is 'VQA', expected None or one of 'vqa', 'caption'"):
        prompts.render("x", template="inst", task="VQA")
    with pytest.raises(PromptError, match="prompt is int"):
        prompts.render(3, template="inst")  # type: ignore[arg-type]


def test_system_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
    assert prompts.render_messages(messages, template="vicuna")[0] == "Be brief.###Human: why?###Assistant: "


def test_stop_strings_and_cut() -> None:
    assert {name for name, template in TEMPLATES.items() if template.stop == ("###",)} == {*CHAT} - {"phi"}
    assert TEMPLATES["raw"].stop == () and TEMPLATES["phi"].stop == ("\nInstruct:",)
    assert TEMPLATES["vicuna"].cut(" a dog ###Human: b###") == "a dog"
    assert TEMPLATES["raw"].cut(" a ### b ") == "a ### b"


def test_stages_have_templates() -> None:
    assert all(name in TEMPLATES for name in STAGE_TEMPLATES.values()) and sorted(STAGE_TEMPLATES) == [1, 2, 3, 4]


def test_phi() -> None:
    assert prompts.render("Name a colour.", template="phi") == "Instruct: Name a colour.\nOutput:"
