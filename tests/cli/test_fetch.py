"""``tinygptv fetch`` against a local hub that holds the small model's files; and who points to it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from hub_server import HubServer, serving
from tinygptv_fast.cli import main
from tinygptv_fast.cli.app import app

REPO, SPACE = "models/Tyrannosaurus/TinyGPT-V", "spaces/llizhx/TinyGPT-V"


@pytest.fixture
def hub(golden_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serving() as server:
        stage = "TinyGPT-V_for_Stage3.pth"
        server.repos[REPO] = {"README.md": b"hello", stage: (golden_dir / stage).read_bytes()}
        phi = {f"phi-2/{path.name}": path.read_bytes() for path in (golden_dir / "phi").iterdir()}
        server.repos[SPACE] = {"app.py": b"", **phi}
        names = ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth")
        server.store = {name: (golden_dir / name).read_bytes() for name in names}
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        yield server


@pytest.fixture
def words(hub: HubServer, golden_dir: Path, tmp_path: Path) -> list[object]:
    """The command up to what is done with the files."""
    return ["fetch", "--stage", 3, "--out", tmp_path / "x", "--storage", f"{hub.url}/store"]


@pytest.fixture
def conversion(golden_dir: Path) -> list[object]:
    return ["--convert", "--image-size", 56, "--architecture", golden_dir / "sizes.json"]


def test_from_nothing_to_the_model(
    run, words: list[object], conversion: list[object], tmp_path: Path, int4_model: Path
) -> None:
    result = run(*words, *conversion)
    assert result.code == 0, result.err
    made = tmp_path / "x" / "tinygptv-stage3-int4"
    assert (made / "model.safetensors").read_bytes() == (int4_model / "model.safetensors").read_bytes()
    assert "TinyGPT-V_for_Stage3.pth" in result.out and "to come" in result.out and str(made) in result.out
    again = run(*words, *conversion)
    assert again.code == 2 and "the model is made already" in again.err and again.out == ""


def test_json_is_one_object_and_the_sizes_go_to_stderr(run, words: list[object]) -> None:
    result = run(*words, "--json")
    said = json.loads(result.out)
    assert said["kind"] == "fetch" and said["model"] is None
    assert {one["part"] for one in said["files"]} == {"phi", "vision", "qformer", "checkpoint"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", one["sha256"]) for one in said["files"])
    assert "together" in result.err
    assert run(*words, "--json", "--quiet").err == ""


def test_offline_goes_on_with_what_is_there(
    run, words: list[object], conversion: list[object], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bare = run(*words)
    assert bare.code == 2 and "HF_HUB_OFFLINE" in bare.err and bare.err.count("\n") == 1 and hub.log == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert run(*words).code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.log.clear()
    result = run(*words, *conversion, "--quantization", "none")
    assert result.code == 0 and hub.log == [] and "0 B to come" in result.out


class Terminal(io.StringIO):
    """A standard input that somebody types into."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_asks(
    words: list[object], hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main_with(typed: str, *more: str) -> int:
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        return main([*map(str, words), *more])

    assert main_with("n\n") == 130 and not hub.gets("/store/")
    assert "fetch 1." in capsys.readouterr().err
    assert main_with("y\n") == 0 and hub.gets("/store/")
    capsys.readouterr()
    assert main_with("") == 0  # nothing to fetch, nothing to ask
    (Path(str(words[4])) / "eva_vit_g.pth").unlink()
    assert main_with("", "--yes") == 0
    assert "fetch 316 kB" not in capsys.readouterr().err


BAD = {
    "stage": (["--stage", "5"], "--stage"),
    "source": (["--phi", "phi"], "phi is 'phi'"),
    "storage": (["--storage", "store"], "storage is 'store'"),
    "group": (["--convert", "--group-size", "31"], "--group-size is 31"),
    "without convert": (["--vision-dtype", "int8"], "--vision-dtype is given without --convert"),
    "architecture": (["--convert", "--architecture", "/nowhere.json"], "--architecture is /nowhere.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_seen_before_anybody_is_asked(
    run, words: list[object], hub: HubServer, tmp_path: Path, case: str
) -> None:
    more, word = BAD[case]
    result = run(*words, *more)
    assert result.code == 2 and word in result.err and result.err.count("\n") == 1 and result.out == ""
    assert hub.log == [] and not (tmp_path / "x").exists()


def test_a_server_that_fails_is_one_line(run, words: list[object], hub: HubServer) -> None:
    hub.faults["eva_vit_g.pth"] = ["404"]
    result = run(*words)
    assert result.code == 2 and "answered 404" in result.err and result.err.count("\n") == 1


def test_from_pretrained_of_the_originals_repository_says_which_command(hub: HubServer, tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads HF_ENDPOINT when it is imported."""
    program = "import tinygptv_fast as tgv; tgv.TinyGPTV.from_pretrained('Tyrannosaurus/TinyGPT-V')"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last and "TinyGPT-V_for_Stage3.pth" in last, done.stderr
    command = re.search(r"with: (tinygptv .*?), then", last)
    assert command is not None and command[1] == "tinygptv fetch --stage 3 --out ./tinygptv --convert"
    group = typer.main.get_command(app)
    with group.commands["fetch"].make_context("fetch", shlex.split(command[1])[2:]) as context:
        assert context.params["convert"] and context.params["stage"] == 3
