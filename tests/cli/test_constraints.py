"""``--boxes``, ``--json-schema``, ``--regex``, ``--choice``, ``--choices``: answers in form, and one line where not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.cli.constraints import MAX_SCHEMA_BYTES, constraints
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

SCHEMA = {
    "type": "object",
    "properties": {"zeal": {"enum": ["much", "little"]}, "colour": {"enum": ["red", "blue"]}},
    "required": ["zeal", "colour"],
    "additionalProperties": False,
}
DEMO = ("--model", "demo", "--threads", "1")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with picture.png and schema.json."""
    draw(arrange("red circle left of blue star", 5), 128).save(tmp_path / "picture.png")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA, indent=2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(result: Any) -> dict[str, Any]:
    assert result.code == 0, result
    out: dict[str, Any] = json.loads(result.out)
    return out


@pytest.mark.parametrize(
    "words",
    [("ask", "picture.png", "Which?"), ("caption", "picture.png"), ("identify", "picture.png", "5,5,60,60")],
    ids=lambda words: words[0],
)
def test_json_by_a_schema(run, place: Path, words: tuple[str, ...]) -> None:
    found = said(run(*words, "--json-schema", "schema.json", "--max-new-tokens", 40, "--json", *DEMO))["json"]
    assert list(found) == ["zeal", "colour"]  # in the order of the schema
    assert found["zeal"] in ("much", "little") and found["colour"] in ("red", "blue")


def test_plain_text_is_the_json_alone(run, place: Path) -> None:
    result = run("ask", "picture.png", "?", "--json-schema", "schema.json", "--quiet", *DEMO)
    assert result.code == 0 and set(json.loads(result.out)) == {"zeal", "colour"} and result.err == ""


@pytest.mark.parametrize("command", ["ask", "caption"])
def test_a_regular_expression(run, place: Path, command: str) -> None:
    question = ["How many?"] if command == "ask" else []
    text = said(run(command, "picture.png", *question, "--regex", "(none|[1-9][0-9]?)!", "--json", *DEMO))["text"]
    assert re.fullmatch("(none|[1-9][0-9]?)!", text)


def test_choices_are_all_scored(run, place: Path) -> None:
    words = ("--choice", "red, or so", "--choices", "green, blue", "--json", *DEMO)
    for command, *question in (("ask", "Which?"), ("caption",), ("identify", "5,5,60,60")):
        answer = said(run(command, "picture.png", *question, *words))
        texts = [answer["text"], *(other["text"] for other in answer["alternatives"])]
        assert sorted(texts) == ["blue", "green", "red, or so"]


@pytest.mark.parametrize("command", ["refer", "ground", "detect"])
def test_boxes_are_lines_of_four_numbers(run, place: Path, command: str) -> None:
    for mode in ("constrained", "free"):
        boxes = said(run(command, "picture.png", "circle", "--boxes", mode, "--json", *DEMO))["boxes"]
        assert isinstance(boxes, list)
    bad = run(command, "picture.png", "circle", "--boxes", "tight", *DEMO)
    assert bad.code == 2 and "--boxes" in bad.err and "constrained" in bad.err


def test_boxes_of_a_description(run, place: Path) -> None:
    held = said(run("describe", "picture.png", "--boxes", "constrained", "--json", *DEMO))
    assert held["text"].count("{") == len(held["boxes"])


def test_a_chat_of_json(run, place: Path) -> None:
    done = run("chat", "picture.png", "--json-schema", "schema.json", "--json", *DEMO, stdin=b"which?\nsure?\n")
    assert done.code == 0, done
    answers = [json.loads(line)["json"] for line in done.out.splitlines()]
    assert len(answers) == 2 and all(list(one) == ["zeal", "colour"] for one in answers)


def test_a_batch_goes_on_with_the_same_schema_only(run, place: Path) -> None:
    batch = ("ask", "picture.png", "-q", "a?", "-q", "b?", "--out", "out.jsonl", *DEMO)
    assert run(*batch, "--json-schema", "schema.json").code == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [list(row["json"]) for row in rows] == [["zeal", "colour"]] * 2
    assert run(*batch, "--json-schema", "schema.json").code == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 2
    other = dict(SCHEMA, properties=dict(reversed(SCHEMA["properties"].items())))  # type: ignore[attr-defined]
    Path("schema.json").write_text(json.dumps(other))
    refused = run(*batch, "--json-schema", "schema.json")
    assert refused.code == 2 and "other settings" in refused.err


