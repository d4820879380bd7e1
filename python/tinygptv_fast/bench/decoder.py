"""The decoder step alone, no requests: decoding at several contexts, prompts, several sequences at once.

A whole token: every matrix, attention over the context, logits, and the choice of the next id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from .. import _native
from .blocks import Cost
from .row import Row, from_blocks
from .session import Session

CHUNK = 256  # tokens of a step while a prompt is read
PAPER_SECONDS_PER_WORD = 0.067  # arXiv 2312.16862, table 3; on a GPU
TOKENS_PER_WORD = 1.3  # of English text
BATCH_CONTEXT, BATCH_TOKENS = 64, 24


class Step:
    """A decoder with one cache, and sequences in it."""

    def __init__(self, session: Session, kv_tokens: int, rows: int = 16) -> None:
        subject, options = session.subject, session.options
        self._native = _native.Decoder(
            subject.weights,
            kv_kind=subject.kv_kind,
            kv_tokens=kv_tokens,
            max_tokens=CHUNK,
            max_logit_rows=rows,
            threads=options.threads,
            isa=options.isa,
        )
        self._subject = subject

    def start(self, room: int) -> int:
        return int(self._native.start(room))

    def fill(self, sequence: int, length: int, logits: bool = False) -> None:
        """Extend with random ids up to ``length`` positions; the last row's logits on demand."""
        first = int(self._native.length(sequence))
        ids = self._subject.ids(length - first, first)
        for at in range(0, len(ids), CHUNK):
            last = logits and at + CHUNK >= len(ids)
            self._native.step([(sequence, ids[at : at + CHUNK], 1 if last else 0)])

    def decode(self, sequences: list[int], tokens: int) -> None:
        """``tokens`` steps of one token for each of ``sequences``, each choosing its next id."""
        chosen = [0] * len(sequences)
        for _ in range(tokens):
            logits = self._native.step([(one, [id], 1) for one, id in zip(sequences, chosen, strict=True)])
            chosen = [int(row.argmax()) for row in logits]

    def truncate(self, sequences: list[int], length: int) -> None:
        for sequence in sequences:
            self._native.truncate(sequence, length)

    def release(self, sequence: int) -> None:
        self._native.release(sequence)


def _decode_cost(session: Session, context: int, sequences: int, tokens: int) -> Cost:
    subject, moved, ops = session.subject, 0, 0
    for position in range(context, context + tokens):
        one = subject.step(position, 1, 1)
        moved += one.bytes + (sequences - 1) * subject.kv_bytes * (position + 1)
        ops += sequences * one.ops
    return Cost(moved, ops)


def contexts(session: Session) -> list[int]:
    """Lengths at which decoding is measured, as far as the model's context goes."""
    wanted = (64,) if session.options.quick else (64, 1024, 2000)
    return [length for length in wanted if length + decode_block(session) <= session.subject.text.max_positions]


def decode_block(session: Session) -> int:
    """Tokens of one block of decoding."""
    return 8 if session.options.quick else 32


def decode(session: Session) -> Iterator[Row]:
    """Tokens per second of one sequence at each context."""
    block, lengths = decode_block(session), contexts(session)
    step = Step(session, lengths[-1] + block)
    sequences = [step.start(lengths[-1] + block)]
    for length in lengths:
        session.note(f"decode, reading {length} tokens")
        step.fill(sequences[0], length)
        blocks = session.blocks(
            f"decode, ctx {length}",
            partial(step.decode, sequences, block),
            session.options.blocks,
            partial(step.truncate, sequences, length),
        )
        step.truncate(sequences, length)
        cost = _decode_cost(session, length, 1, block)
        yield from_blocks(
            "decode", f"one sequence, ctx {length}", "tok/s", blocks, cost, per_second(block), session.peak,
            context=length, tokens_per_block=block,
        )  # fmt: skip
        if length == 64 and session.subject.is_released_size:
            yield from_blocks(
                "decode", "one word, ctx 64", "s/word", blocks, cost, lambda s: s / block * TOKENS_PER_WORD,
                session.peak, paper_seconds_per_word=PAPER_SECONDS_PER_WORD, tokens_per_word=TOKENS_PER_WORD,
            )  # fmt: skip


def prefill(session: Session) -> Iterator[Row]:
    """Tokens per second of reading a prompt, logits of its last token included."""
    wanted = (64,) if session.options.quick else (64, 256, 1024)
    for length in (n for n in wanted if n <= session.subject.text.max_positions):
        prompt = _Prompt(Step(session, length), length)
        blocks = session.blocks(f"prefill, {length} tokens", prompt.read, session.options.few_blocks, prompt.forget)
        yield from_blocks(
            "prefill", f"{length} tokens", "tok/s", blocks, _prefill_cost(session, length), per_second(length),
            session.peak, tokens=length, chunk=CHUNK,
        )  # fmt: skip


class _Prompt:
    """A sequence that is read again and again from nothing."""

    def __init__(self, step: Step, length: int) -> None:
        self._step, self._length = step, length
        self._sequence = step.start(length)

    def forget(self) -> None:
        self._step.release(self._sequence)
        self._sequence = self._step.start(self._length)

    def read(self) -> None:
        self._step.fill(self._sequence, self._length, logits=True)


def _prefill_cost(session: Session, length: int) -> Cost:
    moved = ops = 0
    for at in range(0, length, CHUNK):
        one = session.subject.step(at, min(CHUNK, length - at), 1 if at + CHUNK >= length else 0)
        moved, ops = moved + one.bytes, ops + one.ops
    return Cost(moved, ops)


def batch(session: Session) -> Iterator[Row]:
    """Tokens per second of several sequences together."""
    sizes = (1, 8) if session.options.quick else (1, 2, 3, 4, 8)
    tokens = 4 if session.options.quick else BATCH_TOKENS
    room = BATCH_CONTEXT + tokens
    step = Step(session, 8 * (room + 16))
    sequences = [step.start(room) for _ in range(max(sizes))]
    for sequence in sequences:
        session.note("batch, reading prompts")
        step.fill(sequence, BATCH_CONTEXT)
    for size in sizes:
        some = sequences[:size]
        blocks = session.blocks(
            f"batch of {size}",
            partial(step.decode, some, tokens),
            session.options.few_blocks,
            partial(step.truncate, some, BATCH_CONTEXT),
        )
        step.truncate(some, BATCH_CONTEXT)
        yield from_blocks(
            "batch", f"{size} sequence{'s' if size > 1 else ''}, ctx {BATCH_CONTEXT}", "tok/s", blocks,
            _decode_cost(session, BATCH_CONTEXT, size, tokens), per_second(size * tokens), session.peak,
            sequences=size, tokens_each=tokens,
        )  # fmt: skip


def per_second(amount: int) -> Callable[[float], float]:
    """Seconds of a block of ``amount`` tokens → tokens per second."""
    return lambda seconds: amount / seconds
