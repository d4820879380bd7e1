"""Every script of examples/ runs as it stands, and does what it says."""

from __future__ import annotations

import abc
import json
import re
import runpy
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
TAUGHT = ("camera_loop.py", "drop_in_original.py", "folder_search.py", "kiosk_deadline.py")  # with a --help


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_script_has_a_test() -> None:
    elsewhere = ["drop_in_transformers.py", "pipeline_transformers.py"]  # tests/hf: they need transformers
    elsewhere.append("ray_caption.py")  # test_ray_example.py: it starts a cluster
    here = ["grounding_to_coco.py", "lmms_eval_model.py", "quickstart.py", "streaming_asyncio.py"]
    assert SCRIPTS == sorted([*elsewhere, *here, *TAUGHT])


def test_quickstart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run("quickstart.py", monkeypatch)
    out = capsys.readouterr().out
    assert re.match(r"2  \(probability [01]\.\d\d, \d+ ms\)\n", out) and "the red circle: [" in out
    assert re.search(r"  red: [01]\.\d{3}\n", out) and not list(tmp_path.iterdir())


def test_streaming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "white.png"
    Image.new("RGB", (90, 60), "white").save(picture)
    run("streaming_asyncio.py", monkeypatch, str(picture))
    out = capsys.readouterr().out
    assert all(f"[caller {number}] " in out for number in range(3)) and "the request is gone; running now: " in out


def test_grounding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run("grounding_to_coco.py", monkeypatch, str(tmp_path / "found"))
    coco = json.loads((tmp_path / "found" / "coco.json").read_text())
    assert [image["id"] for image in coco["images"]] == [1, 2, 3] and len(coco["categories"]) == 3
    rows = coco["annotations"]
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1)) and rows
    assert all(0 < row["score"] <= 1 and row["area"] > 0 for row in rows)
    with Image.open(tmp_path / "found" / "0.boxes.png") as drawn, Image.open(tmp_path / "found" / "0.png") as plain:
        assert drawn.size == plain.size and drawn.convert("RGB").tobytes() != plain.convert("RGB").tobytes()


@pytest.mark.parametrize("name", TAUGHT)
def test_help_is_the_scripts_own_text(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name, monkeypatch, "--help")
    assert ended.value.code == 0 and f"Run: python examples/{name}" in capsys.readouterr().out


