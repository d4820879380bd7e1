"""Data sets on disk in their own forms, and the demo model loaded once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tinygptv_fast.evaluate.question import DataSet
from tinygptv_fast.evaluate.records import Files
from tinygptv_fast.evaluate.sets import get_benchmark
from tinygptv_fast.generate import TinyGPTV


@pytest.fixture(scope="session")
def demo() -> Iterator[TinyGPTV]:
    """The shipped model. What exactly it answers must not matter."""
    with TinyGPTV.from_pretrained("demo", threads=1) as model:
        yield model


class Place:
    """A folder with pictures and annotation files, and what a set's reader makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir()

    def picture(self, *names: str) -> None:
        for name in names:
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), "white").save(path)

    def json(self, name: str, value: Any) -> Path:
        path = self.folder / name
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return path

    def lines(self, name: str, *rows: Any) -> Path:
        path = self.folder / name
        text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        return path

    def files(self, data: Path, annotations: Path | None = None) -> Files:
        return Files(data, self.folder / "images", annotations)

    def read(self, name: str, data: Path, annotations: Path | None = None) -> DataSet:
        return get_benchmark(name).read(self.files(data, annotations))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
