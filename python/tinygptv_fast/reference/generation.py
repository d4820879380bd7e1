"""Generation with a key/value cache: greedy, sampling, beam search. Works on embeddings and ids, not on text.

The arithmetic is that of transformers 4.36's ``generate`` on ``inputs_embeds``, which the original calls: processors
see ``prefix_ids`` (the original: one BOS that is never fed) and the generated ids, never the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..protocol import GenerationOptions
from . import warpers
from .phi import KVCache, PhiBackbone


@dataclass(frozen=True)
class GenerationStep:
    """One decoding step of all rows: ids int64 [B]; scores f32 [B, V] after processors and filters; raw f32 [B, V]."""

    ids: Tensor
    scores: Tensor
    raw: Tensor


@dataclass(frozen=True)
class GenerationResult:
    """ids: generated ids per row, without prefix and padding, EOS included; scores: the beam score per row or None."""

    ids: list[list[int]]
    scores: list[float] | None = None


def process(logits: Tensor, seen: Tensor, options: GenerationOptions) -> Tensor:
    """Repetition penalty, then minimum length. logits f32 [B, V], seen int64 [B, n] → f32 [B, V]."""
    logits = warpers.repetition_penalty(logits, seen, options.repetition_penalty)
    if options.eos_ids and seen.shape[1] < options.min_length:
        logits = warpers.forbid(logits, options.eos_ids)
    return logits


def warp(logits: Tensor, options: GenerationOptions) -> Tensor:
    """Temperature, top-k, top-p, min-p, in that order. f32 [B, V] → f32 [B, V]."""
    if options.temperature != 1.0:
        logits = warpers.temperature(logits, options.temperature)
    if options.top_k is not None:
        logits = warpers.top_k(logits, options.top_k)
    if options.top_p is not None and options.top_p < 1.0:
        logits = warpers.top_p(logits, options.top_p)
    if options.min_p is not None and options.min_p > 0.0:
        logits = warpers.min_p(logits, options.min_p)
    return logits


Constrain = Callable[[Tensor, Tensor, int], Tensor]
"""scores f32 [B, V], generated ids int64 [B, n], ids still to come → scores with -inf where a grammar forbids it."""


def extend_mask(mask: Tensor | None, rows: int) -> Tensor | None:
    """Append one readable position to mask [rows, S]; None (no padding) stays None."""
    if mask is None:
        return None
    return torch.cat([mask, mask.new_ones(rows, 1)], dim=1)


@torch.no_grad()
def decode_steps(
    backbone: PhiBackbone,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    options: GenerationOptions,
    constrain: Constrain | None = None,
) -> Iterator[GenerationStep]:
    """Yield one step after another (greedy or sampled); the caller decides when each row ends.

    inputs_embeds [B, T, C], padded on the left; attention_mask [B, T] or None. Stops after max_new_tokens.
    """
    rows = inputs_embeds.shape[0]
    cache = KVCache(backbone.config.layers)
    generator = _generator(options, inputs_embeds.device)
    seen = torch.tensor([options.prefix_ids] * rows, dtype=torch.int64, device=inputs_embeds.device).view(rows, -1)
    hidden = backbone(inputs_embeds, attention_mask, cache)
    for index in range(options.max_new_tokens):
        raw = backbone.logits(hidden[:, -1])
        scores = process(raw, seen, options)
        if constrain is not None:
            scores = constrain(scores, seen[:, len(options.prefix_ids) :], options.max_new_tokens - index)
        if options.do_sample:
            scores = warp(scores, options)
            ids = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
        else:
            ids = scores.argmax(-1)
        yield GenerationStep(ids, scores, raw)
        if index + 1 == options.max_new_tokens:
            return
        seen = torch.cat([seen, ids[:, None]], dim=1)
        attention_mask = extend_mask(attention_mask, rows)
        hidden = backbone(backbone.embed(ids)[:, None], attention_mask, cache)


def _generator(options: GenerationOptions, device: torch.device) -> torch.Generator | None:
    if options.seed is None:
        return None
    return torch.Generator(device).manual_seed(options.seed)


@torch.no_grad()
def generate(
    backbone: PhiBackbone,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None = None,
    options: GenerationOptions | None = None,
    constrain: Constrain | None = None,
) -> GenerationResult:
    """Complete every row of ``inputs_embeds`` [B, T, C] (left-padded, ``attention_mask`` [B, T]).

    Greedy unless ``options`` says otherwise. A row ends with the first id of ``eos_ids`` or at ``max_new_tokens``.
    With beams the rows come best first, ``num_return_sequences`` per input row. ``constrain``: a grammar's part in
    every choice (``box_grammar.py``).
    """
    from .beam import beam_search

    options = options or GenerationOptions()
    if options.num_beams > 1:
        return beam_search(backbone, inputs_embeds, attention_mask, options, constrain)
    if options.num_return_sequences > 1:
        inputs_embeds = inputs_embeds.repeat_interleave(options.num_return_sequences, dim=0)
        if attention_mask is not None:
            attention_mask = attention_mask.repeat_interleave(options.num_return_sequences, dim=0)
    rows: list[list[int]] = [[] for _ in range(inputs_embeds.shape[0])]
    running = set(range(len(rows)))
    for step in decode_steps(backbone, inputs_embeds, attention_mask, options, constrain):
        for row in sorted(running):
            token = int(step.ids[row])
            rows[row].append(token)
            if token in options.eos_ids:
                running.discard(row)
        if not running:
            break
    return GenerationResult(rows)
