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

from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_script_has_a_test() -> None:
    elsewhere = ["drop_in_transformers.py", "pipeline_transformers.py"]  # tests/hf: they need transformers
    assert SCRIPTS == sorted(
        [*elsewhere, "grounding_to_coco.py", "lmms_eval_model.py", "quickstart.py", "streaming_asyncio.py"]
    )


def test_quickstart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run("quickstart.py", monkeypatch)
    out = capsys.readouterr().out
    assert re.match(r"\S+  \(probability [01]\.\d\d, \d+ ms\)\n", out) and "the red circle: [" in out
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
