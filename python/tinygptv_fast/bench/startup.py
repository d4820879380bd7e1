"""Starts of fresh processes on a model directory: loading, the first token, the memory that a full context takes.

With random weights a text-only directory of that size is written to a temporary folder first, and removed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint.directory import open_directory
from ..errors import TinyGPTVError
from .row import Row, from_values
from .session import Session

PROMPT_TOKENS = 64
_LIMIT_S = 300


def load(session: Session) -> Iterator[Row]:
    """Packing weights read from a directory, saving them, and reading the packed file back: what starts consist of."""
    from .. import _native

    weights, threads = session.subject.weights, session.options.threads
    with tempfile.TemporaryDirectory(prefix="tinygptv-bench-") as folder:
        path = str(Path(folder) / "weights.packed")
        session.note("load, writing the packed file")
        start = time.perf_counter()
        weights.save(path, threads=threads)
        saved = time.perf_counter() - start
        for mode in ("read", "map"):
            times = []
            for _ in range(session.options.few_blocks):
                session.note(f"load, {mode}")
                start = time.perf_counter()
                again = _native.Weights.load(path, mode=mode, threads=threads)
                times.append(time.perf_counter() - start)
                del again
            rate = weights.bytes / min(times) / 1e9
            yield from_values(
                "load", f"packed weights, {mode}", "s", times, bytes=weights.bytes, gb_per_s_best=rate, save_s=saved
            )


def ttft(session: Session) -> Iterator[Row]:
    """Fresh processes: the first packs, the later ones find the packed weights; the last also fills the context."""
    with _directory(session) as (directory, cache):
        prompt = _prompt(directory, PROMPT_TOKENS)
        positions = session.subject.text.max_positions
        first = _start(session, directory, cache, prompt, None, "first start")
        yield from_values(
            "ttft", "first start, packing included", "s", [first["answered"] - first["imported"]],
            prompt_tokens=first["prompt_tokens"],
        )  # fmt: skip
        starts = []
        for count in range(session.options.few_blocks):
            _warm(cache)
            fill = _prompt(directory, positions - 1) if count == session.options.few_blocks - 1 else None
            starts.append(_start(session, directory, cache, prompt, fill, "second start"))
        seen = None
        if open_directory(directory).config.vision is not None:
            seen = _start(session, directory, cache, prompt, fill, "second start with a picture", picture=True)
    details = {"prompt_tokens": starts[0]["prompt_tokens"]}
    loads = [one["loaded"] - one["imported"] for one in starts]
    yield from_values("ttft", "second start, from_pretrained", "s", loads, **details)
    firsts = [one["answered"] - one["imported"] for one in starts]
    yield from_values("ttft", "second start, from_pretrained to first token", "s", firsts, **details)
    whole = [one["answered"] - one["spawned"] for one in starts]
    yield from_values("ttft", "second start, whole process to first token", "s", whole, **details)
    yield _resident(session, starts[-1], "")
    if seen is not None:
        yield _resident(session, seen, " and a picture")


def _resident(session: Session, start: dict[str, Any], what: str) -> Row:
    subject = session.subject
    needed = subject.weights.bytes + start["filled_tokens"] * subject.kv_bytes
    used = start["high_water"] - start["rss_after_import"]
    return from_values(
        "ttft", f"resident after {start['filled_tokens']} tokens{what}, above import", "GB", [used / 1e9],
        weights_and_kv_bytes=needed, over_weights_and_kv=used / needed, high_water=start["high_water"],
        rss_after_import=start["rss_after_import"], rss_after_imports=start["rss_after_imports"],
        over_weights_and_kv_above_imports=(start["high_water"] - start["rss_after_imports"]) / needed,
        torch=start["torch"],
    )  # fmt: skip


@contextmanager
def _directory(session: Session) -> Iterator[tuple[Path, Path]]:
    """(model directory, cache directory), the latter empty and temporary."""
    with tempfile.TemporaryDirectory(prefix="tinygptv-bench-") as folder:
        cache = Path(folder) / "cache"
        if session.subject.directory is not None:
            yield session.subject.directory, cache
            return
        from .random_directory import write_random_directory

        directory = Path(folder) / "model"
        write_random_directory(directory, session.subject.text, session.subject.forms.body.group_size, session.note)
        yield directory, cache


def _prompt(directory: Path, tokens: int) -> str:
    """A text that the directory's tokenizer splits into exactly ``tokens`` ids under the template "raw"."""
    from ..processing.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(directory / "tokenizer.json")
    words = ["red", " circle", " left", " of", " star", " 1", " 2", "?", ".", "a"]
    single = [word for word in words if len(tokenizer.encode("red" + word)) == len(tokenizer.encode("red")) + 1]
    text = "red"
    for index in range(4 * tokens):
        count = len(tokenizer.encode(text))
        if count == tokens:
            return text
        if count > tokens or not single:
            break
        text += single[index % len(single)]
    raise TinyGPTVError(f"no text of {tokens} tokens was found for {directory / 'tokenizer.json'}")


def _warm(cache: Path) -> None:
    """Have the packed files in the page cache: what is measured is not the disk."""
    for path in cache.rglob("*.packed"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _start(
    session: Session, directory: Path, cache: Path, prompt: str, fill: str | None, what: str, *, picture: bool = False
) -> dict[str, Any]:
    """One fresh process; raises TinyGPTVError with the last line of what it said if it fails."""
    options = session.options
    session.note(f"ttft, {what}")
    asked = {
        "directory": str(directory), "kv_dtype": options.kv_dtype, "threads": options.threads, "prompt": prompt,
        "fill": fill, "picture": picture,
    }  # fmt: skip
    environment = {**os.environ, "TINYGPTV_CACHE_DIR": str(cache)}
    if options.isa:
        environment["TINYGPTV_CPU_ISA"] = options.isa
    spawned = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tinygptv_fast.bench.child", json.dumps(asked)],
        capture_output=True, text=True, check=False, timeout=_LIMIT_S, env=environment,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TinyGPTVError(f"a fresh process on {directory} ended with {done.returncode}: {last}")
    return {"spawned": spawned, **json.loads(done.stdout)}
