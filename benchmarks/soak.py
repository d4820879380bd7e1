"""Thousands of short requests of every kind to the native engine, some cancelled, some late: does anything leak?

    python benchmarks/soak.py                       # 20,000 requests to the demo model
    python benchmarks/soak.py --requests 500 --seed 3
    python benchmarks/soak.py --shape tiny --json soak.jsonl

Greedy and sampled answers, several samples, beams, candidates, logits; stop strings, end ids, penalties, speculation,
shared beginnings, embeddings; up to 24 under way. Every request must end exactly once for a reason it allows, no page
may be lost, and resident memory may grow by at most 20 MB after the first tenth. Exit code 1 if one of these fails.
"""

from __future__ import annotations

import argparse
import json
import sys
<<<<<<< HEAD
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quantize_common import git_hash
from tinygptv_fast import _native
from tinygptv_fast.bench import SHAPES, Options
from tinygptv_fast.bench.soak import Soak
from tinygptv_fast.bench.subject import open_subject
from tinygptv_fast.errors import TinyGPTVError
=======
import threading
import time
from array import array
from collections import Counter
from typing import Any

from quantize_common import append
from tinygptv_fast import _native

ARCHITECTURE = {
    "width": 64, "layers": 2, "heads": 4, "head_dim": 16, "rotary_dims": 8, "mlp_width": 128, "vocab_size": 300,
    "max_positions": 256, "rope_theta": 10000.0, "norm_eps": 1e-5, "rms_norm_eps": 1e-6, "qk_norm": True,
    "post_attention_norm": True,
}  # fmt: skip
FORMS = {"body": ("int4", 32, True), "head": ("int4", 32, True), "embedding": "int8"}
THREADS = 4
MOST_GROWTH = 20e6  # bytes


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def read(engine: _native.Engine, request: int, pause_s: float = 0.0) -> list[tuple[Any, ...]]:
    """All events of a request; with a pause before each look."""
    events: list[tuple[Any, ...]] = []
    while not events or events[-1][0] != "done":
        time.sleep(pause_s)
        events += engine.next(request, 60.0)
    return events


class Soak:
    """Callers' threads that share a count of requests."""

    def __init__(self, engine: _native.Engine, seed: int) -> None:
        self.engine, self.seed = engine, seed
        self.left, self.ends, self.lock = 0, Counter[str](), threading.Lock()
        self.known = array("i", range(40))
        self.expected = read(engine, engine.submit(self.known, None, max_new_tokens=8))[:-1]
        self.failures: list[str] = []

    def run(self, requests: int) -> None:
        """So many requests, by all threads together."""
        self.left = requests
        callers = [threading.Thread(target=self._call, args=(self.seed + i + requests,)) for i in range(THREADS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    def _call(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.failures:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
            try:
                self._one(draw)
            except Exception as error:  # reported, and the run ends
                self.failures.append(repr(error))

    def _one(self, draw: random.Random) -> None:
        kind = draw.random()
        if kind < 0.1:
            if read(self.engine, self.engine.submit(self.known, None, max_new_tokens=8))[:-1] != self.expected:
                self.failures.append("an answer changed")
            return
        ids = array("i", [draw.randrange(300) for _ in range(draw.randint(1, 90))])
        if draw.random() < 0.5:
            ids = self.known[:33] + ids
        deadline = draw.choice([None, None, None, 0.0, 0.002])
        new = draw.randint(1, 24)
        if kind < 0.2:
            beams = draw.randint(2, 5)
            request = self.engine.submit_beams(
                ids, None, beams=beams, returned=1, max_new_tokens=new, eos_ids=[3, 5], deadline_s=deadline
            )
        elif kind < 0.3:
            request = self.engine.submit_score(ids, None, [[1, 2, 3], [4], [5, 6]], deadline_s=deadline)
        else:
            drawn = draw.random() < 0.5
            request = self.engine.submit(
                ids, None, max_new_tokens=new, temperature=float(drawn), seed=draw.randrange(1000), eos_ids=[7],
                samples=draw.randint(1, 3) if drawn else 1, speculate=not drawn, deadline_s=deadline,
            )  # fmt: skip
        if draw.random() < 0.2:
            self.engine.cancel(request)
        events = read(self.engine, request, 0.001 if draw.random() < 0.05 else 0.0)
        with self.lock:
            self.ends.update(event[2] for event in events if event[0] == "end")


def measure(requests: int, seed: int) -> dict[str, Any]:
    """One record; ``failures`` empty if all is well."""
    weights = _native.Weights.random(ARCHITECTURE, FORMS, seed)
    engine = _native.Engine(weights, kv_kind="int8", kv_tokens=1024, max_sequences=6, event_limit=16)
    soak = Soak(engine, seed)
    began = time.perf_counter()
    soak.run(requests // 5)
    warm = resident()
    soak.run(requests - requests // 5)
    growth = resident() - warm
    engine.check()
    counts = engine.counts()
    held = counts["referenced"] + counts["promised"] + counts["sequences"]
    failures = list(soak.failures)
    if growth > MOST_GROWTH:
        failures.append(f"resident memory grew by {growth} bytes")
    if held or counts["free"] + counts["kept"] != counts["pages"]:
        failures.append(f"pages are missing: {counts}")
    return {
        "benchmark": "soak", "requests": requests, "seconds": round(time.perf_counter() - began, 1),
        "resident_bytes": warm, "growth_bytes": growth, "ends": dict(soak.ends), "steps": engine.metrics()["steps"],
        "evicted": counts["evicted"], "failures": failures,
    }  # fmt: skip
>>>>>>> engine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="a model directory, or 'demo' (the default)")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this size instead")
    parser.add_argument("--threads", type=int, default=_native.physical_cores())
    parser.add_argument("--isa", default="", choices=["", *_native.isas()])
    parser.add_argument("--json", type=Path, help="append the outcome to this file as a line")
    arguments = parser.parse_args()
    if arguments.requests < 10 or arguments.threads < 1:
        parser.error("--requests must be 10 or more, --threads positive")
    model = arguments.model or (None if arguments.shape else "demo")
    try:
        subject = open_subject(Options(model=model, shape=arguments.shape, threads=arguments.threads))
    except TinyGPTVError as error:
        parser.error(str(error))
    soak = Soak.over(subject, arguments.requests, seed=arguments.seed, threads=arguments.threads, isa=arguments.isa)
    columns = (
        TextColumn("soak"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=arguments.requests)
        result = soak.run(lambda done, text: bar.update(task, completed=done, description=text.lstrip(", ")))
    line = {"benchmark": "soak", "git": git_hash(), "cpu": _native.cpu_brand(), "subject": subject.name,
            "threads": arguments.threads, "seed": arguments.seed, **result.to_dict()}  # fmt: skip
    print(json.dumps(line))
    if arguments.json is not None:
        with arguments.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    for problem in result.problems[:20]:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
