"""Decodes with the reference modules: exact and slow, the oracle that the native engine is compared with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..checkpoint.directory import ModelDirectory
from ..conversion import load_state
from ..errors import ClosedError, UnsupportedError
from ..protocol import VISUAL, Event, GenerationOptions, Picture, Prompt
from ..reference import TinyGPTVReference, generate
from ..reference.box_grammar import BoxGrammar
from ..reference.generation import decode_steps

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ReferenceBackend:
    """The model of a directory in plain torch, dequantised to ``dtype``. One request at a time; thread-safe."""

    name = "reference"
    parallel = 1

    def __init__(self, directory: ModelDirectory, dtype: str, token_bytes: list[bytes], *, vision: bool) -> None:
        config = directory.config if vision else replace(directory.config, vision=None, qformer=None)
        state = load_state(directory)
        if not vision:
            state = {name: tensor for name, tensor in state.items() if name.startswith("text.")}
        with torch.device("meta"):
            model = TinyGPTVReference(config)
        self.dtype = DTYPES[dtype]
        tensors = {name: tensor.to(self.dtype) for name, tensor in state.items()}
        model.load_state_dict(tensors, strict=True, assign=True)
        self._dtype_name = dtype
        self._token_bytes = token_bytes
        self._model: TinyGPTVReference | None = model.eval().requires_grad_(False)
        self._lock = threading.Lock()

    @torch.no_grad()
    def encode_image(self, picture: Picture, check: Callable[[], None]) -> Tensor:
        """Visual tokens f32 [NQ, C]. Raises UnsupportedError without a vision tower."""
        check()
        with self._lock:
            model = self._open()
            if model.config.vision is None:
                raise UnsupportedError("this model was loaded without its vision tower: give an ImageState or no image")
            return model.encode_image(picture.pixels()[None].to(self.dtype))[0].float()

    @torch.no_grad()
    def logits(self, prompt: Prompt) -> Tensor:
        """f32 [T, V]."""
        with self._lock:
            text = self._open().text
            return text.logits(text(self._embed(prompt)[None]))[0]

    def submit(
        self, prompt: Prompt, options: GenerationOptions, stops: Sequence[str], deadline_s: float | None
    ) -> ReferenceJob:
        """Greedy or sampled decoding, one step per poll. Stop strings are left to the caller."""
        del stops
        if options.extras:
            raise UnsupportedError(
                f"{options.extras[0]} is not available with backend 'reference', expected its default"
            )
        steps = self._steps(prompt, options, self._constrain(options))
        return ReferenceJob(steps, options.num_return_sequences, deadline_s)

    def submit_beams(self, prompt: Prompt, options: GenerationOptions, deadline_s: float | None) -> ReferenceJob:
        """Beam search over the prompt; the deadline is looked at before it begins only."""
        constrain = self._constrain(options)

        def run() -> Iterator[list[Event]]:
            with self._lock:
                found = generate(self._open().text, self._embed(prompt)[None], None, options, constrain)
            scores = found.scores or [0.0] * len(found.ids)
            yield [("beam", rank, ids, scores[rank]) for rank, ids in enumerate(found.ids)]

        return ReferenceJob(run(), 0, deadline_s)

    def submit_score(
        self, prompt: Prompt, candidates: Sequence[Sequence[int]], deadline_s: float | None
    ) -> ReferenceJob:
        """Float32 log-softmax at each candidate's ids fed after the prompt."""

        def run() -> Iterator[list[Event]]:
            for index, ids in enumerate(candidates):
                yield [("scores", index, self._score(prompt, ids))]

        return ReferenceJob(run(), 0, deadline_s)

    def read_pages(self, prompt: Prompt, check: Callable[[], None]) -> NoReturn:
        """It has no cache that outlives a request."""
        del prompt, check
        raise _no_pages()

    def check_pages(self, pages: object) -> None:
        """It takes none."""
        del pages
        raise _no_pages()

    def describe(self) -> dict[str, Any]:
        """What it is."""
        return {"dtype": self._dtype_name, "kv_dtype": self._dtype_name, "threads": torch.get_num_threads()}

    def stats(self) -> dict[str, Any]:
        """It counts nothing."""
        return {}

    def close(self) -> None:
        """Drop the weights."""
        with self._lock:
            self._model = None

    def _constrain(self, options: GenerationOptions) -> BoxGrammar | None:
        if options.grammar is None:
            return None
        if options.grammar.kind != "boxes":
            raise UnsupportedError(
                f"{options.grammar.kind} is not available with backend 'reference', expected backend='native'"
            )
        return BoxGrammar(self._token_bytes)

    def _open(self) -> TinyGPTVReference:
        if self._model is None:
            raise ClosedError("the model is closed")
        return self._model

    def _embed(self, prompt: Prompt) -> Tensor:
        ids = torch.from_numpy(prompt.ids).to(torch.int64)
        visual = ids == VISUAL
        out = self._open().text.embed(ids.masked_fill(visual, 0))
        if prompt.embeddings is not None:
            out[visual] = torch.from_numpy(prompt.embeddings).to(self.dtype)
        return out

    @torch.no_grad()
    def _steps(self, prompt: Prompt, options: GenerationOptions, constrain: BoxGrammar | None) -> Iterator[list[Event]]:
        with self._lock:
            rows = self._embed(prompt)[None].expand(options.num_return_sequences, -1, -1)
            steps = decode_steps(self._open().text, rows, None, options, constrain)
        running = set(range(options.num_return_sequences))
        while running:
            with self._lock:
                self._open()
                step = next(steps, None)
            if step is None:
                return
            logprobs = step.raw.log_softmax(-1).gather(1, step.ids[:, None])[:, 0].tolist()
            events: list[Event] = []
            for row in sorted(running):
                token = int(step.ids[row])
                events.append(("token", row, token, logprobs[row], []))
                if token in options.eos_ids:
                    running.discard(row)
                    events.append(("end", row, "stop", ""))
            yield events

    @torch.no_grad()
    def _score(self, prompt: Prompt, ids: Sequence[int]) -> list[float]:
        with self._lock:
            text = self._open().text
            told = text.embed(torch.tensor(ids[:-1], dtype=torch.int64))
            hidden = text(torch.cat([self._embed(prompt), told])[None])[0, len(prompt) - 1 :]
            return text.logits(hidden).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()


