"""One engine in a process of its own: loads, measures, prints one JSON line per measurement.

    PYTHON worker.py --work WORK --entry NAME --what load,prefill,decode,batch [--round R] [--threads N]
    PYTHON worker.py --work WORK --entry NAME --what accuracy

PYTHON is the interpreter of the engine's environment; ``race.py`` and ``prepare.py`` start it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from catalogue import Entry, find
from engines.base import Engine, Run, Timer
from layout import ACCURACY_TOKENS, Words, models
from measure import CONTENDED, Watch, resident

BATCH_STEPS = 24


class Worker:
    """Loads ``entry`` and measures it."""

    def __init__(self, entry: Entry, work: Path, threads: int, round_number: int, tries: int) -> None:
        self._entry, self._work, self._threads, self._round, self._tries = entry, work, threads, round_number, tries
        self._words = Words(work)
        self._prompts_made = 0
        self._constructor = importlib.import_module(f"engines.{entry.module}").Engine
        self._imported = resident()

    def load(self, path: str) -> Engine:
        return self._constructor(models(self._work) / path, self._threads, **self._entry.options)

    def emit(self, metric: str, value: float, watch: Watch, unit: str = "tok/s", **more: Any) -> bool:
        """Prints the line; True if others used the CPU meanwhile."""
        others = watch.others()
        contended = others["foreign"] + others["stolen"] > CONTENDED
        line = {"round": self._round, "entry": self._entry.name, "metric": metric, "value": round(value, 4)}
        line |= {"unit": unit, "contended": contended, **others, "time": round(time.time(), 1), **more}
        print(json.dumps(line), flush=True)
        return contended

    # -- timing ------------------------------------------------------------------------------------------------------

    def race(self, what: set[str]) -> None:
        watch = Watch()
        with Timer() as load:
            engine = self.load(self._entry.path)
        first = self._generate(engine, 1, ACCURACY_TOKENS, 1)
        self.emit("load", load.seconds, watch, "s", **engine.about())
        self.emit("first_token", load.seconds + first.prefill_seconds, watch, "s")
        self._generate(engine, 1, 16, 4)  # the first steps of some engines allocate
        for length in sorted(self._lengths(what)):
            self._one(engine, length, what)
        self._emit_memory("peak_resident")
        for count in self._entry.sequences if "batch" in what else ():
            self._batch(engine, count)
        if "batch" in what and self._entry.sequences:
            self._emit_memory("peak_resident_batch")

    def _lengths(self, what: set[str]) -> set[int]:
        prefill = self._entry.prefill if "prefill" in what else ()
        return {*prefill, *(self._entry.decode if "decode" in what else ())}

    def _one(self, engine: Engine, length: int, what: set[str]) -> None:
        """One sequence: the prefill of ``length`` tokens and, where asked for, the steps after it."""
        decode = "decode" in what and length in self._entry.decode
        steps = self._entry.steps if decode else 0

        def once() -> bool:
            watch = Watch()
            run = self._generate(engine, 1, length, steps + 1)
            busy = False
            if "prefill" in what and length in self._entry.prefill:
                busy = self.emit(f"prefill@{length}", length / run.prefill_seconds, watch)
            if decode:
                busy = self.emit(f"decode@{length}", _rate(run, 1), watch, **_spread(run)) or busy
            return busy

        self._until_quiet(once)

    def _batch(self, engine: Engine, count: int) -> None:
        def once() -> bool:
            watch = Watch()
            run = self._generate(engine, count, 64, BATCH_STEPS + 1)
            seconds = run.prefill_seconds + run.decode_seconds
            return self.emit(f"batch{count}@64", _rate(run, count), watch, whole_s=round(seconds, 3), **_spread(run))

        self._until_quiet(once)

    def _until_quiet(self, once: Callable[[], bool]) -> None:
        """Contended measurements are repeated, ``tries`` in all; every line is printed."""
        for _ in range(self._tries):
            if not once():
                return

    def _emit_memory(self, name: str) -> None:
        now = resident()
        more = {"anonymous": round(now.anonymous, 3), "after_import": round(self._imported.now, 3)}
        self.emit(name, now.peak, Watch(), "GiB", **more)

    def _generate(self, engine: Engine, count: int, length: int, new_tokens: int) -> Run:
        prompts = []
        for _ in range(count):
            self._prompts_made += 1
            prompts.append(self._words.prompt(length, f"round {self._round} {self._prompts_made}"))
        return engine.generate(prompts, new_tokens)

    # -- accuracy ----------------------------------------------------------------------------------------------------

    def accuracy(self) -> None:
        """Logits of the accuracy prompts against the float32 ones; every position counts."""
        truth = np.load(self._work / "reference.npz")
        prompts = self._words.accuracy_prompts()
        if truth["ids"].tolist() != [prompt.ids for prompt in prompts]:
            raise SystemExit("reference.npz is of other prompts; delete it and run prepare.py")
        engine = self.load(self._entry.accuracy_path or self._entry.path)
        rows = np.concatenate([engine.logits(prompt) for prompt in prompts]).astype(np.float64)
        if not np.isfinite(rows).all():
            raise SystemExit(f"{self._entry.name} computes logits that are not finite")
        more = {"entry": self._entry.name, "metric": "accuracy", **compare(rows, truth["logits"]), **engine.about()}
        print(json.dumps(more), flush=True)


def compare(rows: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """rows f64 [P*T, V] against truth f32 [P, T, V]: relative L2, mean KL(truth‖rows), equal argmax."""
    exact = truth.reshape(rows.shape).astype(np.float64)
    p, q = _log_softmax(exact), _log_softmax(rows)
    return {
        "relative_l2": round(float(np.linalg.norm(rows - exact) / np.linalg.norm(exact)), 5),
        "kl": round(float((np.exp(p) * (p - q)).sum(-1).mean()), 6),
        "same_argmax": round(float((rows.argmax(-1) == exact.argmax(-1)).mean()), 4),
    }


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _rate(run: Run, count: int) -> float:
    """Tokens per second: at the median step, or over the stretch that an engine reports instead of steps."""
    return count / statistics.median(run.steps) if run.steps else run.tokens / run.seconds


def _spread(run: Run) -> dict[str, Any]:
    """The mean step beside the median, and the slow end, in ms."""
    if not run.steps:
        return {}
    ordered = sorted(run.steps)
    tenth = ordered[int(0.9 * (len(ordered) - 1))]
    return {"mean_ms": round(1e3 * statistics.mean(ordered), 3), "p90_ms": round(1e3 * tenth, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--what", default="prefill,decode,batch")
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--tries", type=int, default=1)
    arguments = parser.parse_args()
    worker = Worker(find(arguments.entry), arguments.work, arguments.threads, arguments.round, arguments.tries)
    what = set(arguments.what.split(","))
    if what == {"accuracy"}:
        worker.accuracy()
    else:
        worker.race(what)


if __name__ == "__main__":
    main()
