"""Thousands of short requests of every kind, some cancelled, some late: nothing leaks and every one ends once.

The engine is checked from outside: each request's events arrive in the promised order, "done" exactly once and last,
one "end" per sample, a reason that the request allows; afterwards no sequence holds a page, the cache's own rules
hold, and the memory of the process has not grown since the warm-up.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CapacityError, InvalidArgumentError, TinyGPTVError
from .resident import resident_bytes

if TYPE_CHECKING:
    from .. import _native
    from .subject import Subject

GROWTH_BYTES = 20_000_000
"""Resident memory may be this much above what it was after the warm-up."""
WARM_UP = 0.1
"""Share of the requests after which memory is first looked at."""
IN_FLIGHT = 24
_PREFIXES = 6
_STUCK_S = 120.0


@dataclass
class Expected:
    """A request under way: how many samples must end, what kind of result it has, and what has happened so far."""

    request: int
    kind: str
    samples: int
    deadline: bool
    cancelled: bool = False
    ends: Counter[int] = field(default_factory=Counter)
    results: int = 0
    done: bool = False


@dataclass
class Result:
    """What a soak saw. ``problems`` is empty if all is well."""

    requests: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    resident_after_warm_up: int = 0
    resident_most: int = 0
    pages: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes of resident memory above those after the warm-up, at most."""
        return max(0, self.resident_most - self.resident_after_warm_up)

    def to_dict(self) -> dict[str, Any]:
        """json-ready."""
        return {
            "requests": self.requests,
            "seconds": self.seconds,
            "reasons": dict(self.reasons),
            "kinds": dict(self.kinds),
            "resident_after_warm_up": self.resident_after_warm_up,
            "growth_bytes": self.growth,
            "pages": self.pages,
            "problems": self.problems[:20],
        }

    def raise_if_failed(self) -> None:
        """TinyGPTVError with the first problem, if there is any."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise TinyGPTVError(f"soak: {self.problems[0]}{more}")


class Soak:
    """``requests`` requests from ``seed`` to ``engine``, ``IN_FLIGHT`` at a time at most."""

    def __init__(
        self, engine: _native.Engine, vocab: int, width: int, requests: int, seed: int = 0, growth: int = GROWTH_BYTES
    ) -> None:
        self._engine = engine
        self._vocab, self._width, self._wanted, self._growth = vocab, width, requests, growth
        self._random = random.Random(seed)
        self._prefixes = [self._ids(self._random.randrange(20, 80)) for _ in range(_PREFIXES)]
        self._under_way: dict[int, Expected] = {}
        self.result = Result()

    @classmethod
    def over(cls, subject: Subject, requests: int, *, seed: int = 0, threads: int = 0, isa: str = "") -> Soak:
        """A soak of an engine of its own over ``subject``; the tokens' texts are two letters each, for stop strings."""
        from .. import _native

        vocab = subject.text.vocab_size
        texts = [bytes((97 + i // 26 % 26, 97 + i % 26)) for i in range(vocab)]
        running = _native.Engine(
            subject.weights, threads=threads, isa=isa, kv_kind=subject.kv_kind, kv_tokens=1536, max_sequences=8,
            prefill_chunk=64, token_bytes=texts,
        )  # fmt: skip
        return cls(running, vocab, subject.text.width, requests, seed)

    def run(self, report: Callable[[int, str], None] = lambda done, text: None) -> Result:
        """Everything, then the last checks; closes the engine. Problems are in the result, not raised."""
        result, start, last = self.result, time.perf_counter(), time.perf_counter()
        submitted = 0
        while result.requests < self._wanted:
            while submitted < self._wanted and len(self._under_way) < self._random.randrange(1, IN_FLIGHT + 1):
                submitted += self._submit()
            self._maybe_cancel()
            before = result.requests
            self._read()
            if result.requests != before:
                last = time.perf_counter()
                self._watch_memory(report)
            elif time.perf_counter() - last > _STUCK_S:
                result.problems.append(f"no request has ended for {_STUCK_S:.0f} s; {len(self._under_way)} under way")
                break
        result.seconds = time.perf_counter() - start
        self._check_pages()
        self._engine.close()
        return result

    # --- sending ------------------------------------------------------------------------------------------------------
    def _ids(self, count: int) -> list[int]:
        return [self._random.randrange(self._vocab) for _ in range(count)]

    def _prompt(self) -> tuple[Any, Any]:
        """A shared beginning or none, then some ids of its own; sometimes rows of embeddings between them."""
        r = self._random
        ids = list(r.choice(self._prefixes)) if r.random() < 0.6 else []
        embeddings = None
        if r.random() < 0.2:
            rows = r.randrange(1, 33)
            generator = np.random.default_rng(r.randrange(4))  # few pictures, often shown again
            embeddings = generator.standard_normal((rows, self._width), dtype=np.float32)
            ids += [-1] * rows
        ids += self._ids(r.randrange(1, 24))
        return np.array(ids, np.int32), embeddings

    def _submit(self) -> int:
        """Send one; 1 if the engine took it. A full queue is no fault."""
        r = self._random
        kind = r.choices(("generate", "beams", "score", "logits"), (88, 4, 5, 3))[0]
        ids, embeddings = self._prompt()
        deadline = r.choice((1e-4, 0.01, 0.05)) if r.random() < 0.08 else None
        samples = 1
        try:
            if kind == "generate":
                samples = r.choices((1, 2, 3), (85, 10, 5))[0]
                request = self._generate(ids, embeddings, samples, deadline)
            elif kind == "beams":
                request = self._engine.submit_beams(
                    ids, embeddings, beams=3, returned=2, max_new_tokens=r.randrange(1, 12), deadline_s=deadline
                )
            elif kind == "score":
                candidates = [self._ids(r.randrange(1, 6)) for _ in range(r.randrange(1, 5))]
                request = self._engine.submit_score(ids, embeddings, candidates, deadline_s=deadline)
            else:
                request = self._engine.submit_logits(ids, embeddings, first=len(ids) - 1, deadline_s=deadline)
        except CapacityError:
            return 0
        self._under_way[request] = Expected(request, kind, samples, deadline is not None)
        self.result.kinds[kind] += 1
        return 1

    def _generate(self, ids: Any, embeddings: Any, samples: int, deadline: float | None) -> int:
        r = self._random
        sampled = samples > 1 or r.random() < 0.4
        settings: dict[str, Any] = {}
        if sampled:
            settings |= {"temperature": r.uniform(0.5, 1.5), "seed": r.randrange(1 << 30)}
            settings |= r.choice(({}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 50, "top_p": 0.8}))
        if r.random() < 0.3:
            settings |= r.choice(
                ({"repetition_penalty": 1.2}, {"presence_penalty": 0.5}, {"frequency_penalty": 0.3},
                 {"logit_bias": {3: 5.0, 7: -100.0}})
            )  # fmt: skip
        if r.random() < 0.4:
            settings["stop"] = [r.choice((b"ab", b"q", b"xyz", b"aab")) for _ in range(r.randrange(1, 3))]
        if r.random() < 0.3:
            settings["eos_ids"] = self._ids(r.randrange(1, 40))
        if not sampled and r.random() < 0.2:
            settings["speculate"] = True
        if r.random() < 0.1:
            settings["top_logprobs"] = 3
        return int(
            self._engine.submit(
                ids, embeddings, max_new_tokens=r.randrange(1, 33), samples=samples, deadline_s=deadline, **settings
            )
        )

    def _maybe_cancel(self) -> None:
        r = self._random
        if self._under_way and r.random() < 0.1:
            chosen = r.choice(list(self._under_way.values()))
            chosen.cancelled = True
            for _ in range(r.choice((1, 1, 2))):  # twice does nothing
                self._engine.cancel(chosen.request)

    # --- reading ------------------------------------------------------------------------------------------------------
    def _read(self) -> None:
        """Events of one request, some longer than others without being read."""
        if not self._under_way:
            return
        expected = self._under_way[self._random.choice(list(self._under_way))]
        for event in self._engine.next(expected.request, 0.005):
            self._take(expected, event)
        if expected.done:
            del self._under_way[expected.request]
            self._finish(expected)

    def _take(self, expected: Expected, event: tuple[Any, ...]) -> None:
        if expected.done:
            self._problem(expected, f"event {event[0]!r} after 'done'")
        elif event[0] == "done":
            expected.done = True
        elif event[0] == "end":
            expected.ends[event[1]] += 1
            self.result.reasons[event[2]] += 1
            allowed = {"stop", "length"} | ({"deadline"} if expected.deadline else set())
            if event[2] not in allowed | ({"cancelled"} if expected.cancelled else set()):
                self._problem(expected, f"ended as {event[2]}: {event[3]}")
        elif event[0] == "token" and expected.ends[event[1]]:
            self._problem(expected, f"a token of sample {event[1]} after its end")
        else:
            expected.results += 1

    def _finish(self, expected: Expected) -> None:
        self.result.requests += 1
        if expected.kind == "generate" and expected.ends != Counter(range(expected.samples)):
            self._problem(expected, f"its samples ended {dict(expected.ends)} times, expected each once")
        if expected.kind != "generate" and not expected.results and not (expected.cancelled or expected.deadline):
            self._problem(expected, "ended without a result")
        try:
            self._engine.next(expected.request, 0.0)
        except InvalidArgumentError:
            return  # forgotten, as promised
        self._problem(expected, "is still known after 'done'")

    def _problem(self, expected: Expected, text: str) -> None:
        self.result.problems.append(f"request {expected.request} ({expected.kind}) {text}")

    # --- memory -------------------------------------------------------------------------------------------------------
    def _watch_memory(self, report: Callable[[int, str], None]) -> None:
        result, done = self.result, self.result.requests
        if done % max(1, self._wanted // 200) and done != self._wanted:
            return
        resident = resident_bytes()
        if not result.resident_after_warm_up:
            if done >= WARM_UP * self._wanted:
                result.resident_after_warm_up = result.resident_most = resident
        else:
            result.resident_most = max(result.resident_most, resident)
        report(done, f", {resident / 1e6:.0f} MB resident")
        if done == self._wanted and result.growth > self._growth:
            result.problems.append(
                f"resident memory grew by {result.growth / 1e6:.1f} MB after the warm-up, "
                f"expected at most {self._growth / 1e6:.0f}"
            )

    def _check_pages(self) -> None:
        try:
            self._engine.check()
            pages = self.result.pages = dict(self._engine.counts())
        except TinyGPTVError as error:
            self.result.problems.append(f"the cache broke one of its rules: {error}")
            return
        for name in ("sequences", "referenced", "promised"):
            if pages[name]:
                self.result.problems.append(f"the cache says {name}={pages[name]} at the end, expected 0")
        if pages["free"] + pages["kept"] != pages["pages"]:
            self.result.problems.append(f"pages are lost: {pages}, expected free + kept = pages")