def _no_pages() -> UnsupportedError:
    return UnsupportedError(
        "pages of keys and values are not available with backend 'reference': expected backend='native', or a state "
        "without_pages()"
    )


class ReferenceJob:
    """Runs in the thread that polls it: one step a poll. A deadline ends it after the step in which it passes."""

    def __init__(self, steps: Iterator[list[Event]], rows: int, deadline_s: float | None) -> None:
        self._steps = steps
        self._running = set(range(rows))
        self._started = time.perf_counter()
        self._deadline = None if deadline_s is None else self._started + deadline_s
        self._reason = ""
        self._times: list[float] = []  # seconds from the start to the end of each step

    def poll(self, timeout_s: float) -> list[Event]:
        """The events of the next step, however long it takes."""
        del timeout_s
        if self._reason:
            return self._finish(self._reason)
        try:
            events = next(self._steps, None)
        except ClosedError:
            if not self._times:
                raise
            return self._finish("cancelled")
        if events is None:
            return self._finish("length")
        self._times.append(time.perf_counter() - self._started)
        self._running -= {event[1] for event in events if event[0] == "end"}
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            self._reason = self._reason or "deadline"
        return events

    def cancel(self) -> None:
        """No step after the present one."""
        self._reason = self._reason or "cancelled"

    def _finish(self, reason: str) -> list[Event]:
        total = time.perf_counter() - self._started
        first = self._times[0] if self._times else 0.0
        last = self._times[-1] if self._times else 0.0
        report = {"queue": 0.0, "prefill": 1e3 * first, "decode": 1e3 * (last - first)}
        report |= {"first_token": 1e3 * first, "total": 1e3 * total}
        return [*(("end", row, reason, "") for row in sorted(self._running)), ("done", report)]
