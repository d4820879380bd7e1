"""The engine as callers meet it: requests, streamed tokens, several at once, the evenness of the stream, a soak."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _native
from .blocks import Cost
from .decoder import BATCH_CONTEXT, BATCH_TOKENS, CHUNK, decode_block, per_second
from .noise import Noise, between
from .row import Row, from_blocks, from_values
from .session import Session
from .soak import Soak

QUIET = 0.005
"""Share of foreign or of stolen CPU time above which a window of the stream is listed apart."""
JITTER_CONTEXTS = (64, 192)
JITTER_TIMES = 4000
_WAIT_S = 5.0
_ALONE = 24  # tokens of a stream before a prompt is read beside it, and after


def open_engine(session: Session, kv_tokens: int) -> _native.Engine:
    """An engine over the subject's weights."""
    subject, options = session.subject, session.options
    return _native.Engine(
        subject.weights,
        threads=options.threads,
        isa=options.isa,
        kv_kind=subject.kv_kind,
        kv_tokens=kv_tokens,
        max_sequences=8,
        prefill_chunk=CHUNK,
    )


def arrivals(engine: _native.Engine, request: int) -> list[float]:
    """When each token of ``request`` came, in seconds of ``perf_counter``; raises if it ends in an error."""
    times: list[float] = []
    while True:
        for event in engine.next(request, _WAIT_S):
            if event[0] == "token":
                times.append(time.perf_counter())
            elif event[0] == "end" and event[2] != "length":
                raise RuntimeError(f"a request of the benchmark ended as {event[2]}: {event[3]}")
            elif event[0] == "done":
                return times


def submit(engine: _native.Engine, ids: list[int], tokens: int) -> int:
    """A greedy request of exactly ``tokens`` tokens."""
    prompt: Any = np.array(ids, np.int32)
    return int(engine.submit(prompt, None, max_new_tokens=tokens))


def engine(session: Session) -> Iterator[Row]:
    """Streaming one request, reading a prompt, eight requests at once: what the step alone does, and what is lost."""
    subject, block = session.subject, decode_block(session)
    running = open_engine(session, 8 * 256)
    try:
        yield _stream_row(session, running, block)
        yield _first_token_row(session, running)
        tokens = 4 if session.options.quick else BATCH_TOKENS
        prompts = [subject.ids(BATCH_CONTEXT, seed) for seed in range(8)]

        def eight() -> None:
            for request in [submit(running, ids, tokens) for ids in prompts]:
                arrivals(running, request)

        blocks = session.blocks("engine, 8 requests", eight, session.options.few_blocks)
        yield from_blocks(
            "engine", f"8 requests, ctx {BATCH_CONTEXT}, from submit to last token", "tok/s", blocks,
            _eight_cost(session, tokens), per_second(8 * tokens), session.peak, tokens_each=tokens,
            prompts="the same ones in each block, so found in the cache",
        )  # fmt: skip
    finally:
        running.close()


def _stream_row(session: Session, running: _native.Engine, block: int) -> Row:
    """One stream; the time from a block's first token to its last, so one token more is asked for."""
    subject = session.subject
    ids = subject.ids(64)

    def stream() -> float:
        times = arrivals(running, submit(running, ids, block + 1))
        return times[-1] - times[0]

    blocks = session.blocks("engine, one stream", stream, session.options.blocks)
    moved = sum(subject.step(64 + i, 1, 1).bytes for i in range(block))
    ops = sum(subject.step(64 + i, 1, 1).ops for i in range(block))
    return from_blocks(
        "engine", "one stream, ctx 64", "tok/s", blocks, Cost(moved, ops), per_second(block), session.peak,
        tokens_per_block=block,
    )  # fmt: skip


def _first_token_row(session: Session, running: _native.Engine) -> Row:
    """From submit to the first token of a 64-token prompt that the cache does not know."""
    subject, seeds = session.subject, itertools.count(1000)

    def first() -> float:
        ids = subject.ids(64, next(seeds))
        start = time.perf_counter()
        return arrivals(running, submit(running, ids, 1))[0] - start

    blocks = session.blocks("engine, first token", first, session.options.blocks)
    return from_blocks(
        "engine", "first token of 64", "ms", blocks, subject.step(0, 64, 1), lambda s: 1e3 * s, session.peak
    )


def _eight_cost(session: Session, tokens: int) -> Cost:
    """Only what decoding must do: one step more than the tokens that are fed back."""
    subject, moved, ops = session.subject, 0, 0
    for i in range(tokens):
        one = subject.step(BATCH_CONTEXT - 1 + i, 1, 1)
        moved += one.bytes + 7 * subject.kv_bytes * (BATCH_CONTEXT + i)
        ops += 8 * one.ops
    return Cost(moved, ops)