EXCLUDING = {
    "schema and regex": (["--json-schema", "schema.json", "--regex", "a"], "--json-schema and --regex are given"),
    "boxes and regex": (["--boxes", "constrained", "--regex", "a"], "--boxes constrained and --regex are given"),
    "boxes and choices": (["--boxes", "constrained", "--choices", "a,b"], "--boxes constrained and --choices"),
    "regex and choice": (["--regex", "a", "--choice", "a", "--choice", "b"], "--regex and --choices are given"),
    "schema, regex, choices": (
        ["--json-schema", "schema.json", "--regex", "a", "--choices", "a,b"],
        "--json-schema and --regex are given, expected one of them",
    ),
    "sampled choices": (["--choices", "a,b", "--temperature", "1"], "--temperature is given with --choices"),
    "seeded choices": (["--choices", "a,b", "--seed", "1"], "--seed is given with --choices"),
    "filtered choices": (["--choices", "a,b", "--top-p", "0.5"], "--top-p is given with --choices"),
    "one choice": (["--choice", "a"], "--choices is ['a'], expected two texts or more"),
    "no choices": (["--choices", ""], "--choices is [''], expected two texts or more"),
    "a hole in the choices": (["--choices", "a,,b"], "none empty"),
    "the same choice": (["--choice", "a", "--choices", "a,b"], "all different"),
    "no regex": (["--regex", ""], "--regex is empty, expected a regular expression"),
    "a bad regex": (["--regex", "("], "regex cannot be used: "),
    "no schema": (["--json-schema", "nowhere.json"], "--json-schema is nowhere.json, which does not exist"),
    "a folder": (["--json-schema", "."], "a directory, expected a file"),
    "a picture": (["--json-schema", "picture.png"], "--json-schema is picture.png, which is not json"),
    "a list": (["--json-schema", "list.json"], "which holds list, expected a JSON schema: an object"),
    "too deep": (["--json-schema", "deep.json"], "--json-schema is deep.json, which is not json"),
    "too large": (["--json-schema", "large.json"], f"expected at most {MAX_SCHEMA_BYTES} bytes"),
    "no such type": (["--json-schema", "odd.json"], "json_schema cannot be used: "),
}


@pytest.mark.parametrize("case", EXCLUDING)
def test_what_excludes_each_other_is_one_line(run, place: Path, case: str) -> None:
    Path("list.json").write_text("[1]")
    Path("deep.json").write_text("[" * 100_000)
    Path("large.json").write_text(" " * (MAX_SCHEMA_BYTES + 1))
    Path("odd.json").write_text('{"type": "thing"}')
    before = sorted(place.iterdir())
    options, words = EXCLUDING[case]
    result = run("ask", "picture.png", "Which?", *options, *DEMO)
    assert result.code == 2 and words in result.err, result
    assert result.err.count("\n") == 1 and result.err.startswith("tinygptv: error: ")
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command", ["caption", "identify", "chat"])
def test_the_other_commands_say_the_same(run, place: Path, command: str) -> None:
    box = ["1,1,9,9"] if command == "identify" else []
    result = run(command, "picture.png", *box, "--json-schema", "schema.json", "--regex", "a", *DEMO)
    assert result.code == 2 and "--json-schema and --regex are given, expected one of them" in result.err


def test_what_is_greedy_or_free_goes_with_choices() -> None:
    settings = constraints(boxes="free", choices="a,b", sampling={"temperature": 0.0, "seed": None})
    assert settings == {"boxes": "free", "choices": ["a", "b"]}
    assert constraints() == {}


def test_answers_that_are_no_boxes_are_not_asked_of_refer(run, place: Path) -> None:
    result = run("refer", "picture.png", "circle", "--regex", "a", *DEMO)
    assert result.code == 2 and "--regex" in result.err
