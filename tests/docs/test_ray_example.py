"""examples/ray_caption.py for real: an actor pool on this machine, parts that are kept, a picture that is none."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "ray_caption.py"
_STARTS = 4  # Ray gives its own processes 30 seconds to start, which nobody can change and a busy machine may miss
pytestmark = pytest.mark.timeout(1800)  # Ray starts half a dozen processes; a busy machine takes minutes for it


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Its sockets' paths may not be long; with authentication it would leave a token in the home directory.
    where = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_TMPDIR": "/tmp", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, str(SCRIPT), str(folder / "pictures"), "--out", str(folder / "out"), *arguments]
    for _ in range(_STARTS):
        done = subprocess.run(command, capture_output=True, text=True, env=where, cwd=folder, timeout=1500, check=False)
        if "node timed out during startup" not in done.stderr:
            break
    return done


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_captions_resumes_by_part_and_reports_bad_pictures(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, words in enumerate(("red circle left of blue star", "green heart", "blue ring", "yellow star")):
        draw(arrange(words, index), 200).save(pictures / f"{index}.png")
    (pictures / "2.png").write_bytes(b"no picture at all")
    done = run(tmp_path, "--shard-size", "2", "--max-new-tokens", "8")
    assert done.returncode == 0, done.stderr
    assert "4 pictures in 2 of 2 parts, 1 could not be read" in done.stdout
    first, second = (tmp_path / "out" / f"part-0000{n}.jsonl" for n in range(2))
    rows = lines(first) + lines(second)
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert ["error" in row for row in rows] == [False, False, True, False] and "2.png" in rows[2]["error"]
    assert all(row["text"] and row["finish_reason"] for row in rows if "error" not in row)
    assert len({row["model"] for row in rows}) == 1
    # One part is lost: that one alone is made again, and says the same.
    kept, again = first.stat().st_mtime_ns, [row.get("text") for row in lines(second)]
    second.unlink()
    done = run(tmp_path, "--shard-size", "2", "--max-new-tokens", "8")
    assert done.returncode == 0 and "2 pictures in 1 of 2 parts" in done.stdout, done.stderr
    assert first.stat().st_mtime_ns == kept and [row.get("text") for row in lines(second)] == again
    assert {path.name for path in (tmp_path / "out").iterdir()} == {first.name, second.name, "run.json"}
    # Nothing is missing: nothing is started. Other settings are another run.
    done = run(tmp_path, "--shard-size", "2", "--max-new-tokens", "8")
    assert done.returncode == 0 and "0 pictures in 0 of 2 parts" in done.stdout
    done = run(tmp_path, "--shard-size", "2", "--max-new-tokens", "9")
    assert done.returncode == 2 and "holds a run with another max_new_tokens" in done.stderr


def test_a_wrong_prompt_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "0.png"
    draw(arrange("red circle", 1), 100).save(picture)
    actor = runpy.run_path(str(SCRIPT))["Actor"]("demo", "<ImageHere> and what?", {}, str(tmp_path / "out"), 1)
    row = actor({"shard": 0, "images": [str(picture)]})
    assert "<ImageHere>" in row["fatal"] and row["pictures"] == 0 and not (tmp_path / "out").exists()


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: pictures is ") and "there is none" in done.stderr
    done = run(tmp_path, "--shard-size", "0")
    assert done.returncode == 2 and "--shard-size is 0, expected an integer >= 1" in done.stderr
