"""Runs that are killed and go on, records that cannot be used, and what the reports say."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinygptv_fast.config import TextConfig
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.evaluate import page, plots
from tinygptv_fast.evaluate.answers import FILE, AnswerFile
from tinygptv_fast.evaluate.comparison import compare, read_report
from tinygptv_fast.evaluate.paper import read_paper
from tinygptv_fast.evaluate.question import Given
from tinygptv_fast.evaluate.records import Files
from tinygptv_fast.evaluate.report import write_reports
from tinygptv_fast.evaluate.run import TOGETHER, Run, Settings, evaluate, language_parameters
from tinygptv_fast.evaluate.sets import get_benchmark
from tinygptv_fast.evaluate.world import export_world
from tinygptv_fast.generate import TinyGPTV

GQA = get_benchmark("gqa")
COUNT = 3 * TOGETHER

# Kills itself for real, in the middle of writing the answers of the second batch.
_KILLED = """
import os, signal, sys
from tinygptv_fast.cli import main
from tinygptv_fast.evaluate.answers import AnswerFile

append, calls = AnswerFile.append, []

def killed(self, answers):
    calls.append(len(answers))
    if len(calls) == 2:
        first = dict(list(answers.items())[:3])
        append(self, first)
        with self._path.open("a") as handle:
            handle.write('{"id": "begun", "te')
            handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, answers)

AnswerFile.append = killed
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "gqa"
    export_world("gqa", folder, COUNT, 2)
    return folder


def data_of(folder: Path) -> Files:
    return Files(folder / "testdev_balanced_questions.json", folder / "images")


@pytest.fixture(scope="module")
def finished(drawn: Path, demo: TinyGPTV, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    write_reports(evaluate(demo, GQA, GQA.read(data_of(drawn)), Settings("plain"), out), out)
    return out


def without_cost(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    assert report.pop("cost").keys() == {"seconds", "words", "seconds_per_word", "peak_memory_bytes"}
    return report


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / FILE).read_text().splitlines()[1:]]


