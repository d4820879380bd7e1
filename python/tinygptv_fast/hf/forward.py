"""One forward pass on native sequences: ids or embeddings with a mask in, logits out. No PreTrainedModel in here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import TextConfig
from ..errors import InvalidArgumentError, UnsupportedError
from .cache import NativeCache
from .prompts import PromptRows, split_codes
from .sequences import Feed


@dataclass(frozen=True)
class Batch:
    """New columns of all rows. ids int64 [B, T] or embeddings float [B, T, C], the other None; mask bool [B, T]: False
    is padding. keep: columns from the end whose logits are wanted. rows_of: what ids below 0 stand for."""

    ids: Tensor | None
    embeddings: Tensor | None
    mask: Tensor
    keep: int
    rows_of: PromptRows | None = None

    @property
    def rows(self) -> int:
        """B."""
        return int(self.mask.shape[0])


def make_batch(
    ids: Tensor | None,
    embeddings: Tensor | None,
    mask: Tensor | None,
    past: Tensor,
    keep: int,
    text: TextConfig,
    rows_of: PromptRows | None = None,
) -> Batch:
    """Check arguments. ids [B, T] or embeddings [B, T, C]; mask [B, past + T] or None; past bool [B, P] or [0, 0]: the
    mask of what the cache holds; keep: 0 for all columns. With rows_of, embeddings are its codes [B, T, 1], which
    ``prompts.read_prompts`` has checked. Raises InvalidArgumentError, UnsupportedError."""
    if rows_of is not None and embeddings is not None:
        codes = embeddings[..., 0]
        return Batch(
            codes, None, _new_mask(mask, codes.shape[0], codes.shape[1], past), keep or codes.shape[1], rows_of
        )
    if (ids is None) == (embeddings is None):
        raise InvalidArgumentError("input_ids and inputs_embeds: expected exactly one of the two")
    given = ids if ids is not None else embeddings
    assert given is not None
    name, rank = ("input_ids", 2) if ids is not None else ("inputs_embeds", 3)
    if not isinstance(given, Tensor) or given.dim() != rank or given.shape[0] < 1 or given.shape[1] < 1:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InvalidArgumentError(
            f"{name} is {shape}, expected a tensor [B, T{', C' if rank == 3 else ''}], B, T >= 1"
        )
    rows, columns = given.shape[:2]
    if ids is not None:
        _check_ids(ids, text)
    elif given.shape[2] != text.width or not given.is_floating_point():
        raise InvalidArgumentError(
            f"inputs_embeds is {list(given.shape)} {given.dtype}, expected [B, T, C={text.width}] of a float dtype"
        )
    if past.shape[0] not in (0, rows):
        raise InvalidArgumentError(f"{name} has {rows} rows, expected the {past.shape[0]} of past_key_values")
    if not 0 <= keep <= columns:
        raise InvalidArgumentError(f"logits_to_keep is {keep}, expected 0..{columns}")
    return Batch(ids, embeddings, _new_mask(mask, rows, columns, past), keep or columns)


def _check_ids(ids: Tensor, text: TextConfig) -> None:
    if ids.dtype not in (torch.int64, torch.int32):
        raise InvalidArgumentError(f"input_ids is {ids.dtype}, expected torch.int64")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= text.vocab_size:
        raise InvalidArgumentError(f"input_ids has {low if low < 0 else high}, expected 0..{text.vocab_size - 1}")


def _new_mask(mask: Tensor | None, rows: int, columns: int, past: Tensor) -> Tensor:
    if mask is None:
        if past.numel() and not bool(past.all()):
            raise InvalidArgumentError("attention_mask is not given, expected one: past_key_values has padding in it")
        return torch.ones((rows, columns), dtype=torch.bool)
    if mask.dim() != 2:
        raise UnsupportedError(
            f"attention_mask is {list(mask.shape)}, expected [B, T]: others than padding cannot be run"
        )
    total = past.shape[1] + columns
    if tuple(mask.shape) != (rows, total):
        raise InvalidArgumentError(f"attention_mask is {list(mask.shape)}, expected {[rows, total]}")
    seen = mask != 0
    if past.numel() and not torch.equal(seen[:, : past.shape[1]], past):
        raise UnsupportedError("attention_mask hides or shows other positions than when past_key_values was filled")
    if not bool(seen.any(1).all()):
        row = int((~seen.any(1)).nonzero()[0])
        raise InvalidArgumentError(f"attention_mask[{row}] is all 0, expected at least one position per row")
    return seen[:, past.shape[1] :]


def run(batch: Batch, cache: NativeCache, text: TextConfig) -> Tensor:
    """Feed the batch behind what ``cache`` holds: logits float32 [B, keep, V], zeros where the mask is False. If it
    raises, the cache is as before. Raises CapacityError, UnsupportedError past the model's positions."""
    fresh = not cache.rows
    _check_positions(batch, cache, text)
    try:
        if fresh:
            logits = _run_fresh(batch, cache, text.vocab_size)
        else:
            logits = _feed(batch, cache, list(range(batch.rows)), text.vocab_size)
    except BaseException:
        if fresh:
            cache.release()
        raise
    cache.mask = batch.mask.clone() if fresh else torch.cat([cache.mask, batch.mask], dim=1)
    return logits


