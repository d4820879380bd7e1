"""The facade's backend on the native engine: requests in, its events out. Knows no text, template or picture file."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import TextConfig
from ..env import read_settings
from ..errors import ClosedError, InvalidArgumentError, TinyGPTVError, UnsupportedError
from ..memory import read_memory
from ..protocol import Event, GenerationOptions, Picture, Prompt
from .grammars import Grammars
from .pages import PAGE_TOKENS, make_pages

if TYPE_CHECKING:
    from torch import Tensor

    from .. import _native
    from .pictures import PictureEncoder

_MOST_STOPS = 16  # of a request of the engine
_KV_BYTES = {"int8": 1, "f16": 2, "bf16": 2, "f32": 4}
_KV_SCALE_BYTES = 2  # per token, head and K or V, of int8
_KV_SHARE = 2  # "auto" reserves at most one part in so many of the free memory
_REQUESTS_PER_SEQUENCE = 8  # of a batch, under way at once: enough that no sequence ever waits for Python
_NO_TIMES = {"queue": 0.0, "prefill": 0.0, "decode": 0.0, "first_token": 0.0, "total": 0.0}


def kv_token_bytes(text: TextConfig, kind: str) -> int:
    """Bytes of keys and values of one position in all layers."""
    scale = _KV_SCALE_BYTES if kind == "int8" else 0
    return 2 * text.layers * text.heads * (text.head_dim * _KV_BYTES[kind] + scale)


def choose_kv_tokens(text: TextConfig, kind: str, max_sequences: int, usable_bytes: int | None = None) -> int:
    """Positions to reserve: full contexts for ``max_sequences``, but no more than half of the free memory and no less
    than one full context. Reserved memory is not touched before it is used."""
    usable = read_memory().usable_bytes if usable_bytes is None else usable_bytes
    affordable = usable // _KV_SHARE // kv_token_bytes(text, kind)
    tokens = max(min(max_sequences * text.max_positions, affordable), text.max_positions)
    return -(-tokens // PAGE_TOKENS) * PAGE_TOKENS


class NativeBackend:
    """The engine over packed weights. ``pictures`` None: it takes none. facts: what ``describe`` says besides.

    Every method may be called from any thread.
    """

    name = "native"

    def __init__(
        self,
        weights: _native.Weights | _native.CudaWeights,
        text: TextConfig,
        *,
        kv_kind: str,
        kv_tokens: int,
        max_sequences: int,
        threads: int,
        isa: str,
        token_bytes: list[bytes],
        pictures: PictureEncoder | None,
        facts: Mapping[str, Any],
    ) -> None:
        from .. import _native

        self.parallel = _REQUESTS_PER_SEQUENCE * max_sequences
        self._facts = {
            **facts,
            "isa": isa or _native.best_isa(),
            "threads": threads or _native.physical_cores(),
            "kv_tokens": kv_tokens,
            "kv_bytes": kv_tokens * kv_token_bytes(text, kv_kind),
            "max_sequences": max_sequences,
            "weights_bytes": weights.bytes,
        }
        self._engine = _native.Engine(
            weights,
            threads=threads,
            isa=isa,
            kv_kind=kv_kind,
            kv_tokens=kv_tokens,
            max_sequences=max_sequences,
            token_bytes=token_bytes,
            graphs=read_settings().cuda_graphs,
            early_starts=read_settings().cuda_early_starts,
        )
        self._facts |= _graph_facts(self._engine.metrics())
        self._weights: _native.Weights | _native.CudaWeights | None = weights
        self.kv_kind = kv_kind
        self._pictures = pictures
        self._grammars = Grammars(token_bytes)
        self._closed = False
        self._closing = threading.Lock()

    def encode_image(self, picture: Picture, check: Callable[[], None]) -> Tensor:
        """Visual tokens f32 [NQ, C]. Raises UnsupportedError without a vision tower."""
        self._check_open()
        if self._pictures is None:
            raise UnsupportedError("this model was loaded without its vision tower: give an ImageState or no image")
        return self._pictures.encode(picture, self._engine.turn, check)

    def submit(
        self, prompt: Prompt, options: GenerationOptions, stops: Sequence[str], deadline_s: float | None
    ) -> EngineJob:
        """Greedy or sampled decoding. The engine ends rows at end ids and stop strings by itself (at the first 16 of
        them; a row that passes another one ends when the caller cancels it)."""
        self._check_open()
        self._check_width("num_return_sequences", options.num_return_sequences)
        seed = secrets.randbits(63) if options.seed is None else options.seed
        bias: dict[Any, Any] = dict(options.logit_bias)
        request = self._engine.submit(
            *_buffers(prompt),
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=_min_new_tokens(options),
            eos_ids=list(options.eos_ids),
            stop=[stop.encode() for stop in stops[:_MOST_STOPS]],
            temperature=options.temperature if options.do_sample else 0.0,
            top_k=options.top_k or 0,
            top_p=1.0 if options.top_p is None else options.top_p,
            min_p=options.min_p or 0.0,
            repetition_penalty=options.repetition_penalty,
            presence_penalty=options.presence_penalty,
            frequency_penalty=options.frequency_penalty,
            logit_bias=bias,
            seed=seed if options.do_sample else 0,
            samples=options.num_return_sequences,
            history=list(options.prefix_ids),
            deadline_s=deadline_s,
            speculate=options.speculate,
            grammar=self._grammars.get(options.grammar),
            pages=prompt.pages,
        )
        return EngineJob(self, request, options.num_return_sequences)

    def submit_beams(self, prompt: Prompt, options: GenerationOptions, deadline_s: float | None) -> EngineJob:
        """Beam search in the reference's arithmetic."""
        self._check_open()
        self._check_width("num_beams", options.num_beams)
        if options.extras:
            raise UnsupportedError(f"{options.extras[0]} is not available with num_beams, expected its default")
        request = self._engine.submit_beams(
            *_buffers(prompt),
            beams=options.num_beams,
            returned=options.num_return_sequences,
            max_new_tokens=options.max_new_tokens,
            min_new_tokens=_min_new_tokens(options),
            length_penalty=options.length_penalty,
            eos_ids=list(options.eos_ids),
            repetition_penalty=options.repetition_penalty,
            history=list(options.prefix_ids),
            pad_id=options.pad_id,
            deadline_s=deadline_s,
            grammar=self._grammars.get(options.grammar),
            pages=prompt.pages,
        )
        return EngineJob(self, request, 0)

    def submit_score(self, prompt: Prompt, candidates: Sequence[Sequence[int]], deadline_s: float | None) -> EngineJob:
        """One prefill of the prompt, then all candidates on it."""
        self._check_open()
        lists = [list(ids) for ids in candidates]
        request = self._engine.submit_score(*_buffers(prompt), lists, deadline_s=deadline_s, pages=prompt.pages)
        return EngineJob(self, request, 0)

    def logits(self, prompt: Prompt) -> Tensor:
        """f32 [T, V]."""
        import torch

        self._check_open()
        request = self._engine.submit_logits(*_buffers(prompt), pages=prompt.pages)
        return torch.cat([torch.from_numpy(event[1]) for event in self._results(request, "logits", lambda: None)])

    def read_pages(self, prompt: Prompt, check: Callable[[], None]) -> _native.PrefixPages:
        """Keys and values of a prompt of whole pages. Raises UnsupportedError where they lie on a GPU."""
        self._check_open()
        request = self._engine.submit_pages(*_buffers(prompt))
        [(_, numbers, scales)] = self._results(request, "pages", check)
        return make_pages(prompt, numbers, scales, kind=self.kv_kind, weights_id=self.weights.id)

    def check_pages(self, pages: _native.PrefixPages) -> None:
        """Raises InvalidArgumentError unless they are of these weights and this kind of cache, UnsupportedError where
        the cache lies on a GPU."""
        if not self._engine.carries_pages:
            raise UnsupportedError(
                "image is a state with pages, which device='cuda' does not take: expected device='cpu', or "
                "image.without_pages()"
            )
        for what, found, expected in (
            ("keys and values in", pages.kind, self.kv_kind),
            ("weights in the form", pages.model_id[:12], self.weights.id[:12]),
        ):
            if found != expected:
                raise InvalidArgumentError(
                    f"image is a state with pages of {what} {found}, expected {expected}: load the model as it was "
                    "when they were made (dtype, kv_dtype), or ask with image.without_pages()"
                )

    def _results(self, request: int, name: str, check: Callable[[], None]) -> list[Event]:
        """The events of this name that a request ends with. Raises what ``check`` raises, TinyGPTVError."""
        job, found = EngineJob(self, request, 0), []
        try:
            while not job.over:
                check()
                for event in job.poll(0.1):
                    if event[0] == name:
                        found.append(event)
                    elif event[0] == "end" and event[2] != "stop" and event[2] != "length":
                        raise TinyGPTVError(f"the request ended as {event[2]}: {event[3]}")
        finally:
            job.drain()
        return found

    def describe(self) -> dict[str, Any]:
        """isa, threads, sizes in bytes; what captured graphs took, where there are any."""
        return dict(self._facts)

    def stats(self) -> dict[str, Any]:
        """The engine's counters and gauges, and those of the image cache under ``images``."""
        self._check_open()
        images = {} if self._pictures is None else {"images": self._pictures.stats()}
        return {**self._engine.metrics(), **images}

    def close(self) -> None:
        """Cancel everything, stop the engine's thread, drop the vision side."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._engine.close()
        self._pictures = None
        self._weights = None

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._closed

    @property
    def weights(self) -> _native.Weights | _native.CudaWeights:
        """What the engine computes with, for whoever computes beside it."""
        if self._weights is None:
            raise ClosedError("the model is closed")
        return self._weights

    @property
    def engine(self) -> _native.Engine:
        """The engine itself, for tests and benchmarks."""
        return self._engine

    def _check_width(self, name: str, value: int) -> None:
        most = self._facts["max_sequences"]
        if value > most:
            raise InvalidArgumentError(f"{name} is {value}, expected <= max_sequences={most}, set when loading")

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the model is closed")


class EngineJob:
    """A request of the engine."""

    def __init__(self, backend: NativeBackend, request: int, rows: int) -> None:
        self._backend = backend
        self._request = request
        self._rows = rows
        self.over = False

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call; after the model was closed, that everything is cancelled."""
        try:
            events: list[Event] = self._backend.engine.next(self._request, timeout_s)
        except TinyGPTVError:
            if not self._backend.closed:
                raise
            events = [("end", row, "cancelled", "") for row in range(max(self._rows, 1))]
            events.append(("done", dict(_NO_TIMES)))
        self.over = self.over or any(event[0] == "done" for event in events)
        return events

    def cancel(self) -> None:
        """End it within one token."""
        if self.over:
            return
        with contextlib.suppress(TinyGPTVError):  # it ended, or the model was closed, in this instant
            self._backend.engine.cancel(self._request)

    def drain(self) -> None:
        """Cancel and wait for the end, if it is not over."""
        self.cancel()
        while not self.over:
            self.poll(0.1)


def _buffers(prompt: Prompt) -> tuple[Any, Any]:
    """ids and embeddings as the engine takes them; older stubs of numpy do not say that its arrays are buffers."""
    return prompt.ids, prompt.embeddings


def _graph_facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of a GPU's captured decode steps: how many, the seconds it took and the bytes its driver says it took."""
    names = ("graphs", "graph_seconds", "graph_bytes")
    return {name: metrics[name] for name in names} if metrics["graphs"] else {}


def _min_new_tokens(options: GenerationOptions) -> int:
    """``min_length`` counts the prefix, which is never generated; more than can be generated is as good as all."""
    return min(max(0, options.min_length - len(options.prefix_ids)), options.max_new_tokens)
