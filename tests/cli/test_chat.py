"""``tinygptv chat``: questions and commands from a pipe and from a terminal."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.generate import TinyGPTV

CHAT = ("--model", "demo", "--threads", "1", "--max-new-tokens", "16")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    picture = draw(arrange("red circle left of blue star", 5), 128)
    picture.save(tmp_path / "picture.png")
    draw(arrange("green ring", 5), 128).save(tmp_path / "ring.png")
    monkeypatch.chdir(tmp_path)
    return picture


@pytest.fixture(scope="module")
def demo() -> Iterator[TinyGPTV]:
    with TinyGPTV.from_pretrained("demo", threads=1) as model:
        yield model


def test_lines_of_a_pipe_are_questions(run, scene: Image.Image, demo: TinyGPTV) -> None:
    lines = "How many things are there?\n\nwhat colour is the circle?\n/image ring.png\nand here?\n/history\n"
    done = run("chat", "picture.png", "--task", "vqa", *CHAT, stdin=lines.encode())
    assert done.code == 0, done
    chat = demo.chat(scene, max_new_tokens=16)
    first = chat.ask("How many things are there?", task="vqa")
    second = chat.ask("what colour is the circle?", task="vqa")
    third = chat.ask("and here?", task="vqa", image="ring.png")
    said = done.out.splitlines()
    assert [said[0], said[1]] == [first.text, second.text] and third.text in done.out
    assert said[-6:-4] == ["user: [picture] [vqa] How many things are there?", f"assistant: {first.text}"]
    assert said[-2] == "user: [picture] [vqa] and here?" and done.err == "ring.png comes with the next question\n"


def test_json_lines_saving_and_going_on(run, scene: Image.Image, tmp_path: Path) -> None:
    lines = (
        "How many things are there?\n/save talk.json\n/reset\n/history\n/new ring.png\nwhat is it?\n//odd\n/quit\nno"
    )
    done = run("chat", "picture.png", "--json", *CHAT, stdin=lines.encode())
    assert done.code == 0, done
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert len(answers) == 3 and all(answer["schema_version"] == 1 for answer in answers)
    assert answers[1]["usage"]["image"] == answers[0]["usage"]["image"]
    again = run("chat", "--load", "talk.json", *CHAT[:4], stdin=b"/history\n")
    assert again.code == 0 and again.out.startswith("user: [picture] How many things are there?\nassistant: ")
    # What this command gives goes before what the saved conversation had, and what it does not give stays.
    question = b"How many things are there?\n"
    longer, short = (
        json.loads(run("chat", "--load", "talk.json", "--json", *CHAT[:4], *more, stdin=question).out)["usage"]
        for more in ((), ("--max-new-tokens", "1"))
    )
    assert short["generated"] == 1 < longer["generated"] <= 16
    assert run("chat", "picture.png", *CHAT, stdin=b"/help\n").out.startswith("  /image FILE")


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (("chat", "picture.png"), "", "chat needs --model"),
        (("chat", "-", *CHAT), "", "image is -, but chat reads its questions"),
        (("chat", "nowhere.png", *CHAT), "", "nowhere.png"),
        (("chat", "--load", "nowhere.json", *CHAT), "", "--load is nowhere.json, which does not exist"),
        (("chat", "picture.png", "--load", "picture.png", *CHAT), "", "--load brings its own picture"),
        (("chat", "--load", "picture.png", *CHAT), "", "picture.png is not a chat file"),
        (("chat", "picture.png", "--task", "sing", *CHAT), "", "task is 'sing'"),
        (("chat", "--system", "x", *CHAT), "", "system is given, which template"),
        (("chat", *CHAT), "/sing\n", "/sing is no command, expected one that /help lists"),
        (("chat", *CHAT), "/image\n", "/image stands alone, expected a picture file"),
        (("chat", *CHAT), "/image nowhere.png\n", "nowhere.png"),
        (("chat", *CHAT), "what is ### ?\n", "text contains '###'"),
        (("chat", *CHAT), "/save no/such/folder.json\n", "no/such"),
    ],
)
def test_bad_chats(run, scene: Image.Image, args: tuple[str, ...], stdin: str, words: str) -> None:
    done = run(*args, stdin=stdin.encode())
    assert (done.code, done.out) == (2, "") and done.err.count("\n") == 1, done
    assert words in done.err


def test_on_a_terminal_errors_and_ctrl_c_do_not_end_it(
    capsys: pytest.CaptureFixture[str], scene: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinygptv_fast.cli import main
    from tinygptv_fast.generate import Chat

    lines = iter(["/sing", "stop me", "what is it?", "/quit"])
    real = Chat.stream

    def stream(self: Chat, text: str, **settings: Any) -> Any:
        if text == "stop me":
            raise KeyboardInterrupt
        return real(self, text, **settings)

    monkeypatch.setattr(Chat, "stream", stream)
    monkeypatch.setattr(builtins, "input", lambda prompt: next(lines))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["chat", "picture.png", *CHAT]) == 0
    done = capsys.readouterr()
    assert done.out.strip() and "error: /sing is no command" in done.err and "(stopped;" in done.err
    assert "ask away" in done.err

    def interrupted(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtins, "input", interrupted)
    assert main(["chat", "picture.png", *CHAT]) == 130

    def ended(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(builtins, "input", ended)
    assert main(["chat", "picture.png", *CHAT]) == 0
