"""Bad input: exit code 2, one line on stderr that names the thing, no traceback, nothing on stdout, no files."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path

import pytest

from tinygptv_fast.cli.run import one_line


def check(result, *words: str) -> None:
    """Exit code 2 and exactly one line that holds ``words``."""
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.endswith("\n") and result.err.count("\n") == 1, result.err
    assert result.err.startswith("tinygptv: error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size over one compressed zero row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


PICTURES = {
    "missing": (None, "does not exist"),
    "empty": (b"", "empty"),
    "not a picture": (b"hello, I am a text", "not a picture"),
    "cut short": (png(64, 64), "damaged"),
    "60,000 x 60,000": (png(60_000, 60_000), "60000"),
}


@pytest.mark.parametrize("case", PICTURES)
@pytest.mark.parametrize("command", ["ask", "caption", "refer"])
def test_bad_pictures(run, tmp_path: Path, int4_model: Path, case: str, command: str) -> None:
    data, word = PICTURES[case]
    file = tmp_path / "bad.png"
    if data is not None:
        file.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    words = [] if command == "caption" else ["the cup"]
    check(run(command, file, *words, "--model", int4_model), word)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("case", ["empty", "not a picture", "60,000 x 60,000"])
def test_bad_pictures_on_standard_input(run, int4_model: Path, case: str) -> None:
    data, _ = PICTURES[case]
    check(run("ask", "-", "why?", "--model", int4_model, stdin=data), "image")


def test_a_folder_is_no_picture(run, tmp_path: Path, int4_model: Path) -> None:
    check(run("ask", tmp_path, "why?", "--model", int4_model), "not a regular file")


ASK = {
    "no model": ([], "ask needs --model", "'demo'", "tinygptv convert"),
    "no such model": (["--model", "/nowhere/model"], "/nowhere/model", "does not exist"),
    "task": (["--model", "MODEL", "--task", "sing"], "'sing'", "'caption'"),
    "template": (["--model", "MODEL", "--template", "sing"], "'sing'", "'vicuna'"),
    "backend": (["--model", "MODEL", "--backend", "abacus"], "--backend", "abacus"),
    "tokens": (["--model", "MODEL", "--max-new-tokens", "0"], "--max-new-tokens"),
    "temperature": (["--model", "MODEL", "--temperature", "-1"], "--temperature"),
    "top-p alone": (["--model", "MODEL", "--top-p", "0.5"], "top_p"),
    "threads": (["--model", "MODEL", "--threads", "0"], "--threads"),
    "draw suffix": (["--model", "MODEL", "--draw", "x.txt"], "--draw", ".png"),
    "draw folder": (["--model", "MODEL", "--draw", "/nowhere/at/all/x.png"], "--draw", "/nowhere/at/all"),
    "unknown option": (["--model", "MODEL", "--loud"], "--loud"),
}


@pytest.mark.parametrize("case", ASK)
def test_bad_questions(run, picture: Path, int4_model: Path, case: str) -> None:
    options, *words = ASK[case]
    options = [str(int4_model) if option == "MODEL" else option for option in options]
    check(run("ask", picture, "why?", *options), *words)


def test_placeholders_in_a_question_are_refused(run, picture: Path, int4_model: Path) -> None:
    check(run("ask", picture, "<ImageHere> why?", "--model", int4_model), "<ImageHere>")


def test_the_picture_is_required_by_draw(run, int4_model: Path, tmp_path: Path) -> None:
    check(run("ask", "none", "why?", "--model", int4_model, "--draw", tmp_path / "x.png"), "--draw")


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "30,30,10,10", "nan,0,1,1"])
def test_bad_boxes(run, picture: Path, int4_model: Path, box: str) -> None:
    check(run("identify", picture, box, "--model", int4_model), "box")


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("kind", ["missing", "empty", "a file", "original", "no json", "future"])
def test_wrong_directories(run, tmp_path: Path, int4_model: Path, golden_dir: Path, command: str, kind: str) -> None:
    target = tmp_path / "model"
    if kind == "empty":
        target.mkdir()
    elif kind == "a file":
        target.write_text("x")
    elif kind == "original":
        target = golden_dir / "phi"
    elif kind in ("no json", "future"):
        shutil.copytree(int4_model, target)
        config = json.loads((target / "config.json").read_text())
        config["format_version"] = 99
        (target / "config.json").write_text("{" if kind == "no json" else json.dumps(config))
    check(run(command, target), str(target))


CONVERT = {
    "phi missing": (["--phi", "/nowhere/phi"], "--phi", "/nowhere/phi"),
    "phi a file": (["--phi", "PICTURE"], "--phi", "directory"),
    "vision missing": (["--vision", "/nowhere/eva.pth"], "--vision", "/nowhere/eva.pth"),
    "vision a picture": (["--vision", "PICTURE"], "img0.png"),
    "architecture": (["--architecture", "PICTURE"], "img0.png"),
    "group": (["--group-size", "48"], "--group-size", "48"),
    "kind": (["--quantization", "int3"], "--quantization", "int3"),
    "template": (["--template", "sing"], "'sing'"),
    "image size": (["--image-size", "57"], "image_size", "57"),
    "dtype": (["--dtype", "float8"], "--dtype"),
}


@pytest.mark.parametrize("case", CONVERT)
def test_bad_conversions_leave_nothing(run, tmp_path: Path, originals: list[str], picture: Path, case: str) -> None:
    options, *words = CONVERT[case]
    options = [str(picture) if option == "PICTURE" else option for option in options]
    out = tmp_path / "out"
    check(run("convert", *originals, "--image-size", "56", "--out", out, *options), *words)
    assert list(tmp_path.iterdir()) == []


def test_conversion_of_some_files_only(run, tmp_path: Path, originals: list[str]) -> None:
    check(run("convert", *originals[:4], "--out", tmp_path / "out"), "qformer", "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_image_size_must_come_from_somewhere(run, tmp_path: Path, originals: list[str]) -> None:
    check(run("convert", *originals, "--out", tmp_path / "out"), "image_size")


def test_an_existing_directory_is_not_overwritten_unasked(
    run, tmp_path: Path, originals: list[str], int4_model: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(int4_model, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    check(run("convert", *originals, "--image-size", "56", "--out", out), str(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_phi_of_another_family(run, tmp_path: Path, golden_dir: Path) -> None:
    phi = tmp_path / "phi"
    shutil.copytree(golden_dir / "phi", phi)
    config = json.loads((phi / "config.json").read_text())
    config["model_type"] = "llama"
    (phi / "config.json").write_text(json.dumps(config))
    check(run("convert", "--phi", phi, "--out", tmp_path / "out"), "llama")
    assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint(run, tmp_path: Path, originals: list[str]) -> None:
    cut = tmp_path / "TinyGPT-V_for_Stage3.pth"
    cut.write_bytes(Path(originals[7]).read_bytes()[:50_000])
    options = [str(cut) if option == originals[7] else option for option in originals]
    check(run("convert", *options, "--image-size", "56", "--out", tmp_path / "out"), cut.name)
    assert [path.name for path in tmp_path.iterdir()] == [cut.name]


VERIFY = {
    "agreement alone": (["--agreement"], "--agreement"),
    "without phi": (["--vision", "PICTURE"], "--vision", "--phi"),
    "both": (["--phi", "PHI", "--against", "PHI"], "--phi", "--against"),
    "against nothing": (["--against", "/nowhere/model"], "/nowhere/model"),
    "pictures": (["--pictures", "0"], "--pictures"),
}


@pytest.mark.parametrize("case", VERIFY)
def test_bad_verifications(run, picture: Path, golden_dir: Path, int4_model: Path, case: str) -> None:
    options, *words = VERIFY[case]
    names = {"PICTURE": str(picture), "PHI": str(golden_dir / "phi")}
    check(run("verify", int4_model, *(names.get(option, option) for option in options)), *words)


def test_demo_with_a_picture_needs_a_question(run, picture: Path) -> None:
    check(run("demo", "--image", picture), "--question")


def test_demo_out_must_be_a_folder(run, picture: Path) -> None:
    check(run("demo", "--out", picture), "--out")


DRAWINGS = {
    "a word nobody knows": ("red stra left of blue ring", "'stra' (word 2, column 5)", "did you mean 'star'", "heart"),
    "nothing": (" ", "blank"),
    "half a description": ("red star above", "ends"),
    "too many": ("six stars and a ring", "7 things"),
    "too large": ("six large stars", "no room"),
    "capital letters in a word": ('the word "Cat3"', "a..z"),
}


@pytest.mark.parametrize("case", DRAWINGS)
def test_bad_drawings(run, tmp_path: Path, case: str) -> None:
    description, *words = DRAWINGS[case]
    check(run("draw", description, "--out", tmp_path / "x.png"), *words)
    assert not list(tmp_path.iterdir())


def test_bad_targets_of_a_drawing(run, tmp_path: Path) -> None:
    check(run("draw", "star", "--out", tmp_path / "x.gif"), "--out", ".png")
    check(run("draw", "star", "--out", tmp_path / "no" / "x.png"), "not a directory")
    check(run("draw", "star", "--size", 5), "--size")


def test_doctor_on_a_wrong_model(run, tmp_path: Path) -> None:
    check(run("doctor", "--model", tmp_path), str(tmp_path))


@pytest.mark.parametrize(("name", "value"), [("TINYGPTV_THREADS", "many"), ("TINYGPTV_LOG", "loud")])
def test_bad_environment(run, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    check(run("info", "demo"), name, value)


def test_many_lines_become_one() -> None:
    assert one_line("2 tensors do not fit:\n  a [3]\n  b [4]") == "2 tensors do not fit: a [3]; b [4]"
    assert one_line(OSError(28, "No space left on device", "/out/x")) == "/out/x: No space left on device"
    assert len(one_line("x" * 10_000)) <= 2000
    assert one_line(ValueError()) == "ValueError"