@pytest.mark.timeout(1200)
def test_after_a_kill_the_rest_is_asked_and_the_report_is_the_same(
    drawn: Path, finished: Path, demo: TinyGPTV, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    files = data_of(drawn)
    command = ["eval", "gqa", "--data", files.data, "--images", files.images, "--model", "demo", "--out", out]
    more = ["--protocol", "plain", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, *map(str, command), *more], capture_output=True, text=True, timeout=1000
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = (out / FILE).read_text()
    assert len(before.splitlines()) == 1 + TOGETHER + 3 + 1 and not before.endswith("\n")
    assert not (out / "report.json").exists()

    asked: list[int] = []
    real = TinyGPTV.generate_batch

    def counted(self: TinyGPTV, requests: Any, **settings: Any) -> Any:
        asked.append(len(requests))
        return real(self, requests, **settings)

    monkeypatch.setattr(TinyGPTV, "generate_batch", counted)
    run = evaluate(demo, GQA, GQA.read(files), Settings("plain"), out)
    write_reports(run, out)
    assert run.known == TOGETHER + 3 and sum(asked) == COUNT - TOGETHER - 3
    kept = before[: before.rindex("\n") + 1]
    assert (out / FILE).read_text().startswith(kept)
    assert sorted(ids(out)) == sorted(ids(finished)) and len(set(ids(out))) == COUNT
    assert without_cost(out) == without_cost(finished)
    for name in ("report.md", "report.html"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()

    asked.clear()
    again = evaluate(demo, GQA, GQA.read(files), Settings("plain"), out)
    assert again.known == COUNT and asked == []
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_bad_pictures_are_named_and_the_rest_goes_on(demo: TinyGPTV, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    export_world("gqa", folder, 6, 4)
    (folder / "images" / "1.jpg").write_bytes(b"no picture")
    (folder / "images" / "2.jpg").unlink()
    rows = json.loads((folder / "testdev_balanced_questions.json").read_text())
    rows["3"]["question"] = "what ### is this?"
    rows["4"]["question"] = "word " * 2000
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(rows))
    files, out = data_of(folder), tmp_path / "run"
    run = evaluate(demo, GQA, GQA.read(files), Settings("plain"), out)
    report = write_reports(run, out)
    assert report["answered"] == 2 and report["questions"] == 5 and report["data"]["records"] == 6
    assert report["skipped"]["count"] == 4
    said = {row["where"].rsplit("'", 2)[1]: row["why"] for row in report["skipped"]["records"]}
    assert sorted(said) == ["1", "2", "3", "4"]
    assert said["1"].startswith("its picture cannot be read: ") and "1.jpg" in said["1"]
    assert said["2"].endswith("2.jpg does not exist")
    assert "'###'" in said["3"] and said["4"].startswith("it cannot be asked: the prompt is ")
    assert all(text in (out / "report.md").read_text() for text in ("cannot be read", "does not exist"))

    export_world("gqa", tmp_path / "again", 6, 4)  # the broken picture is repaired: another run asks for it alone
    (folder / "images" / "1.jpg").write_bytes((tmp_path / "again" / "images" / "1.jpg").read_bytes())
    repaired = evaluate(demo, GQA, GQA.read(files), Settings("plain"), out)
    assert repaired.known == 2 and len(repaired.answers) == 3

    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InvalidArgumentError, match=r"none of 5 questions could be asked, the first: .*question '0'"):
        evaluate(demo, GQA, GQA.read(files), Settings("plain"), tmp_path / "none")


def test_answers_of_something_else_are_refused(drawn: Path, finished: Path, demo: TinyGPTV, tmp_path: Path) -> None:
    data = GQA.read(data_of(drawn))
    out = tmp_path / "run"
    out.mkdir()
    text = (finished / FILE).read_text()
    head, *lines = text.splitlines(keepends=True)
    other = json.loads(head)
    cases = {
        "holds answers of other settings": head.replace('"plain"', '"paper"') + "".join(lines),
        "holds answers of other model": head.replace(other["model"], "0" * 64) + "".join(lines),
        "holds answers of other data": head.replace(other["data"], "0" * 64) + "".join(lines),
        "whose line 1 is no answer": "hello\n",
        "is no file of evaluation answers": '{"kind": "answer"}\n',
        "is a second answer to it": text + lines[0],
        "an answer to no question of the data": text
        + lines[0].replace(f'"{json.loads(lines[0])["id"]}"', '"nobody"', 1),
        "whose line 3 is no answer": head + lines[0] + '{"id": "x", "text": 3}\n',
        "whose line 2 is no answer": head + lines[0].replace('"seconds": ', '"seconds": 1e999, "x": '),
    }
    for message, content in cases.items():
        (out / FILE).write_text(content)
        with pytest.raises(InvalidArgumentError, match=message) as error:
            evaluate(demo, GQA, data, Settings("plain"), out)
        assert "expected a new --out" in str(error.value) and (out / FILE).read_text() == content
    with pytest.raises(InvalidArgumentError, match="protocol is 'mine', expected one of paper, plain"):
        Settings("mine")
    with pytest.raises(InvalidArgumentError, match="template is 'raw', expected one that says where"):
        Settings("paper", "raw")


def test_two_runs_do_not_share_a_folder(drawn: Path, finished: Path, demo: TinyGPTV) -> None:
    holder = os.open(finished, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    before = (finished / FILE).read_bytes()
    with pytest.raises(InvalidArgumentError, match="where another evaluation runs"):
        evaluate(demo, GQA, GQA.read(data_of(drawn)), Settings("plain"), finished)
    os.close(holder)
    assert evaluate(demo, GQA, GQA.read(data_of(drawn)), Settings("plain"), finished).known == COUNT
    assert (finished / FILE).read_bytes() == before


def test_the_answer_file_keeps_every_text(tmp_path: Path) -> None:
    given = {"a\u2028b 猫": Given('x\n"\u0085\u2028 {<1>} 😀', {"é": -1.5}, 0.25, 3), "empty": Given("")}
    AnswerFile(tmp_path / "x.jsonl", {"set": "é"}, frozenset(given)).append(given)
    assert AnswerFile(tmp_path / "x.jsonl", {"set": "é"}, frozenset(given)).known == given
    whole = (tmp_path / "x.jsonl").read_bytes()
    for cut in range(len(whole)):  # a kill at any byte
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        file = AnswerFile(path, {"set": "é"}, frozenset(given))
        file.append({id: one for id, one in given.items() if id not in file.known})
        assert AnswerFile(path, {"set": "é"}, frozenset(given)).known == given


class _Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def crafted(tmp_path: Path, count: int, text: str) -> Run:
    """A run on RefCOCO with one answer for every question: no model needed."""
    chosen, name = get_benchmark("refcoco"), "COCO_train2014_000000000001"
    (tmp_path / "images").mkdir(exist_ok=True)
    Image.new("RGB", (640, 480), "white").save(tmp_path / "images" / f"{name}.jpg")
    row = {"img_id": name, "sents": text, "bbox": [64, 96, 320, 288], "width": 640, "height": 480}
    (tmp_path / "set.json").write_text(json.dumps([row] * count))
    data = chosen.read(Files(tmp_path / "set.json", tmp_path / "images"))
    wrong, right = "{<70><70><99><99>}", "{<10><20><60><80>}"
    answers = tuple((q, Given(right if i % 2 else text + wrong)) for i, q in enumerate(data.questions))
    model = {"model_id": "0" * 64, "adapter": None, "dtype": "int4", "kv_dtype": "int8", "device": "cpu"}
    return Run(chosen, data, Settings(), {**model, "language_parameters": 2_780_000_000}, answers, data.skipped, 0)


def test_the_page_escapes_everything_and_shows_the_wrong_first(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script> & \"q\" | `a` \x00\x1b[2J <img src=http://evil/>"
    count = page.PICTURES + 10
    report = write_reports(crafted(tmp_path, count, nasty), tmp_path)
    text = (tmp_path / "report.html").read_text()
    seen = _Tags()
    seen.feed(text)
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "iframe", "object"})
    images = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(images) == page.PICTURES and all((one["src"] or "").startswith("data:image/") for one in images)
    assert "default-src 'none'" in text and "http://evil" not in [one.get("src") for one in images]
    assert "<script>alert('x')</script> & \"q\" | `a` \\x00\\x1b[2J <img src=http://evil/>" in seen.text
    cards = [attributes["class"] for tag, attributes in seen.tags if (attributes.get("class") or "").startswith("card")]
    cards = [one for one in cards if one != "cards"]
    assert cards == ["card wrong"] * (count // 2) + ["card"] * (page.PICTURES - count // 2)
    assert len(text) < page.PICTURES * 20_000
    markdown = (tmp_path / "report.md").read_text()
    assert "<script>" not in markdown and "\\| \\`a\\`" in markdown
    assert report["figures"][0]["value"] == 50.0 and report["figures"][0]["measure"] == "accuracy at IoU 0.5"


def test_a_picture_that_has_gone_is_said_to_have(tmp_path: Path) -> None:
    run = crafted(tmp_path, 2, "x")
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    write_reports(run, tmp_path)
    assert (tmp_path / "report.html").read_text().count("can no longer be read") == 2


# -- the comparison ----------------------------------------------------------------------------------------------------
def test_the_papers_tables() -> None:
    paper = read_paper()
    rows = {one.model: one for one in paper.models}
    ours = rows["TinyGPT-V (Phi-2)"]
    assert ours.accuracies == {"GQA": 38.9, "VSR": 54.7, "IconVQ": 44.7, "VizWiz": 37.8, "HM": 54.0}
    assert ours.average == pytest.approx(sum(ours.accuracies.values()) / 5, abs=0.01)
    assert (ours.seconds_per_word, ours.memory_gb) == (0.067, 5.6)
    assert rows["InstructBLIP"].average == pytest.approx(sum(rows["InstructBLIP"].accuracies.values()) / 5, abs=0.02)
    assert rows["InstructBLIP"].memory_gb is None  # it is not in the efficiency table
    assert paper.grounding["refcoco"] == {"val": 6.03, "testA": 6.75, "testB": 5.36}


def test_sizes_are_those_of_phi_2() -> None:
    """2,779,683,840 is what transformers counts for microsoft/phi-2; this model's norms are the paper's on top."""
    sizes = {"width": 2560, "layers": 32, "heads": 32, "head_dim": 80, "rotary_dims": 32, "mlp_width": 10240}
    text = TextConfig(**sizes, vocab_size=51200, max_positions=2048, qk_norm=False, post_attention_norm=False)
    assert language_parameters(text) == 2_779_683_840
    own = dataclasses.replace(text, qk_norm=True, post_attention_norm=True)
    assert language_parameters(own) - language_parameters(text) == 32 * (4 * 80 + 2560)


def test_a_run_stacks_up_against_the_paper(finished: Path, drawn: Path, demo: TinyGPTV, tmp_path: Path) -> None:
    run = evaluate(demo, GQA, GQA.read(data_of(drawn)), Settings("plain"), finished)
    report = write_reports(run, finished, comparison=True)
    rows = [row for row in report["comparison"]["rows"] if row["measured"]]
    assert [row["measured"] for row in rows] == ["paper-compatible", "strict"]
    by_scorer = {figure["scorer"]: figure["value"] for figure in report["figures"]}
    assert all(row["accuracies"] == {"GQA": by_scorer[row["measured"]]} and row["average"] is None for row in rows)
    of = (
        f"This run, GQA: {COUNT} questions of testdev_balanced_questions.json (sha256 {report['data']['sha256'][:16]})."
    )
    assert any(note.startswith(of) for note in report["comparison"]["notes"])
    assert rows[0]["size"] == report["model"]["language_parameters"] / 1e9 and rows[0]["memory_gb"] > 0.05
    with Image.open(finished / "comparison.png") as plot:
        assert plot.format == "PNG" and plot.width > 1000 and len(set(plot.convert("L").resize((64, 24)).tobytes())) > 2
    html, markdown = ((finished / name).read_text() for name in ("report.html", "report.md"))
    assert "data:image/png;base64," in html and "InstructBLIP" in html
    assert "| TinyGPT-V \\(Phi-2\\) | 2.8 | 38.9 | 54.7 | 44.7 | 37.8 | 54 | 46.02 | 0.067 | 5.6 |" in markdown

    # two sets of one model and protocol share their rows; the speed is that of all words
    other = {**read_report(finished), "set": "vsr"}
    both = compare([read_report(finished), other])
    assert [set(row.accuracies) for row in both.rows if row.measured] == [{"GQA", "VSR"}] * 2
    other["model"] = {**other["model"], "model_id": "1" * 64}
    assert len([row for row in compare([read_report(finished), other]).rows if row.measured]) == 4
    write_reports(evaluate(demo, GQA, GQA.read(data_of(drawn)), Settings("plain"), finished), finished)


def test_refcoco_has_no_column_but_a_note(tmp_path: Path) -> None:
    report = write_reports(crafted(tmp_path, 4, "x"), tmp_path, comparison=True)
    assert not [row for row in report["comparison"]["rows"] if row["measured"]]
    assert "val 6.03, testA 6.75, testB 5.36" in report["comparison"]["notes"][-1]
    assert not (tmp_path / "comparison.png").exists()


def test_reports_of_something_else_are_refused(tmp_path: Path) -> None:
    for content in (
        "[]",
        '{"kind": "evaluation"}',
        '{"kind":"evaluation","set":"gqa","model":{},"figures":[],"cost":{}}',
    ):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(InvalidArgumentError, match=r"report\.json is n"):
            read_report(tmp_path)
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        read_report(tmp_path / "nowhere")


def test_without_matplotlib_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedError, match="--compare needs matplotlib"):
        plots.check_available()
