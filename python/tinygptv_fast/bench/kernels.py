"""Each kernel alone at the subject's shapes, over operands that no cache holds.

A case is a call and its cost. Weights are rotated through copies of ``ROTATED_BYTES`` in all, so that every call reads
memory; a block is as many calls as ``BLOCK_SECONDS`` take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _native
from ..engine.pages import PAGE_TOKENS
from .blocks import Cost
from .row import Row, from_blocks
from .row_kernels import row_kernels
from .session import Session

ROTATED_BYTES = 256 << 20
BLOCK_SECONDS = 0.05
TOKENS = (1, 8, 256)


@dataclass(frozen=True)
class Case:
    """``call(i)`` is the i-th call of a block; ``cost`` is that of one call."""

    name: str
    call: Callable[[int], object]
    cost: Cost


def kernels(session: Session) -> Iterator[Row]:
    """Microseconds of one call of each kernel."""
    for make in (int4_matrices, attention):
        for case in make(session):
            yield _measure(session, case)
    yield from row_kernels(session)


def _measure(session: Session, case: Case) -> Row:
    case.call(0)
    start = time.perf_counter()
    case.call(1)
    once = max(time.perf_counter() - start, 1e-7)
    calls = 1 if session.options.quick else max(1, math.ceil(BLOCK_SECONDS / once))

    def work() -> None:
        for i in range(calls):
            case.call(i)

    blocks = session.blocks(f"kernels, {case.name}", work, min(5, session.options.blocks))
    cost = Cost(case.cost.bytes * calls, case.cost.ops * calls)
    return from_blocks(
        "kernels", case.name, "µs", blocks, cost, lambda s: 1e6 * s / calls, session.peak, calls_per_block=calls
    )


def int4_matrices(session: Session) -> Iterator[Case]:
    """Every matrix of a layer and the head, one token, eight, a chunk of a prompt; only of int4 weights."""
    text, form = session.subject.text, session.subject.forms.body
    if form.kind != "int4":
        return
    shapes = {
        "qkv": (3 * text.width, text.width),
        "out": (text.width, text.width),
        "fc1": (text.mlp_width, text.width),
        "fc2": (text.width, text.mlp_width),
        "head": (text.vocab_size, text.width),
    }
    for name, (rows, columns) in shapes.items():
        copies = _int4_copies(session, rows, columns)
        for tokens in TOKENS:
            if name == "head" and tokens > 8:
                continue  # a prompt asks for the logits of one token
            yield _int4_case(session, name, rows, columns, tokens, copies)


def _int4_copies(session: Session, rows: int, columns: int) -> list[Any]:
    """The same random matrix, packed, as often as ``ROTATED_BYTES`` hold (twice at least)."""
    session.note(f"kernels, packing {rows}x{columns}")
    form, threads = session.subject.forms.body, session.options.threads
    size = _native.int4_packed_bytes(rows, columns, form.group_size, True)
    random = np.random.default_rng(rows + columns)
    qweight = random.integers(0, 256, (rows, (columns + 1) // 2), dtype=np.uint8)
    scales = random.random((rows, -(-columns // form.group_size)), dtype=np.float32).astype(np.float16)
    first: Any = _native.HugeBuffer(size)
    parts: tuple[Any, Any] = qweight, scales
    _native.int4_pack(first, *parts, None, columns, form.group_size, threads)
    limit = ROTATED_BYTES if not session.options.quick else 2 * size
    copies: list[Any] = [first]
    for _ in range(max(1, limit // size - 1)):
        copies.append(_native.HugeBuffer(size))
        np.copyto(np.frombuffer(copies[-1], np.uint8), np.frombuffer(first, np.uint8))
    return copies


def _int4_case(session: Session, name: str, rows: int, columns: int, tokens: int, copies: list[Any]) -> Case:
    options, group = session.options, session.subject.forms.body.group_size
    x: Any = np.random.default_rng(tokens).standard_normal((tokens, columns), dtype=np.float32)
    out: Any = np.empty((tokens, rows), np.float32)

    def call(i: int) -> None:
        _native.int4_matmul(
            out, x, copies[i % len(copies)], None, rows, columns, group, True, "", options.threads, options.isa
        )

    moved = _native.int4_packed_bytes(rows, columns, group, True) + x.nbytes + out.nbytes
    plural = "s" if tokens > 1 else ""
    return Case(f"int4 {name} {rows}x{columns}, {tokens} token{plural}", call, Cost(moved, 2 * tokens * rows * columns))


def attention(session: Session) -> Iterator[Case]:
    """One layer's attention over int8 pages: one token at the contexts that fit, and a chunk of a prompt."""
    text = session.subject.text
    wanted = [(64, 1), (1024, 1), (2000, 1), (768, 256)]
    for first, tokens in wanted:
        if first + tokens <= text.max_positions and not (session.options.quick and first > 64):
            session.note(f"kernels, pages of {first + tokens} positions")
            yield _attention_case(session, first, tokens)


def _attention_case(session: Session, first: int, tokens: int) -> Case:
    text, options = session.subject.text, session.options
    H, D, positions = text.heads, text.head_dim, first + tokens
    pages = -(-positions // PAGE_TOKENS)
    moved = 2 * positions * H * (D + 2) + 8 * tokens * H * D
    copies = max(2, (ROTATED_BYTES if not options.quick else 0) // moved)
    random = np.random.default_rng(positions)
    shape = (copies * pages, H, PAGE_TOKENS, D)
    k: Any = np.resize(random.integers(-127, 128, 1 << 20, dtype=np.int8), shape)
    v: Any = k.copy()
    scales: Any = np.full(shape[:3], 0.01, np.float16)
    tables: list[Any] = [np.arange(i * pages, (i + 1) * pages, dtype=np.int32) for i in range(copies)]
    q: Any = random.standard_normal((tokens, H, D), dtype=np.float32)
    out: Any = np.empty_like(q)

    def call(i: int) -> None:
        _native.paged_attention(
            out, q, k, v, scales, scales, tables[i % copies], first, D**-0.5, "int8", options.threads, options.isa
        )

    pairs = tokens * first + tokens * (tokens + 1) // 2
    plural = "s" if tokens > 1 else ""
    return Case(f"attention, {tokens} token{plural} at {first}, int8 pages", call, Cost(moved, 4 * H * D * pairs))
