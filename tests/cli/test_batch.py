"""``ask`` over many pictures: a json line each, bad pictures, resuming, Ctrl-C."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.cli import batch
from tinygptv_fast.generate import TinyGPTV

COUNT = 10


@pytest.fixture
def photos(tmp_path: Path, golden_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pictures in ./photos, three of them different."""
    (tmp_path / "photos").mkdir()
    for index in range(COUNT):
        shutil.copy(golden_dir / "images" / f"img{index % 3}.png", tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked(out: Path) -> list[tuple[str, str]]:
    return [(row["image"], row["question"]) for row in rows(out)]


BATCH = ("ask", "photos/*.png", "-q", "where?", "--max-new-tokens", "3", "--out", "answers.jsonl", "--threads", "1")


def test_a_pattern_becomes_a_line_for_each_picture(run, photos: Path, int4_model: Path) -> None:
    done = run(*BATCH, "-q", "why?", "--model", int4_model)
    assert (done.code, done.out) == (0, ""), done
    out = Path("answers.jsonl")
    assert asked(out) == [(f"photos/{index}.png", q) for index in range(COUNT) for q in ("where?", "why?")]
    first = rows(out)[0]
    assert first["schema_version"] == 1 and first["kind"] == "answer" and first["settings"] == {"max_new_tokens": 3}
    with TinyGPTV.from_pretrained(int4_model, threads=1) as model:
        alone = model.generate("photos/0.png", "where?", max_new_tokens=3)
    assert (first["text"], first["token_ids"]) == (alone.text, alone.token_ids)
    before = out.read_bytes()
    again = run(*BATCH, "-q", "why?", "--model", int4_model)
    assert again.code == 0 and f"{2 * COUNT} of {2 * COUNT} answered before" in again.err
    assert out.read_bytes() == before


def test_files_of_a_shell_and_several_questions_on_stdout(run, photos: Path, int4_model: Path) -> None:
    done = run("ask", "photos/0.png", "photos/1.png", "where?", "--max-new-tokens", "2", "--model", int4_model)
    assert done.code == 0 and [json.loads(line)["image"] for line in done.out.splitlines()] == [
        "photos/0.png",
        "photos/1.png",
    ]
    done = run("ask", "photos/0.png", "-q", "a?", "-q", "b?", "--max-new-tokens", "2", "--model", int4_model, "--quiet")
    assert [json.loads(line)["question"] for line in done.out.splitlines()] == ["a?", "b?"] and done.err == ""
    one = run("ask", "photos/0.png", "-q", "a?", "--max-new-tokens", "2", "--model", int4_model)
    assert one.code == 0 and not one.out.startswith("{")


def test_a_bad_picture_has_a_line_and_the_others_their_answers(run, photos: Path, int4_model: Path) -> None:
    (photos / "3.png").write_bytes(b"no picture")
    done = run(*BATCH, "--model", int4_model)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "1 of 10 questions have no answer, the first: image is 'photos/3.png', not a picture" in done.err
    bad = [row for row in rows(Path("answers.jsonl")) if "error" in row]
    assert [row["image"] for row in bad] == ["photos/3.png"] and "text" not in bad[0]
    shutil.copy(photos / "0.png", photos / "3.png")  # and it is asked again
    assert run(*BATCH, "--model", int4_model).code == 0
    assert sorted(asked(Path("answers.jsonl"))) == [(f"photos/{index}.png", "where?") for index in range(COUNT)]
    assert not any("error" in row for row in rows(Path("answers.jsonl")))


def test_an_interrupted_batch_goes_on_where_it_stopped(
    run, photos: Path, int4_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = TinyGPTV.generate_batch, 0

    def interrupted(self: TinyGPTV, *args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(self, *args, **settings)

    monkeypatch.setattr(TinyGPTV, "generate_batch", interrupted)
    done = run(*BATCH, "--model", int4_model)
    assert done.code == 130
    assert done.err.splitlines() == [
        f"tinygptv: {batch.TOGETHER} of {COUNT} answered; the same command goes on with the rest",
        "tinygptv: interrupted",
    ]
    out = Path("answers.jsonl")
    assert len(rows(out)) == batch.TOGETHER
    with out.open("a") as file:
        file.write('{"schema_version": 1, "kind": "ans')  # a line begun when the power went
    calls = 2
    resumed = run(*BATCH, "--model", int4_model)
    assert resumed.code == 0 and f"{batch.TOGETHER} of {COUNT} answered before" in resumed.err
    assert asked(out) == [(f"photos/{index}.png", "where?") for index in range(COUNT)]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("ask", "photos/*.gif", "why?", "--model", "MODEL"), "image is 'photos/*.gif', which matches no file"),
        (("ask", "photos/*.png", "why?", "--model", "MODEL", "--draw", "x.png"), "--draw is given with several"),
        (("ask", "none", "photos/0.png", "why?", "--model", "MODEL"), "image is 'none' among several"),
        (("ask", "-", "why?", "--model", "MODEL", "--out", "x.jsonl"), "image is '-' among several"),
        (("ask", "photos/0.png", "why?", "--model", "MODEL", "--out", "no/x.jsonl"), "--out is no/x.jsonl, but no is"),
        (("ask", "photos/0.png", "why?", "--model", "MODEL", "--out", "photos"), "--out is photos, which is a"),
        (("ask", "photos/*.png", "a ### b", "--model", "MODEL", "--out", "x.jsonl"), "prompt contains '###'"),
        (("ask", "photos/0.png", "why?", "--out", "x.jsonl"), "ask needs --model"),
        (("ask", "photos/0.png", "--model", "MODEL"), "QUESTION is missing"),
        (("ask", "--model", "MODEL"), "Missing argument"),
    ],
)
def test_bad_batches(run, photos: Path, int4_model: Path, args: tuple[str, ...], words: str) -> None:
    done = run(*(int4_model if word == "MODEL" else word for word in args))
    assert (done.code, done.out) == (2, "") and done.err.count("\n") == 1, done
    assert words in done.err


def test_files_of_something_else_are_refused(run, photos: Path, int4_model: Path, exact_model: Path) -> None:
    out = Path("answers.jsonl")
    for content in ("hello\n", '{"a": 1}\n', "[1]\n"):
        out.write_text(content)
        done = run(*BATCH, "--model", int4_model)
        assert done.code == 2 and "whose line 1 is no answer" in done.err and out.read_text() == content
    out.unlink()
    assert run(*BATCH, "--model", int4_model).code == 0
    before = out.read_bytes()
    other = run(*BATCH, "--task", "vqa", "--model", int4_model)
    assert other.code == 2 and "which holds answers of other settings; expected a new file" in other.err
    another = run(*BATCH, "--model", exact_model)
    assert another.code == 2 and "another model" in another.err
    assert out.read_bytes() == before


def test_a_file_whose_name_looks_like_a_pattern(photos: Path) -> None:
    strange = photos / "a[1].png"
    shutil.copy(photos / "0.png", strange)
    assert batch.expand(["photos/a[1].png"]) == ["photos/a[1].png"]
    assert batch.expand(["photos/[01].png", "photos/0.png"]) == ["photos/0.png", "photos/1.png"]
    assert not batch.is_batch(["photos/a[1].png"], ["q"], None)
