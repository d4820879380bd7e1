"""Starts ``worker.py`` for an entry in the entry's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from catalogue import OURS, Entry
from layout import models, python_of
from measure import warm

WORKER = Path(__file__).with_name("worker.py")
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


class WorkerError(Exception):
    """The worker ended in an error; the message holds the end of what it wrote."""


def interpreter(work: Path, entry: Entry) -> Path:
    return Path(sys.executable) if entry.environment is None else python_of(work, entry.environment)


def missing(work: Path, entry: Entry) -> list[Path]:
    """What an entry needs and is not there."""
    needed = [interpreter(work, entry), models(work) / entry.path]
    return [path for path in needed if not path.exists()]


def packed_cache(work: Path, path: str) -> Path:
    """Where our engine keeps the packed form of a directory: apart for each, so that it can be read beforehand."""
    return work / "packed" / path


def run_worker(
    work: Path,
    entry: Entry,
    what: str,
    threads: int,
    *,
    round_number: int = 0,
    tries: int = 1,
    timeout_s: float = 600,
) -> list[dict[str, Any]]:
    """The worker's lines. Raises WorkerError."""
    path = (entry.accuracy_path or entry.path) if what == "accuracy" else entry.path
    variables = {**os.environ, **_QUIET, **entry.variables}
    warm(models(work) / path)
    if entry.family == OURS:
        cache = packed_cache(work, path)
        cache.mkdir(parents=True, exist_ok=True)
        warm(cache)
        variables["TINYGPTV_CACHE_DIR"] = str(cache)
    command = [str(interpreter(work, entry)), str(WORKER), "--work", str(work), "--entry", entry.name]
    command += ["--what", what, "--round", str(round_number), "--threads", str(threads)]
    command += ["--tries", str(tries)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=variables, check=False)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"{entry.name} took longer than {timeout_s:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise WorkerError(f"{entry.name} ended with code {done.returncode}: {last[:300]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
