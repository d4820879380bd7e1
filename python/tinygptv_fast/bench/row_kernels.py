"""The kernels between the products, each alone: norms, sums, embedding, q/k norm with rotary and append, sampling.

In a model step their operands lie in a cache, as here; their roof is not memory, so their rows have none. Bytes are
each input and output once. One thread, except qkv_append.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import _native
from ..engine.pages import PAGE_TOKENS
from .row import Row, from_values
from .session import Session

TOKENS = (1, 256)
CALLS = 50  # of one figure
_any: Any = _native  # its stubs ask for a Buffer, which numpy's arrays are for mypy only from Python 3.12 on


@dataclass(frozen=True)
class Case:
    """``call()`` once; ``bytes`` it reads and writes."""

    name: str
    call: Callable[[], object]
    bytes: int


def row_kernels(session: Session) -> Iterator[Row]:
    """Microseconds of one call of each."""
    for make in (_norms, _embedding, _append, _sampling):
        for case in make(session):
            session.note(f"kernels, {case.name}")
            times = _microseconds(case.call, 5 if session.options.quick else CALLS)
            row = from_values("kernels", case.name, "µs", times, cached=True)
            rate = case.bytes / row.median / 1e3 if row.median else None
            row.details.update(bytes=case.bytes, gb_per_s=rate)
            yield row


def _microseconds(call: Callable[[], object], count: int) -> list[float]:
    for _ in range(3):
        call()
    out = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        out.append(1e6 * (time.perf_counter() - start))
    return out


def _random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def _norms(session: Session) -> Iterator[Case]:
    width, isa, eps = session.subject.text.width, session.options.isa, session.subject.text.norm_eps
    weight, bias = _random(width), _random(width)
    for tokens in TOKENS:
        x, out = _random(tokens, width), _random(tokens, width)
        zero: Any = np.zeros((tokens, width), np.float32)
        zeros: Any = zero.copy()
        row, shape = 4 * width * tokens, f"[{tokens},{width}]"
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "layer_norm": (partial(_any.layer_norm, out, x, weight, bias, eps, isa), 2),
            "rms_norm": (partial(_any.rms_norm, out, x, weight, eps, isa), 2),
            # branches of zeros: repeated sums stay where they are
            "add_branches": (partial(_any.add_branches, x, zero, zeros, weight, eps, isa), 4),
        }
        for name, (call, arrays) in calls.items():
            yield Case(f"{name} {shape}", call, arrays * row)


def _embedding(session: Session) -> Iterator[Case]:
    text = session.subject.text
    table: Any = np.resize(np.arange(-127, 128, dtype=np.int8), (text.vocab_size, text.width))
    scales: Any = np.full(text.vocab_size, 0.01, np.float32)
    for tokens in TOKENS:
        ids: Any = np.array(session.subject.ids(tokens), np.int32)
        out: Any = np.empty((tokens, text.width), np.float32)
        yield Case(
            f"embedding int8 [{tokens},{text.width}]",
            partial(_any.embedding, out, ids, table, scales, "int8"),
            tokens * text.width * 5,
        )


def _append(session: Session) -> Iterator[Case]:
    text, options = session.subject.text, session.options
    H, D = text.heads, text.head_dim
    for tokens in TOKENS:
        pages = -(-tokens // PAGE_TOKENS)
        k: Any = np.zeros((pages, H, PAGE_TOKENS, D), np.int8)
        v, k_scales = k.copy(), np.zeros((pages, H, PAGE_TOKENS), np.float16)
        v_scales, table = k_scales.copy(), np.arange(pages, dtype=np.int32)
        qkv, out = _random(tokens, H, 3, D), _random(tokens, H, D)
        angles = np.outer(np.arange(tokens), np.ones(text.rotary_dims // 2)).astype(np.float32)
        norm = [_random(D) for _ in range(4)] if text.qk_norm else [None] * 4
        arguments = (
            out, k, v, k_scales, v_scales, qkv, table, 0, np.cos(angles), np.sin(angles), *norm, text.norm_eps, "int8",
            options.threads, options.isa,
        )  # fmt: skip
        moved = tokens * H * (16 * D + 2 * (D + 2))
        yield Case(f"qkv_append [{tokens},{H},3,{D}], int8 pages", partial(_any.qkv_append, *arguments), moved)


def _sampling(session: Session) -> Iterator[Case]:
    vocab, isa = session.subject.text.vocab_size, session.options.isa
    logits = 3 * _random(vocab)
    settings: dict[str, Any] = {
        "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "logit_bias": [], "banned": [], "history": [], "position": 0, "seed": 1, "sample": 0,
        "isa": isa,
    }  # fmt: skip
    for name, changes in (
        ("greedy", {}),
        ("top-k 50", {"temperature": 1.0, "top_k": 50}),
        ("top-p 0.9", {"temperature": 1.0, "top_p": 0.9}),
    ):
        yield Case(f"sample {name} [{vocab}]", partial(_any.sample, logits, **{**settings, **changes}), 4 * vocab)
