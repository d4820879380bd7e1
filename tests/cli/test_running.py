"""How a process ends: Ctrl-C, closed pipes, errors of ours, colour, progress."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tinygptv_fast.cli import main, run
from tinygptv_fast.cli.output import console, gigabytes, printable, progress
from tinygptv_fast.cli.pictures import half_blocks


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def start(*args: object) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        "import sys; from tinygptv_fast.cli import main; sys.exit(main())",
        *map(str, args),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_with_130_and_one_line(tmp_path: Path) -> None:
    fifo = tmp_path / "ready"
    os.mkfifo(fifo)
    code = (
        "import signal, sys\n"
        # A shell starts background jobs with SIGINT ignored, which children inherit; a terminal does not.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tinygptv_fast.cli import main\n"
        "def wait(source):\n"
        f"    open({str(fifo)!r}, 'w').close()\n"
        "    while sys.stdin.buffer.read(1): pass\n"
        "    raise SystemExit('never interrupted')\n"
        "import tinygptv_fast.cli.asking as a\n"
        "a.read_picture = wait\n"
        "sys.exit(main(['ask', '-', 'why?', '--model', 'demo']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    open(fifo).close()  # returns once the command waits for its picture
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"tinygptv: interrupted\n")


def test_a_closed_pipe_is_quiet() -> None:
    process = start("--help")
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    process.stdout.close()
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) in (0, run.EXIT_PIPE_CLOSED)
    assert b"Traceback" not in err


@pytest.mark.parametrize("shown", [False, True])
def test_an_error_of_ours_is_one_line_and_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shown: bool
) -> None:
    def broken(argv: list[str]) -> int:
        raise RuntimeError("wires crossed")

    monkeypatch.setattr(run, "_run", broken)
    monkeypatch.setenv("TINYGPTV_TRACEBACK", str(int(shown)))
    assert main([]) == 1
    err = capsys.readouterr().err
    assert "wires crossed" in err and "TINYGPTV_TRACEBACK=1" in err
    assert ("Traceback" in err) is shown


def test_memory_errors_point_to_the_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def greedy(argv: list[str]) -> int:
        raise MemoryError

    monkeypatch.setattr(run, "_run", greedy)
    assert main([]) == 1
    assert "tinygptv doctor" in capsys.readouterr().err


def test_unknown_settings_are_pointed_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TINYGPTV_TREADS", "2")
    assert main(["--version"]) == 0
    assert "TINYGPTV_TREADS" in capsys.readouterr().err


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    console(stream).print("fine", style="green")
    assert ("\x1b[32m" in stream.getvalue()) is (no_color == "")


def test_text_in_files_is_plain_and_not_wrapped() -> None:
    stream = io.StringIO()
    console(stream).print("x" * 500, style="green")
    assert stream.getvalue() == "x" * 500 + "\n"


@pytest.mark.parametrize(
    ("quiet", "terminal", "shown"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_progress_is_for_terminals_and_off_when_quiet(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, terminal: bool, shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("working", quiet=quiet) as report:
        report(1, 2, "half")
    assert bool(stream.getvalue()) is shown


def test_half_blocks_keep_the_shape_and_the_colours() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 10, 40, 20))
    text = half_blocks(image, 20)
    rows = text.plain.splitlines()
    assert [len(row) for row in rows] == [20] * 5
    styles = [str(span.style) for span in text.spans]
    assert styles[0] == "#ff0000 on #ff0000" and styles[-1] == "#0000ff on #0000ff"


def test_printable() -> None:
    assert printable("a\x1b[31mé\n\t●") == "a\\x1b[31mé\n\t●"


@pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (1500, "1.5 kB"), (2.73e9, "2.73 GB"), (8.2e6, "8.2 MB")])
def test_gigabytes(count: float, text: str) -> None:
    assert gigabytes(count) == text
