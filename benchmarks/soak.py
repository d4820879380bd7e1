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
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tinygptv_fast import _native
from tinygptv_fast.bench.options import SHAPES, Options
from tinygptv_fast.bench.runner import git_hash
from tinygptv_fast.bench.soak import Soak
from tinygptv_fast.bench.subject import open_subject
from tinygptv_fast.errors import TinyGPTVError


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