# --- the evenness of the stream ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Window:
    """Seconds between the tokens of one stream, and who else used the processor meanwhile."""

    gaps: list[float]
    noise: Noise

    @property
    def quiet(self) -> bool:
        return self.noise.foreign <= QUIET and self.noise.stolen <= QUIET


def jitter(session: Session) -> Iterator[Row]:
    """Times between tokens at contexts 64 to 192, until enough come from quiet windows or twice as many are there."""
    first, last = JITTER_CONTEXTS
    wanted = 100 if session.options.quick else JITTER_TIMES
    running, windows = open_engine(session, 2 * (last + 16)), []
    try:
        ids = session.subject.ids(first)
        arrivals(running, submit(running, ids, 8))
        quiet = total = 0
        while quiet < wanted and total < 2 * wanted:
            session.note(f"jitter, {quiet} of {wanted} times in quiet windows")
            window = _window(session, running, ids, last - first)
            windows.append(window)
            total += len(window.gaps)
            quiet += len(window.gaps) if window.quiet else 0
    finally:
        running.close()
    yield jitter_row("times between tokens, quiet windows", [w for w in windows if w.quiet])
    yield jitter_row("times between tokens, disturbed windows", [w for w in windows if not w.quiet])
    yield _beside_a_prompt(session)


def _beside_a_prompt(session: Session) -> Row:
    """Times between tokens of a stream while prompts are read: a step that does both is to last two others."""
    subject, prompt = session.subject, 64 if session.options.quick else 1024
    session.note("jitter, a stream beside prompts")
    running = open_engine(session, 4 * prompt + 256)
    try:
        alone: list[float] = []
        beside: list[float] = []
        for seed in range(2):
            _stream_beside(running, subject.ids(64), subject.ids(prompt, 2000 + seed), alone, beside)
        share = running.metrics()["prefill_share"]
    finally:
        running.close()
    usual = statistics.median(alone)
    ratios = sorted(gap / usual for gap in beside)
    return from_values(
        "jitter", f"times between tokens while {prompt} are read", "ms", [1e3 * gap for gap in beside],
        alone_ms=1e3 * usual, prompt_tokens_a_step=share, over_alone_median=statistics.median(ratios),
        over_alone_p90=ratios[int(0.9 * len(ratios))],
    )  # fmt: skip


def _stream_beside(
    running: _native.Engine, ids: list[int], prompt: list[int], alone: list[float], beside: list[float]
) -> None:
    """Stream; after some tokens submit ``prompt``. Gaps until it is read go to ``beside``, all others to ``alone``."""
    stream, reading, read, last = submit(running, ids, len(prompt) + 256), -1, False, 0.0
    before = len(alone) + _ALONE
    while True:
        for event in running.next(stream, _WAIT_S):
            now = time.perf_counter()
            if event[0] == "token":
                if last:
                    (beside if reading >= 0 and not read else alone).append(now - last)
                last = now
            elif event[0] == "done":
                return
        if reading < 0 and len(alone) >= before:
            reading = submit(running, prompt, 1)
        elif reading >= 0 and not read:
            read = any(event[0] == "done" for event in running.next(reading, 0.0))
        elif read and len(alone) >= before + _ALONE:
            running.cancel(stream)


def _window(session: Session, running: _native.Engine, ids: list[int], tokens: int) -> Window:
    before = session.instruments.noise()
    times = arrivals(running, submit(running, ids, tokens + 1))
    noise = between(before, session.instruments.noise())
    return Window([b - a for a, b in itertools.pairwise(times)], noise)


def jitter_row(name: str, windows: list[Window]) -> Row:
    """Median and p99 of all gaps of ``windows``; a window above ``QUIET`` belongs to a row of its own."""
    gaps = sorted(1e3 * gap for window in windows for gap in window.gaps)
    row = from_values("jitter", name, "ms", gaps, windows=len(windows), quiet_share=QUIET)
    if gaps:
        p99 = gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))]
        row.details.update(p99=p99, p99_over_median=p99 / statistics.median(gaps), worst=gaps[-1])
    return row


def soak(session: Session) -> Iterator[Row]:
    """Short requests of every kind with cancels and deadlines; raises unless memory and pages come back."""
    count = 300 if session.options.quick else 20_000
    result = Soak.over(session.subject, count, threads=session.options.threads, isa=session.options.isa).run(
        lambda done, text: session.note(f"soak, {done} of {count} requests{text}")
    )
    yield from_values("soak", f"{count} requests", "requests/s", [result.requests / result.seconds], **result.to_dict())
    result.raise_if_failed()
