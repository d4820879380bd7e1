"""Shell completion: bash really completes; zsh and fish get the words that their scripts ask for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinygptv_fast.cli import completion
from tinygptv_fast.errors import InvalidArgumentError

BASH = shutil.which("bash")
ANY_SHELL = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # then the options take the shell's name


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a program ``tinygptv`` on the path, a folder ``depot`` and a file ``dog.png``."""
    program = tmp_path / "bin" / "tinygptv"
    program.parent.mkdir()
    code = "import sys; from tinygptv_fast.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "depot").mkdir()
    (tmp_path / "dog.png").write_bytes(b"")
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    path = f"{home / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "HOME": str(home), "PATH": path, **more}


def called(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["tinygptv", *words], cwd=home, env=environment(home, **more), capture_output=True, text=True, timeout=60
    )


def bash(home: Path, script: str) -> str:
    assert BASH is not None, "these tests need bash"
    done = subprocess.run(
        [BASH, "--norc", "-c", script], cwd=home, env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_bash_completes_commands_options_and_values(home: Path) -> None:
    """What --show-completion prints is sourced, and bash's own function is called on half-typed lines."""
    lines = ["tinygptv re", "tinygptv ask dog.png --json", "tinygptv ask dog.png --model de", "tinygptv chat --task gr",
             "tinygptv ask dog.png --boxes f", "tinygptv ask do"]  # fmt: skip
    calls = "\n".join(
        f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=(); _tinygptv_completion tinygptv; "
        'echo "${COMPREPLY[*]}"'
        for line in lines
    )
    out = bash(home, f'eval "$(tinygptv --show-completion)"\ncomplete -p tinygptv\n{calls}\n').splitlines()
    assert out[0] == "complete -o default -F _tinygptv_completion tinygptv"  # files where there is no word of ours
    assert [line.split() for line in out[1:]] == [
        ["refer"],
        ["--json-schema", "--json"],
        ["demo", "depot"],
        ["grounding"],
        ["free"],
        [],
    ]


def test_installing_for_bash_is_undone_by_two_lines(home: Path) -> None:
    out = bash(home, "tinygptv --install-completion; tinygptv --install-completion; true")
    written = home / ".bash_completions" / "tinygptv.sh"
    assert out.count(f"bash completion installed in {written}") == 2
    assert (home / ".bashrc").read_text().split("\n").count(f"source '{written}'") == 1
    found = bash(home, 'source "$HOME/.bashrc"; complete -p tinygptv')
    assert found == "complete -o default -F _tinygptv_completion tinygptv\n"


@pytest.mark.parametrize(
    ("shell", "file"), [("zsh", ".zfunc/_tinygptv"), ("fish", ".config/fish/completions/tinygptv.fish")]
)
def test_other_shells_are_installed_in_their_places(home: Path, shell: str, file: str) -> None:
    shown = called(home, "--show-completion", shell, **ANY_SHELL)
    assert shown.returncode == 0 and f"_TINYGPTV_COMPLETE=complete_{shell}" in shown.stdout
    assert called(home, "--install-completion", shell, **ANY_SHELL).returncode == 0
    assert (home / file).read_text().strip() == shown.stdout.strip()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_questions_of_zsh_and_fish_are_answered(home: Path, shell: str) -> None:
    more = {"_TINYGPTV_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    commands = called(home, _TYPER_COMPLETE_ARGS="tinygptv re", **more)
    assert (commands.returncode, commands.stderr) == (0, "")
    assert "refer" in commands.stdout and "caption" not in commands.stdout
    values = called(home, _TYPER_COMPLETE_ARGS="tinygptv ask dog.png --template vi", **more)
    assert "vicuna" in values.stdout and "inst" not in values.stdout


def test_no_shell_is_one_line(monkeypatch: pytest.MonkeyPatch, run) -> None:
    import shellingham

    def nothing(*_: object) -> tuple[str, str]:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", nothing)
    monkeypatch.setenv("SHELL", "/usr/bin/nologin")
    result = run("--show-completion")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "tinygptv: error: --show-completion found no shell that called it (SHELL is 'nologin'), "
        "expected to be run in one of bash, zsh, fish\n"
    )
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    with pytest.raises(InvalidArgumentError, match="--install-completion found 'tcsh', expected"):
        completion.check_shell(["--install-completion"])


def test_completing_never_loads_torch(home: Path) -> None:
    """Nor numpy: a shell waits for it at every press of the key."""
    code = (
        "import sys; from tinygptv_fast.cli import main; code = main([])\n"
        "print(code, sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    more = {"_TINYGPTV_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    for line in ("tinygptv ask dog.png --task ", "tinygptv ask dog.png --template ", "tinygptv ask dog.png -m "):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=home, env=environment(home, COMP_WORDS=line, **more), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stdout and done.stderr == "0 []\n", done


def test_names_that_begin_so() -> None:
    assert completion.models("dem")[0] == "demo" and completion.models("/nowhere/") == []
    assert set(completion.tasks("")) == {"vqa", "caption", "refer", "identify", "grounding", "detection"}
    assert "inst" in completion.templates("i") and "vicuna" not in completion.templates("i")
