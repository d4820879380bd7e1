"""The documentation's own checks: links, the index, README's table."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_a_figure_that_nobody_measured_is_noticed(table, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert table.check(text) == []
    row = table.split(text)[1][2]
    assert table.check(text.replace(row, row.replace("MB", "GB"))) != []


def test_a_figure_of_the_demo_that_its_log_does_not_have_is_noticed(table) -> None:
    import demo_tables

    page = demo_tables.PAGE.read_text(encoding="utf-8")
    assert demo_tables.check(page) == []
    assert demo_tables.check(page.replace("| counting |", "| counting | 500 |", 1)) != []
    with pytest.raises(ValueError):
        demo_tables.written(page.replace("<!-- /minutes -->", ""), demo_tables.log())


def test_a_missing_table_is_noticed(table) -> None:
    before, _, after = table.split((ROOT / "README.md").read_text(encoding="utf-8"))
    assert table.check(before + after) != []


def test_readme_shows_a_part_of_the_page_with_all_figures(table) -> None:
    headlines = table.headlines()
    assert set(headlines) < set(table.newest())
    sections = {row.split(":")[0].removeprefix("| ") for row in headlines if "cpu.jsonl" in row}
    assert sections == {"decode", "prefill", "batch", "ttft", "vision"}


def test_readme_says_plainly_what_is_missing() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Not yet run on the released weights" in text
    assert "no GPU has run them" in " ".join(text.split())
    assert text.index("download.pytorch.org/whl/cpu") < text.index("make demo\n")  # the CPU-only line first


def _line(**changes: object) -> dict[str, object]:
    """A row of ``tinygptv bench`` as its JSON lines have it."""
    fields = {
        "section": "decode", "name": "one sequence, ctx 64", "unit": "tok/s", "median": 25.0, "n": 9, "quick": False,
        "subject": "phi2, random weights", "group": 32, "kv": "int8", "threads": 2, "isa": "avx512vnni",
        "fraction_of_roof": 0.93, "fraction_of_bandwidth": 0.93, "fraction_of_peak": 0.1, "read_gb_per_s": 40.0,
        "peak_gop_per_s": 1900.0, "details": {},
    }  # fmt: skip
    return {**fields, **changes}


def test_the_table_shows_the_last_of_each_figure_of_the_engine(table, tmp_path: Path, monkeypatch) -> None:
    lines = [
        _line(median=20.0),
        _line(),
        _line(median=99.0, quick=True),
        _line(median=None, n=0),
        _line(group=128, median=27.0),
        _line(section="prefill", fraction_of_roof=0.6, fraction_of_peak=0.6, fraction_of_bandwidth=0.1, median=210.0),
        _line(section="kernels"),
    ]
    (tmp_path / "cpu.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    shown = list(dict(table.cpu_rows()).values())
    assert len(shown) == 3
    assert "25.0 tok/s, 93% of the read bandwidth (40.0 GB/s)" in shown[0] and "groups of 32" in shown[0]
    assert "27.0 tok/s" in shown[1] and "groups of 128" in shown[1]
    assert "210.0 tok/s, 60% of int8 in registers (1900 GOP/s)" in shown[2]


def test_the_table_shows_undisturbed_medians_of_the_race(table, tmp_path: Path, monkeypatch) -> None:
    def line(entry: str, metric: str, number: int, value: float, contended: bool = False) -> dict[str, object]:
        return {"entry": entry, "metric": metric, "round": number, "value": value, "contended": contended}

    machine = {"metric": "machine", "cpu": "x"}
    lines = [
        {"entry": "peer", "metric": "accuracy", "kl": 0.01},
        *(machine, line("peer", "decode@64", 1, 90.0)),
        *(machine, line("peer", "decode@64", 1, 2.0, True), line("peer", "decode@64", 1, 20.0)),
        *(line("peer", "decode@64", 2, 22.0), line("peer", "batch8@64", 1, 49.0)),
        *(line("busy", "decode@64", 1, 2.0, True), {"metric": "probe", "entry": "busy", "round": 1}),
    ]
    (tmp_path / "race.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    peer, busy = dict(table.race_rows()).values()
    assert "decode at 64 / 1024: 21.0 / - tok/s; 8 sequences: 49.0 tok/s; KL to float32 0.01" in peer
    assert "decode at 64 / 1024: - / - tok/s" in busy


def test_the_table_shows_ours_over_the_best_peer_of_the_same_round(table, tmp_path: Path, monkeypatch) -> None:
    def line(entry: str, number: int, value: float) -> dict[str, object]:
        return {"entry": entry, "metric": "decode@64", "round": number, "value": value, "contended": False}

    lines = [
        {"metric": "machine", "cpu": "x"},
        *(line("ours-g32", 1, 30.0), line("llamacpp-q4_0", 1, 20.0), line("openvino-g32", 1, 15.0)),
        *(line("ours-g32", 2, 24.0), line("llamacpp-q4_0", 2, 10.0), line("openvino-g32", 2, 12.0)),
        *(line("ours-g32", 3, 40.0), line("llamacpp-q4_0-avx2", 3, 1.0)),  # nobody to be held against
    ]
    (tmp_path / "race.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    (row,) = dict(table.ratio_rows()).values()
    assert "groups of 32" in row and "decode at 64 1.75 (1.50-2.00) times" in row and "of 2 rounds" in row


def test_the_table_shows_the_last_of_each_figure_of_whole_towers(table, tmp_path: Path, monkeypatch) -> None:
    speed = {"figure": "speed", "size": 224, "layers": 39, "threads": 2, "what": "int8", "median_s": 0.5}
    error = {"figure": "error", "size": 224, "layers": 39, "weights": "plain", "arithmetic": "int8", "limit": 0.03}
    lines = [
        {**speed, "ratio_to_eager": 0.7},
        {**speed, "ratio_to_eager": 0.5},
        {**speed, "ratio_to_eager": 0.1, "layers": 5},
        {**speed, "ratio_to_eager": 0.2, "threads": 1},
        {**error, "embeddings": 0.0078},
    ]
    (tmp_path / "vision.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    fast, near = dict(table.vision_rows()).values()
    assert (
        "0.50 s, 0.50 times torch's eager bfloat16" in fast and "0.78% from float32's" in near and "3% allowed" in near
    )


def test_the_table_shows_the_last_of_what_waits(table, tmp_path: Path, monkeypatch) -> None:
    late = {"what": "cancel", "phase": "decode", "count": 40, "model": table._FULL_SIZE, "overshoot_ms_p50": 3.0}
    choice = {"what": "choices", "choices": 8, "choice_tokens": [1, 2], "prompt_tokens": 98, "model": table._FULL_SIZE}
    files = {
        "deadlines.jsonl": [
            {**late, "overshoot_ms_p99": 90.0},
            {**late, "overshoot_ms_p99": 21.0},
            {**late, "phase": "finished", "overshoot_ms_p99": 1.0},
        ],
        "choices_cost.jsonl": [
            {**choice, "with_choices_ms": 796.0, "ratio": 1.125},
            {"what": "again", "again_ms": 221.0, "first_ms": 5547.0, "model": table._FULL_SIZE},
            {"what": "again", "again_ms": 2.0, "first_ms": 5.0, "model": "another"},
        ],
    }
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    choices, again, cancel = dict(table.latency_rows()).values()
    assert "8 choices of at most 2 tokens after 98 tokens" in choices and "1.12 times the prompt alone" in choices
    assert "221 ms after 5,547 the first time" in again
    assert "cancel in decode" in cancel and "3.0 ms at the median, 21 at p99, of 40" in cancel


def test_a_row_names_what_is_unusual_about_it(table) -> None:
    assert table.setting(_line()) == "groups of 32"
    odd = _line(kv="float16", threads=1, isa="avx2", subject="tiny, random weights")
    assert table.setting(odd) == "groups of 32, tiny, random weights, float16 KV, 1 threads, avx2"
