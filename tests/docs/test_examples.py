"""Every script of examples/ runs as it stands, and does what it says."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_script_has_a_test() -> None:
    elsewhere = ["drop_in_transformers.py", "pipeline_transformers.py"]  # tests/hf: they need transformers
    elsewhere.append("ray_caption.py")  # test_ray_example.py: it starts a cluster
    assert SCRIPTS == sorted([*elsewhere, "grounding_to_coco.py", "quickstart.py", "streaming_asyncio.py"])


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
