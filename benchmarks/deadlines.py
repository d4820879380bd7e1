"""How late a request ends behind its deadline, or behind a cancel, by the phase that it was in.

    python benchmarks/deadlines.py [--model DIR|demo] [--count 500] [--cancels N] [--most 6] [--save]

Each of ``--count`` requests has a picture that was never seen, a prompt, and an answer that would not end by itself;
its deadline is uniform in ``--least`` .. ``--most`` seconds. Then ``--cancels`` others (default: as many) without a
deadline, cancelled after such a time.
Overshoot is the time from the deadline or the cancel to the return of the call. The phase is the one that the time fell
into: vision (nothing was submitted yet), prefill (submitted, no token), decode; a request that was through before its
time is counted as "finished" and has no overshoot.

Before anything is timed the answers are checked: what a deadline has cut off must be the beginning of the whole answer.
Prints one JSON line per way of ending and phase (``--save`` appends them to benchmarks/results/deadlines.jsonl).

For the model directory that make_full_size.py and ``tinygptv convert`` make; on the demo model try --most 0.3.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import tinygptv_fast as tgv
from quantize_common import append
from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash
from tinygptv_fast.generate.control import Control
from tinygptv_fast.generate.decoding import run
from tinygptv_fast.generate.request import Request

PHASES = ("vision", "prefill", "decode")
SIDE = 64
# To the letter and with no end id, so that an answer goes on until its deadline or the end of the context.
ENDLESS: dict[str, Any] = {
    "prompt": "<Img><ImageHere></Img> tell me all that you see, and then more",
    "template": "raw",
    "eos_token_id": [],
}
CHECKED, WHOLE = 6, 64
Measured = tuple[str, float | None]  # phase, and overshoot in ms unless it was finished


def picture(number: int) -> np.ndarray:
    """A picture of its own, uint8 [SIDE, SIDE, 3]."""
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def phase_of(answer: tgv.Answer) -> str:
    """Where the request was when its time was up; "finished" if it was through."""
    if answer.finish_reason not in ("deadline", "cancelled"):
        return "finished"
    if not answer.usage.prompt:
        return "vision"
    return "decode" if answer.token_ids else "prefill"


def check(model: tgv.TinyGPTV, most_s: float) -> None:
    """SystemExit unless answers that a deadline cuts are the beginning of the whole one."""
    state = model.encode_image(picture(0))
    whole = model.generate(state, **ENDLESS, max_new_tokens=WHOLE)
    for number in range(1, CHECKED + 1):
        cut = model.generate(
            state, **ENDLESS, max_new_tokens=WHOLE, deadline_ms=max(1e3 * most_s * number / CHECKED, 1e-3)
        )
        if cut.token_ids != whole.token_ids[: len(cut.token_ids)]:
            raise SystemExit(f"{cut.token_ids} before a deadline, {whole.token_ids} without one")


def end_by_deadline(model: tgv.TinyGPTV, shown: Any, seconds: float, room: int) -> Measured:
    began = time.perf_counter()
    answer = model.generate(shown, **ENDLESS, max_new_tokens=room, deadline_ms=1e3 * seconds)
    return _measured(answer, began + seconds)


def end_by_cancel(model: tgv.TinyGPTV, shown: Any, seconds: float, room: int) -> Measured:
    """As a coroutine that is cancelled does it (``generate/bridge.py``), seen from the thread that works."""
    control = Control()
    cancelled: list[float] = []

    def cancel() -> None:
        cancelled.append(time.perf_counter())
        control.cancel()

    request = Request.of({"image": shown, **ENDLESS, "max_new_tokens": room})
    timer = threading.Timer(seconds, cancel)
    timer.start()
    try:
        answer = run(model._begin(request, control))
    finally:
        timer.cancel()
        timer.join()
    return _measured(answer, cancelled[0] if cancelled else 0.0)


def _measured(answer: tgv.Answer, due: float) -> Measured:
    returned = time.perf_counter()
    phase = phase_of(answer)
    return phase, None if phase == "finished" else 1e3 * (returned - due)


def summarise(found: Sequence[Measured]) -> Iterator[dict[str, Any]]:
    """One row per phase that occurred, the finished ones last."""
    for phase in PHASES:
        late = [ms for name, ms in found if name == phase and ms is not None]
        if late:
            p50, p99 = np.percentile(late, [50, 99])
            yield {"phase": phase, "count": len(late), "overshoot_ms_p50": round(float(p50), 3),
                   "overshoot_ms_p99": round(float(p99), 3), "overshoot_ms_most": round(max(late), 3)}  # fmt: skip
    yield {"phase": "finished", "count": sum(name == "finished" for name, _ in found)}


WAYS: dict[str, Callable[[tgv.TinyGPTV, Any, float, int], Measured]] = {
    "deadline": end_by_deadline,
    "cancel": end_by_cancel,
}


def measure(
    directory: str, counts: dict[str, int], least: float, most: float, threads: int | None
) -> Iterator[dict[str, Any]]:
    """counts: how many requests end in each of ``WAYS``."""
    with tgv.TinyGPTV.from_pretrained(directory, threads=threads) as model:
        check(model, most)
        room = model.prompt_room  # more than there is: what a request can have is cut to the context
        facts = {"least_s": least, "most_s": most, "model": model.info["model_id"][:12],
                 "threads": model.info["threads"], "cpu": _native.cpu_brand()}  # fmt: skip
        for offset, (way, end) in enumerate(WAYS.items(), 1):
            times = np.random.default_rng(offset).uniform(least, most, counts[way])
            found = [end(model, picture(offset * 1_000_000 + n), float(s), room) for n, s in enumerate(times)]
            for row in summarise(found):
                yield {"benchmark": "deadlines", "what": way, **row, **facts}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--cancels", type=int)
    parser.add_argument("--least", type=float, default=0.05, help="seconds")
    parser.add_argument("--most", type=float, default=6.0, help="seconds")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args(argv)
    rows, commit = [], git_hash()  # before: what runs is what was there when it began
    counts = {"deadline": args.count, "cancel": args.count if args.cancels is None else args.cancels}
    for row in measure(args.model, counts, args.least, args.most, args.threads):
        rows.append(row | {"git": commit})
        print(json.dumps(rows[-1]), flush=True)
    if args.save:
        append("deadlines.jsonl", rows)


if __name__ == "__main__":
    main()
