"""Every command that the documentation shows is run here, or is known to be run elsewhere, or at least parses."""

from __future__ import annotations

import ast
import inspect
import io
import operator
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image

import tinygptv_fast
from tinygptv_fast.cli import main
from tinygptv_fast.cli.app import app
from tinygptv_fast.cli.examples import EXAMPLES
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = {"sh", "bash", "shell", "console"}
# What only somebody with the original's files, a model of their own or another picture has.
_FOREIGN = ("./", ".pth", "street.jpg")
# Verbs that .ci/run executes; the others must exist, and are too long or too special for it.
_IN_CI = {"test", "check", "docs", "demo"}
# docs/embedding.md: tests/native/test_c_program.py builds and runs the same program.
_IN_C_PROGRAM_TEST = ("cmake -S . -B build/capi", "cmake --build build/capi", "build/capi/csrc/capi/decode ")
_IN_MAKEFILE = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def blocks(kinds: set[str]) -> Iterator[tuple[Path, str]]:
    """(page, text) of the fenced blocks of these languages."""
    for page in PAGES:
        for kind, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind in kinds:
                yield page, text


def commands() -> list[str]:
    """All shell lines, without prompts and comments; continued lines joined."""
    out: list[str] = []
    for _, text in blocks(_SHELL):
        for line in text.replace("\\\n", " ").splitlines():
            stripped = re.sub(r"\s#.*$", "", line.strip().removeprefix("$ "))
            if stripped and not stripped.startswith("#"):
                out.append(stripped)
    return list(dict.fromkeys(out))


TINYGPTV = [line for line in commands() if "tinygptv " in line.split("|")[-1] and not line.startswith("make")]
OTHERS = [line for line in commands() if line not in TINYGPTV and not line.startswith(_IN_C_PROGRAM_TEST)]
# With the shipped model, or with none at all.
_OURS = re.compile(r"\bdemo\b|tinygptv (doctor|draw|export-world|--\w+)")
RUNNABLE = [line for line in TINYGPTV if _OURS.search(line) and not any(mark in line for mark in _FOREIGN)]


def parse(line: str) -> None:
    """Parse a tinygptv command line without running it; an error raises."""
    words = shlex.split(line.rsplit("|", 1)[-1])
    group = typer.main.get_command(app)
    with group.make_context("tinygptv", words[1:]) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        with command.make_context(name, rest, parent=context):
            pass


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds picture.png."""
    draw(arrange("red circle left of blue star", 5), 384).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_test() -> None:
    assert len(RUNNABLE) > 10 and len(TINYGPTV) > len(RUNNABLE)


@pytest.mark.parametrize("line", TINYGPTV)
def test_every_tinygptv_command_parses(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", RUNNABLE)
def test_every_command_without_foreign_files_runs(line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _, command = line.rpartition("|")
    data = b""
    if source:
        word, argument = shlex.split(source)
        assert word in ("cat", "echo")
        data = Path(argument).read_bytes() if word == "cat" else f"{argument}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    words = shlex.split(command)
    if words[1] == "eval":  # the page says to export first
        folder = str(Path(words[words.index("--images") + 1]).parent)
        assert main(["export-world", "--format", words[2], "--out", folder, "--count", "4"]) == 0
    assert main(words[1:]) == 0
    if "--draw" in words:
        with Image.open(words[words.index("--draw") + 1]) as drawn:
            assert drawn.size == (384, 384)


@pytest.mark.parametrize("line", OTHERS)
def test_every_other_command_exists(line: str) -> None:
    words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "torchrun":  # tests/train/test_parallel.py runs such lines
        parse(shlex.join(["tinygptv", *words[words.index("tinygptv_fast") + 1 :]]))
    elif words[0] == "make":
        assert set(words[1:]) <= _IN_MAKEFILE
    elif words[0] in ("python", "python3", "bash", "sh") or "/" in words[0]:
        script = words[1] if words[0] in ("python", "python3", "bash", "sh") else words[0]
        module = words[2] if script == "-m" else None
        known = module in ("pip", "pytest", "venv") or (ROOT / "python" / (module or "").replace(".", "/")).exists()
        assert known if module else (ROOT / script).exists(), line
    else:
        assert words[0] in ("git", "pip"), f"no rule for {line!r}: run it here or say why not"


def test_the_c_program_of_the_docs_is_the_tested_one() -> None:
    assert sum(line.startswith(_IN_C_PROGRAM_TEST) for line in commands()) == 3
    test = (ROOT / "tests" / "native" / "test_c_program.py").read_text(encoding="utf-8")
    assert '"capi" / "decode"' in test
    assert "add_executable(decode" in (ROOT / "csrc" / "capi" / "CMakeLists.txt").read_text(encoding="utf-8")


def test_ci_runs_the_verbs_it_is_said_to_run() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "\n## Test\n\n```sh\nmake test\n```\n" in readme  # what .ci/run cuts out and executes
    assert all(f"make {verb}" in ci for verb in _IN_CI - {"test"})


PYTHON = [text for _, text in blocks({"python"})]


# docs/gpu_ops.md: tests/native/test_cuda_ops.py runs it over the emulation.
_ON_A_GPU = 'device = "cuda"'


@pytest.mark.parametrize("text", [text for text in PYTHON if ".pth" not in text and _ON_A_GPU not in text])
def test_every_python_block_without_foreign_files_runs(text: str, workplace: Path) -> None:
    exec(compile(text, "documentation", "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("text", [text for text in PYTHON if ".pth" in text])
def test_calls_on_foreign_files_fit_their_functions(text: str) -> None:
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if ast.unparse(call.func).startswith("tgv.")]
    assert ours
    for call in ours:
        function = operator.attrgetter(ast.unparse(call.func).removeprefix("tgv."))(tinygptv_fast)
        names = {word.arg: None for word in call.keywords if word.arg}
        inspect.signature(function).bind(*call.args, **names)


def test_the_cli_page_has_every_example_and_every_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name, lines in EXAMPLES.items():
        for line in lines:
            assert line in page, f"docs/cli.md lacks {line!r}"
        for parameter in group.commands[name].params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in page, f"docs/cli.md lacks {option} of {name}"
