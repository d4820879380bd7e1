"""The library side of verification: what is compared with the original's files, and by how much it may differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import Tensor

from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.diagnosis.verify import verify_directory, verify_tensors
from tinygptv_fast.diagnosis.weights import OriginalSource


def test_a_fresh_directory_has_no_problems(directory: ModelDirectory) -> None:
    seen: list[tuple[int, int]] = []
    found = verify_directory(directory, lambda done, total, name: seen.append((done, total)))
    assert found.ok and found.problems == [] and found.tensors == len(directory.names())
    assert seen[-1] == (found.tensors, found.tensors)
    assert found.counts()["loaded"] > 0 and found.counts()["folded"] > 0 and found.counts()["dropped"] > 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_every_tensor_is_what_the_files_make(directory: ModelDirectory, originals: OriginalSource) -> None:
    found = verify_tensors(directory, originals)
    assert [check.name for check in found] == directory.names()
    assert all(check.ok for check in found)
    exact = [check for check in found if check.kind == "float32"]
    assert exact and all(check.relative_l2 < 1e-6 for check in exact)


def test_a_tensor_from_elsewhere_is_found_whatever_the_receipt_says(
    directory: ModelDirectory, originals: OriginalSource
) -> None:
    class Other(OriginalSource):
        def tensor(self, name: str) -> Tensor:
            values = super().tensor(name)
            return values.roll(1, 0) if name == "text.layers.2.mlp.fc1.weight" else values

    found = {check.name: check.ok for check in verify_tensors(directory, Other(originals.plan))}
    assert [name for name, ok in found.items() if not ok] == ["text.layers.2.mlp.fc1.weight"]


def copied(directory: ModelDirectory, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory.path, tmp_path / "copy"))


def test_sources_that_do_not_cover_the_model_are_problems(directory: ModelDirectory, tmp_path: Path) -> None:
    path = copied(directory, tmp_path)
    report = json.loads((path / "report.json").read_text())
    gone = next(line for line in report["tensors"] if line.get("target") == "ln_vision.bias")
    report["tensors"].remove(gone)
    report["tensors"].append({**gone, "target": "ln_vision.bios"})
    (path / "report.json").write_text(json.dumps(report))
    problems = verify_directory(path).problems
    assert any("ln_vision.bias has no source" in text for text in problems)
    assert any("ln_vision.bios is named as a target" in text for text in problems)


def test_a_malformed_report_is_a_problem_not_a_crash(directory: ModelDirectory, tmp_path: Path) -> None:
    path = copied(directory, tmp_path)
    for lines in ("x", [1], [{"status": "lost", "file": "a", "tensor": "b"}], [{"status": "loaded"}]):
        (path / "report.json").write_text(json.dumps({"version": 1, "tensors": lines}))
        assert any("malformed" in text for text in verify_directory(path).problems)


def test_pictures_of_another_size_are_a_problem(directory: ModelDirectory, tmp_path: Path) -> None:
    path = copied(directory, tmp_path)
    settings = json.loads((path / "preprocessor_config.json").read_text())
    settings["size"] = {"height": 112, "width": 112}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert any("112 px" in text for text in verify_directory(path).problems)


def test_foreign_files_are_noted(directory: ModelDirectory, tmp_path: Path) -> None:
    path = copied(directory, tmp_path)
    (path / "notes.txt").write_text("mine")
    found = verify_directory(open_directory(path))
    assert found.ok and any("notes.txt" in note for note in found.notes)