def test_drop_in_for_the_original(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("drop_in_original.py", monkeypatch)
    out = capsys.readouterr().out
    assert len(re.findall(r"^chat: .+ -> ", out, re.MULTILINE)) == 2 and "\nstreamed: " in out
    assert len(re.findall(r" \([1-9]\d* ids\)$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^generate: .+ -> ", out, re.MULTILINE)) == 2
    ranked = re.search(r"^multi_select.*: (\[\[.*\]\])$", out, re.MULTILINE)
    assert ranked is not None and [sorted(row) for row in json.loads(ranked[1])] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(("deadline_ms", "cut"), [("0.01", 4), ("600000", 0)])
def test_kiosk(deadline_ms: str, cut: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("kiosk_deadline.py", monkeypatch, "--deadline-ms", deadline_ms, "--visitors", "2")
    out = capsys.readouterr().out
    assert f"4 answers, {cut} cut by the deadline" in out
    assert out.count("(nothing yet) ...  [deadline") == cut and "the last one stays for the rest: " in out


def test_camera_counts_every_frame_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("camera_loop.py", monkeypatch, "--fps", "200")
    out = capsys.readouterr().out
    counts = re.search(r"^(\d+) frames: (\d+) gated, (\d+) dropped as stale, (\d+) answered$", out, re.MULTILINE)
    assert counts is not None
    frames, gated, dropped, answered = map(int, counts.groups())
    assert (frames, gated, dropped + answered) == (24, 21, 3)  # three scenes, each still for eight frames
    assert len(re.findall(r"^frame \d+: ", out, re.MULTILINE)) == answered and "frame 17: " in out  # the newest


def test_camera_parts() -> None:
    parts = runpy.run_path(str(EXAMPLES / "camera_loop.py"))
    place = parts["Newest"]()
    for number in (1, 2, 3):
        place.put((number, Image.new("RGB", (8, 8))))
    place.end()
    assert place.take()[0] == 3 and place.dropped == 2 and place.take() is None
    gate = parts["ChangeGate"](0.1)
    grey = [Image.new("L", (8, 8), level) for level in (0, 20, 40, 255, 255)]  # 40 differs from 0, 20 from neither
    assert [gate.passes(frame) for frame in grey] == [True, False, True, True, False] and gate.gated == 2


def test_a_camera_that_breaks_ends_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="the camera failed: cannot identify image file"):
        run("camera_loop.py", monkeypatch, str(tmp_path))


def test_folder_search_sees_each_picture_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, scene in enumerate(("red circle", "two plain hearts", "green ring")):
        draw(arrange(scene, number), 96).save(tmp_path / f"{number}.png")

    def search(*words: str) -> tuple[str, list[str]]:
        run("folder_search.py", monkeypatch, str(tmp_path), *words)
        first, *found = capsys.readouterr().out.splitlines()
        scores = [float(line.split()[0]) for line in found[-3:]]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
        return first, found

    first, found = search("a red circle")
    assert first == "3 pictures: 3 seen now, 0 kept from before"
    assert sorted(line.split()[1] for line in found) == ["0.png", "1.png", "2.png"]
    (tmp_path / "2.png").rename(tmp_path / "renamed.png")  # the content is what counts
    with monkeypatch.context() as patch:
        patch.setattr(tgv.TinyGPTV, "encode_image", None)  # whoever calls it fails
        first, again = search("Is there a heart?", "--question")
    assert first == "3 pictures: 0 seen now, 3 kept from before" and any("renamed.png" in line for line in again)
    state = next((tmp_path / ".tinygptv").iterdir())
    state.write_bytes(state.read_bytes()[:-1])
    first, found = search("a red circle")
    assert first.startswith("seen again: ") and found[0] == "3 pictures: 1 seen now, 2 kept from before"


def test_folder_search_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("folder_search.py", monkeypatch, str(tmp_path), "a cup")
    assert ended.value.code == 2 and "has no pictures, expected files" in capsys.readouterr().err


# -- lmms-eval, which is not installed: its protocol as of 0.7 ---------------------------------------------------------
class _Base(abc.ABC):
    """lmms_eval.api.model.lmms: what it asks of its subclasses and gives them."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass
class _Instance:
    """lmms_eval.api.instance.Instance of a chat task: args are context, doc_to_messages, settings, doc, task, split."""

    args: tuple[Any, ...]


def _adapter() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "lmms_eval_model.py"), run_name="lmms_eval_model")


def test_the_lmms_eval_model_fits_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lmms_eval.api.model")
    module.lmms = _Base  # type: ignore[attr-defined]
    for name in ("lmms_eval", "lmms_eval.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lmms_eval.api.model", module)
    chosen = _adapter()["TinyGPTVFast"]
    assert issubclass(chosen, _Base) and not chosen.is_simple and not chosen.__abstractmethods__
    lmm = chosen(pretrained="demo", batch_size="2", threads=1, device="cpu", max_batch_size=64)
    docs = [
        {"image": draw(arrange("red circle", seed), 96), "question": "What colour is the circle?"} for seed in range(3)
    ]
    lmm.task_dict = {"task": {"test": docs}}

    def messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
        content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": f"[vqa] {doc['question']}"}]
        return [{"role": "user", "content": content}]

    settings = {
        "max_new_tokens": 5,
        "temperature": 0,
        "do_sample": False,
        "top_p": None,
        "num_beams": 1,
        "until": ["\n\n", ""],
    }
    answers = lmm.generate_until([_Instance(("", messages, settings, n, "task", "test")) for n in (2, 0, 1)])
    with lmm.model as model:
        alone = [model.generate(docs[n]["image"], docs[n]["question"], task="vqa", max_new_tokens=5) for n in (2, 0, 1)]
    assert answers == [one.text for one in alone] and all(isinstance(one, str) for one in answers)
    for name in ("loglikelihood", "generate_until_multi_round"):
        with pytest.raises(NotImplementedError, match="answers generate_until tasks"):
            getattr(lmm, name)([])


def test_the_lmms_eval_model_without_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    module = _adapter()
    sampled = {"temperature": 0.5, "top_p": 0.9, "until": "###", "num_beams": 1}
    assert module["decoding"](sampled) == {"max_new_tokens": 256, "stop": ["###"], "temperature": 0.5, "top_p": 0.9}
    assert module["decoding"]({"num_beams": 3}) == {"max_new_tokens": 256, "stop": [], "num_beams": 3}
    with pytest.raises(NotImplementedError, match="part of type 'video', expected text or image"):
        module["_part"]({"type": "video", "url": "x.mp4"})
    with pytest.raises(SystemExit, match="pip install lmms-eval"):
        module["main"]()
