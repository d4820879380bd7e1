"""The documentation's own checks: links, the index, README's table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import readme_table

    return readme_table


def test_links_index_and_table() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "check_docs.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_figure_that_nobody_measured_is_noticed(table) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert table.check(text) == []
    row = table.split(text)[1][2]
    assert table.check(text.replace(row, row.replace("MB", "GB"))) != []


def test_a_missing_table_is_noticed(table) -> None:
    before, _, after = table.split((ROOT / "README.md").read_text(encoding="utf-8"))
    assert table.check(before + after) != []


def test_readme_says_plainly_what_is_missing() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Not yet run on the released weights" in text
    assert "Not there yet: the native engine" in text
    assert text.index("download.pytorch.org/whl/cpu") < text.index("make demo\n")  # the CPU-only line first