def _check_positions(batch: Batch, cache: NativeCache, text: TextConfig) -> None:
    new = batch.mask.sum(1)
    longest = int((new + cache.mask.sum(1)).max() if cache.rows else new.max())
    if longest > text.max_positions:
        raise UnsupportedError(
            f"a row has {longest} positions, and config.max_position_embeddings is {text.max_positions}: "
            "give a shorter prompt or fewer new tokens"
        )


def _run_fresh(batch: Batch, cache: NativeCache, vocab: int) -> Tensor:
    """Rows that are equal (beams, samples of one prompt) are computed once and forked."""
    first: dict[bytes, int] = {}
    parents: list[int] = []
    for row in range(batch.rows):
        parents.append(first.setdefault(_key(batch, row), len(first)))
    leaders = [parents.index(index) for index in range(len(first))]
    for _ in leaders:
        cache.rows.append(cache.pool.open())
    logits = _feed(batch, cache, leaders, vocab)
    cache.mask = batch.mask[leaders]
    cache.batch_select_indices(torch.tensor(parents))
    return logits[parents]


def _key(batch: Batch, row: int) -> bytes:
    values = batch.ids if batch.ids is not None else batch.embeddings
    assert values is not None
    used = values[row][batch.mask[row]].detach().to(torch.float32 if values.is_floating_point() else values.dtype)
    return batch.mask[row].numpy().tobytes() + used.contiguous().numpy().tobytes()


def _feed(batch: Batch, cache: NativeCache, rows: list[int], vocab: int) -> Tensor:
    """logits [len(rows), keep, V] of these rows of the batch, fed to the sequences of the cache."""
    feeds: list[Feed] = []
    for row, sequence in zip(rows, cache.rows, strict=True):
        mask = batch.mask[row]
        wanted = int(mask[-batch.keep :].sum())
        if batch.ids is not None:
            fed, vectors = split_codes(batch.ids[row][mask], batch.rows_of)
            feeds.append(Feed(sequence, fed.tolist(), vectors, wanted))
        else:
            assert batch.embeddings is not None
            vectors = batch.embeddings[row][mask].detach().float().contiguous().numpy()
            feeds.append(Feed(sequence, [-1] * len(vectors), vectors, wanted))
    cache.pool.feed([feed for feed in feeds if feed.ids])
    out = torch.zeros((len(rows), batch.keep, vocab))
    for index, (row, feed) in enumerate(zip(rows, feeds, strict=True)):
        if feed.rows:
            out[index][batch.mask[row][-batch.keep :]] = torch.from_numpy(np.concatenate(feed.rows))
    return out
