"""``tinygptv bench`` on a tiny backbone: rows, files, errors, interruption. No figure is judged."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tinygptv_fast.bench.noise import Noise
from tinygptv_fast.bench.options import LONG, SECTIONS, Options
from tinygptv_fast.bench.row import Row
from tinygptv_fast.bench.serving import Window, jitter_row
from tinygptv_fast.errors import InvalidArgumentError

TINY = ("bench", "--shape", "tiny", "--quick", "--rounds", "1", "--threads", "1", "--quiet")
CONTEXT = ("version", "git", "date", "cpu", "isa", "threads", "subject", "group", "kv", "weight_bytes", "step_bytes")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("decode", ["one sequence, ctx 64"]),
        ("prefill", ["64 tokens"]),
        ("batch", ["1 sequence, ctx 64", "8 sequences, ctx 64"]),
    ],
)
def test_rows_of_the_step_are_well_formed(run, tmp_path: Path, section: str, names: list[str]) -> None:
    file = tmp_path / "rows.jsonl"
    result = run(*TINY, "--only", section, "--json", file)
    assert result.code == 0, result.err
    rows = rows_of(file)
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert all(name in row for name in CONTEXT)
        assert row["section"] == section and row["unit"] == "tok/s" and row["n"] == 1 and row["dropped"] == 0
        assert row["p10"] <= row["median"] <= row["p90"]
        assert row["bytes"] > row["step_bytes"] > 0 and row["ops"] > 0
        # the fake clock gives every block 0.5 s and the fake probe 10 GB/s
        assert row["fraction_of_bandwidth"] == pytest.approx(row["bytes"] / 0.5 / 10e9)
        assert row["fraction_of_roof"] == max(row["fraction_of_bandwidth"], row["fraction_of_peak"])
        assert row["name"] in result.out


@pytest.mark.usefixtures("fake_machine")
def test_kernels_count_what_a_call_moves_and_computes(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert run(*TINY, "--only", "kernels", "--group", "64", "--json", file).code == 0
    rows = {row["name"]: row for row in rows_of(file)}
    assert rows["sample greedy [640]"]["fraction_of_roof"] is None and rows["layer_norm [1,96]"]["median"] > 0
    assert rows["qkv_append [256,4,3,24], int8 pages"]["details"]["bytes"] == 256 * 4 * (16 * 24 + 2 * 26)
    one = rows["int4 fc1 192x96, 1 token"]
    assert (one["group"], one["ops"]) == (64, 2 * 192 * 96)
    assert rows["int4 fc1 192x96, 8 tokens"]["ops"] == 8 * one["ops"]
    assert one["bytes"] >= 192 * 96 // 2 + 4 * (96 + 192)


@pytest.mark.usefixtures("fake_machine")
def test_engine_and_load_have_rows(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    result = run(*TINY, "--only", "engine,load", "--json", file)
    assert result.code == 0, result.err
    rows = rows_of(file)
    assert [row["section"] for row in rows] == ["engine"] * 3 + ["load"] * 2
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.usefixtures("fake_machine")
def test_pictures_and_starts_of_a_random_directory(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    result = run(*TINY, "--only", "ttft,vision", "--json", file)
    assert result.code == 0, result.err
    rows = {row["name"]: row for row in rows_of(file)}
    load = rows["second start, from_pretrained"]
    first = rows["second start, from_pretrained to first token"]
    whole = rows["second start, whole process to first token"]
    assert 0 < load["median"] <= first["median"] < whole["median"]
    assert first["details"]["prompt_tokens"] == 64
    resident = next(row for name, row in rows.items() if name.startswith("resident after 512 tokens"))
    assert resident["details"]["weights_and_kv_bytes"] > load["weight_bytes"]
    assert resident["details"]["torch"] is False
    for size in (224, 448):
        parts = [rows[f"{size} px, {part}"]["median"] for part in ("preprocess", "vision", "prefill", "total")]
        assert min(parts) > 0 and sum(parts[:3]) <= parts[3] * 1.001


@pytest.mark.usefixtures("fake_machine")
def test_a_model_that_sees_is_started_with_a_picture_too(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    result = run("bench", "--model", "demo", "--quick", "--only", "ttft", "--json", file)
    assert result.code == 0, result.err
    text, seen = (row for row in rows_of(file) if row["name"].startswith("resident after"))
    assert (text["details"]["torch"], seen["details"]["torch"]) == (False, True)
    assert "and a picture" in seen["name"] and seen["median"] > text["median"] > 0


@pytest.mark.usefixtures("fake_machine")
def test_the_stream_is_cut_into_windows(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert run(*TINY, "--only", "jitter", "--json", file).code == 0
    quiet, disturbed, beside = rows_of(file)
    assert quiet["n"] == 128 and quiet["details"]["windows"] == 1  # the fake machine is quiet
    assert quiet["details"]["p99"] >= quiet["median"] > 0 and quiet["details"]["p99_over_median"] >= 1
    assert (disturbed["n"], disturbed["median"]) == (0, None)
    assert beside["n"] > 0 and beside["details"]["alone_ms"] > 0 and beside["details"]["prompt_tokens_a_step"] >= 4
    assert beside["details"]["over_alone_median"] == pytest.approx(beside["median"] / beside["details"]["alone_ms"])


@pytest.mark.usefixtures("fake_machine")
def test_the_json_file_is_added_to(run, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for _ in range(2):
        assert run(*TINY, "--only", "prefill", "--json", file).code == 0
    assert len(rows_of(file)) == 2


@pytest.mark.usefixtures("fake_machine")
def test_a_picture_is_written(run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "roof.png"
    result = run(*TINY, "--only", "decode,batch", "--plot", file)
    assert result.code == 0, result.err
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("fake_machine")
def test_without_matplotlib_the_error_says_what_to_install(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run(*TINY, "--only", "decode", "--plot", tmp_path / "roof.png")
    assert result.code == 2 and "pip install tinygptv_fast[bench]" in result.err and result.out == ""


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_shows_what_was_measured(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from tinygptv_fast.bench import runner

    def interrupted(session):
        signal.raise_signal(number)
        yield

    monkeypatch.setitem(runner._RUN, "batch", interrupted)
    file = tmp_path / "rows.jsonl"
    result = run(*TINY, "--only", "decode,batch", "--json", file)
    assert result.code == 130
    assert "one sequence, ctx 64" in result.out and len(rows_of(file)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "juggling"), ("--only", "juggling", "decode")),
        (("--shape", "gpt9"), ("--shape", "gpt9", "phi2")),
        (("--shape", "tiny", "--model", "demo"), ("--model", "--shape")),
        (("--model", "demo", "--group", "32"), ("--group", "--model")),
        (("--shape", "tiny", "--group", "33"), ("--group", "33", "128")),
        (("--shape", "tiny", "--kv", "int2"), ("--kv", "int2", "int8")),
        (("--shape", "tiny", "--isa", "mmx"), ("mmx", "avx2")),
        (("--shape", "tiny", "--rounds", "0"), ("--rounds",)),
        (("--shape", "tiny", "--plot", "x.bmp"), ("--plot", "x.bmp", ".png")),
        (("--shape", "tiny", "--plot", "nowhere/x.png"), ("--plot", "nowhere")),
        (("--shape", "tiny", "--json", "."), ("--json", "directory")),
        (("--model", "/nowhere/at/all"), ("/nowhere/at/all",)),
    ],
)
def test_bad_arguments_are_one_line(run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = run("bench", *arguments, "--quiet")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    assert all(word in result.err for word in words), result.err


def test_long_sections_run_only_when_named() -> None:
    assert not set(Options().sections) & set(LONG)
    assert set(Options().sections) | set(LONG) == set(SECTIONS)
    assert Options(only=("soak", "decode")).sections == ("decode", "soak")
    with pytest.raises(InvalidArgumentError, match="threads is -1"):
        Options(threads=-1)


def test_disturbed_windows_are_a_row_of_their_own() -> None:
    quiet = Window([0.010] * 99 + [0.020], Noise(0.001, 0.0))
    busy = Window([0.5], Noise(0.02, 0.0))
    assert (quiet.quiet, busy.quiet, Window([], Noise(0.0, 0.006)).quiet) == (True, False, False)
    row = jitter_row("x", [quiet])
    assert (row.n, row.median, row.details["windows"]) == (100, 10.0, 1)
    assert row.details["p99_over_median"] == pytest.approx(2.0)
    empty = jitter_row("x", [])
    assert isinstance(empty, Row) and (empty.n, empty.median) == (0, None)
