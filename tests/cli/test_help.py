"""Help, version and argument errors: what they say, and that they never load torch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import typer

from tinygptv_fast import __version__
from tinygptv_fast.cli.app import app
from tinygptv_fast.cli.examples import EXAMPLES

COMMANDS = sorted(EXAMPLES)
_LIGHT = """
import sys
from tinygptv_fast.cli import main
codes = [main(args) for args in {calls!r}]
heavy = sorted({{"torch", "numpy", "transformers"}} & set(sys.modules))
print("CODES", codes, "HEAVY", heavy)
"""


def _codes_and_heavy(calls: list[list[str]]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT.format(calls=calls)], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def test_help_and_version_of_every_command_load_neither_torch_nor_numpy() -> None:
    calls = [[], ["--help"], ["-h"], ["--version"], *([command, "--help"] for command in COMMANDS)]
    assert _codes_and_heavy(calls) == f"CODES {[0] * len(calls)} HEAVY []"


def test_argument_errors_load_neither_torch_nor_numpy() -> None:
    calls = [
        ["nonsense"],
        ["ask"],
        ["ask", "x.png"],
        ["ask", "x.png", "why?"],  # no model
        ["ask", "x.png", "why?", "--model", "demo", "--task", "sing"],
        ["ask", "x.png", "why?", "--model", "demo", "--template", "sing"],
        ["ask", "x.png", "why?", "--model", "demo", "--backend", "abacus"],
        ["train", "--stage", "9", "--out", "x"],
        ["train", "--stage", "1", "--out", "x", "--model", "demo"],
        ["train", "--stage", "1", "--out", "x", "--data", "/nowhere.json", "--model", "demo"],
        ["finetune", "/nowhere.json", "--out", "x", "--model", "demo"],
        ["finetune", __file__, "--out", "x"],
        ["convert", "--out", "x"],
        ["convert", "--phi", "/nowhere/at/all", "--out", "x"],
        ["verify", "x", "--agreement"],
        ["identify", "x.png", "1,2,3", "--model", "demo"],
        ["demo", "--image", "x.png"],
        ["eval", "mmlu", "--data", __file__, "--images", "/", "--out", "x"],
        ["eval", "vsr", "--data", __file__, "--images", "/", "--out", "x"],
        ["export-world", "--format", "mmlu", "--out", "x"],
    ]
    assert _codes_and_heavy(calls) == f"CODES {[2] * len(calls)} HEAVY []"


def test_picture_errors_do_not_load_torch() -> None:
    line = _codes_and_heavy([["ask", "/nowhere/x.png", "why?", "--model", "demo"], ["draw", "a stra"]])
    assert line.startswith("CODES [2, 2]")
    assert "torch" not in line


def test_version(run) -> None:
    assert run("--version").out == f"tinygptv_fast {__version__}\n"


def test_no_arguments_show_the_help(run) -> None:
    assert "Commands" in run().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_example(run, command: str) -> None:
    text = re.sub(r"\s+", "", run(command, "--help").out)
    for example in EXAMPLES[command]:
        assert re.sub(r"\s+", "", example) in text


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_is_accepted_by_the_parser(line: str) -> None:
    parse(line)


def parse(line: str) -> None:
    """Parse a command line (the part after the last pipe) without running it; an error raises."""
    words = shlex.split(line.rsplit("|", 1)[-1])
    assert words[0] == "tinygptv"
    group = typer.main.get_command(app)
    with group.make_context("tinygptv", words[1:]) as context:
        rest = [*context._protected_args, *context.args]
        name, command, rest = group.resolve_command(context, rest)
        with command.make_context(name, rest, parent=context):
            pass


def test_every_command_has_examples() -> None:
    assert sorted(typer.main.get_command(app).commands) == COMMANDS
