"""tinygptv_fast. Options: level 'ids' | 'api', backend 'native' | 'reference'.

``ids`` hands token ids to the native engine and takes ids back, as the others are used; ``api`` is what users call,
``generate`` and ``generate_batch`` with text, tokenising and detokenising included.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinygptv_fast
from engines.base import Run
from layout import Prompt

_MANY = 512  # tokens that requests of a batch ask for; they are cancelled when enough have been seen
_WAIT_S = 1.0


class Engine:
    """Nothing stops early: the directory has no end token."""

    def __init__(self, path: Path, threads: int, level: str = "ids", backend: str = "native", **_: Any) -> None:
        self._level = level
        self._model = tinygptv_fast.TinyGPTV.from_pretrained(path, vision=False, threads=threads, backend=backend)

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        if self._level == "api":
            return self._through_api(prompts, new_tokens)
        return self._one(prompts[0], new_tokens) if len(prompts) == 1 else self._together(prompts, new_tokens)

    def logits(self, prompt: Prompt) -> np.ndarray:
        self._check(prompt)
        return self._model.logits(None, prompt.text, template="raw").numpy()

    def about(self) -> dict[str, Any]:
        info = self._model.info
        keys = ("backend", "quantization", "group_size", "kv_dtype", "isa", "threads")
        known = {key: info[key] for key in keys if key in info}
        return {"version": tinygptv_fast.__version__, "level": self._level, **known}

    # -- ids ---------------------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Any:
        """The native engine, which the package offers for tests and benchmarks."""
        backend: Any = self._model._backend
        return backend.engine

    def _submit(self, prompt: Prompt, new_tokens: int) -> int:
        return int(self._engine.submit(np.array(prompt.ids, np.int32), None, max_new_tokens=new_tokens))

    def _poll(self, request: int, wait_s: float) -> tuple[int, bool]:
        """(tokens that came, whether the request is over). An error ends the process."""
        tokens, over = 0, False
        for event in self._engine.next(request, wait_s):
            tokens += event[0] == "token"
            over = over or event[0] == "done"
            if event[0] == "end" and event[2] not in ("length", "cancelled"):
                raise SystemExit(f"a request ended as {event[2]}: {event[3]}")
        return tokens, over

    def _one(self, prompt: Prompt, new_tokens: int) -> Run:
        start = time.perf_counter()
        request, times, over = self._submit(prompt, new_tokens), [], False
        while not over:
            tokens, over = self._poll(request, _WAIT_S)
            times += [time.perf_counter()] * tokens
        steps = [after - before for before, after in itertools.pairwise(times)]
        return Run(times[0] - start, steps)

    def _together(self, prompts: list[Prompt], new_tokens: int) -> Run:
        """Prompts are read while the first sequences decode already, so the rate is that of the stretch from when all
        have a first token until each has had ``new_tokens - 1`` more; then the requests are cancelled."""
        start = time.perf_counter()
        requests = [self._submit(prompt, _MANY) for prompt in prompts]
        seen = [0] * len(requests)
        begun, at_begin = 0.0, list(seen)
        while not begun or min(now - then for now, then in zip(seen, at_begin, strict=True)) < new_tokens - 1:
            for index, request in enumerate(requests):
                tokens, over = self._poll(request, _WAIT_S if index == 0 else 0.0)
                seen[index] += tokens
                if over:
                    raise SystemExit(f"a sequence ended after {seen[index]} tokens, before the stretch did")
            if not begun and min(seen):
                begun, at_begin = time.perf_counter(), list(seen)
        seconds = time.perf_counter() - begun
        for request in requests:
            self._engine.cancel(request)
            while not self._poll(request, _WAIT_S)[1]:
                pass
        return Run(begun - start, tokens=sum(seen) - sum(at_begin), seconds=seconds)

    # -- api ---------------------------------------------------------------------------------------------------------

    def _through_api(self, prompts: list[Prompt], new_tokens: int) -> Run:
        """One sequence: its own timings. Several: everything from the call to the last answer counts as decoding."""
        for prompt in prompts:
            self._check(prompt)
        settings: dict[str, Any] = {"template": "raw", "max_new_tokens": new_tokens}
        if len(prompts) == 1:
            answer = self._model.generate(None, prompts[0].text, **settings)
            self._check_count(answer, new_tokens)
            first = answer.timings.first_token / 1e3
            return Run(first, tokens=new_tokens - 1, seconds=max(answer.timings.total / 1e3 - first, 1e-9))
        start = time.perf_counter()
        for each in self._model.generate_batch([{"prompt": prompt.text, **settings} for prompt in prompts]):
            self._check_count(each, new_tokens)
        return Run(0.0, tokens=len(prompts) * new_tokens, seconds=time.perf_counter() - start)

    def _check(self, prompt: Prompt) -> None:
        if self._model.tokenizer.encode(prompt.text) != prompt.ids:
            raise SystemExit(f"{prompt.text[:60]!r} is not tokenised to the ids that the other engines get")

    @staticmethod
    def _check_count(answer: Any, expected: int) -> None:
        if len(answer.token_ids) != expected:
            raise SystemExit(f"{len(answer.token_ids)} tokens were generated, expected {expected}")
