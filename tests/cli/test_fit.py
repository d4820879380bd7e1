"""``tinygptv doctor --memory --ttft``: what it says, the commands it gives, and its errors."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import typer

from tinygptv_fast.cli.app import app
from tinygptv_fast.diagnosis.fit import Rates

FAST, SLOW = Rates(1, 40e9, 2e12, 0.8e12, 0.3e12), Rates(1, 10e9, 0.1e12, None, 0.03e12)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[Rates]:
    """What "this machine" can do; nothing is measured. Tests change it in place."""
    given = [FAST]
    monkeypatch.setattr("tinygptv_fast.diagnosis.probes.measure_rates", lambda threads, isa: given[0])
    return given


def test_it_chooses_measures_and_says_how_to_go_on(run, rates: list[Rates]) -> None:
    result = run("doctor", "--memory", "4GB", "--ttft", "60s", "--threads", 1)
    assert (result.code, result.err) == (0, "")
    lines = dict(line.split(None, 1) for line in result.out.replace("first token", "first-token").splitlines())
    assert "text int4" in lines["settings"] and "1 thread" in lines["settings"]
    assert "predicted" in lines["memory"] and "predicted" in lines["first-token"]
    assert "predicted" in lines["measured"] and "times" in lines["measured"]
    command = next(line for line in result.out.splitlines() if "tinygptv fetch" in line).split(None, 2)[2]
    group = typer.main.get_command(app)
    with group.commands["fetch"].make_context("fetch", shlex.split(command)[2:]) as context:
        assert context.params["convert"] and context.params["stage"] == 4
        assert context.params["quantization"] == "int4"
    assert 'tgv.TinyGPTV.from_pretrained("./tinygptv/tinygptv-stage4-int4"' in result.out


def test_json(run, rates: list[Rates]) -> None:
    args = ("doctor", "--memory", "3.5GiB", "--ttft", "60s", "--image-size", "224", "--threads", 1, "--json")
    said = json.loads(run(*args).out)
    assert said["kind"] == "doctor" and "224 px" in said["model"]
    assert said["plan"]["memory_bytes"] <= 3.5 * 2**30 and said["plan"]["first_token_s"] <= 60
    assert {one["what"] for one in said["measured"]} == {"vision", "prompt"}
    assert all(one["measured"] > 0 and one["predicted"] > 0 for one in said["measured"])


def test_a_converted_model_is_measured_itself(run, rates: list[Rates], int4_model: Path) -> None:
    said = json.loads(run("doctor", "--memory", "4GB", "--model", int4_model, "--threads", 1, "--json").out)
    assert (said["plan"]["text"], said["plan"]["vision"]) == ("int4", "int8")
    first, memory = said["measured"]
    assert first["what"] == "first token" and 0 < first["measured"] < 60
    assert memory["unit"] == "bytes" and memory["measured"] > 1e7


def test_nothing_fits_is_one_line(run, rates: list[Rates]) -> None:
    rates[0] = SLOW
    result = run("doctor", "--memory", "4GB", "--ttft", "2s", "--threads", 1)
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1
    assert "nothing fits 4 GB and 2 s to the first token" in result.err and "would do" in result.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--memory", "4"], "--memory is '4', expected a size like 4GB"),
        (["--ttft", "2"], "--ttft is '2', expected a time like 2s"),
        (["--image-size", "224"], "--image-size is given without"),
        (["--memory", "4GB", "--image-size", "224", "--model", "demo"], "--image-size is given with --model"),
        (["--memory", "4GB", "--image-size", "300"], "--image-size"),
        (["--memory", "4GB", "--model", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_limits(run, rates: list[Rates], options: list[str], word: str) -> None:
    result = run("doctor", *options)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1 and result.out == ""
