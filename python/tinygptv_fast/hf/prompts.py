"""Prompts that mix ids and visual tokens, as one integer per position, so that transformers can carry them around.

A code is the id of a token, or -(1 + k) for row k of the visual tokens. transformers sees codes int64 [B, T, 1] as
``inputs_embeds``, of which it reads the shape alone; nothing is embedded outside of the native core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import TextConfig
from ..errors import InvalidArgumentError


@dataclass(frozen=True)
class PromptRows:
    """What goes with the codes of one call. rows: float32 [n, C] of all its pictures, None without any; seed: of the
    engine's sampling, None to draw one; samples: rows of the batch that one prompt was repeated to."""

    rows: np.ndarray | None
    seed: int | None = None
    samples: int = 1


def split_codes(codes: Tensor, rows_of: PromptRows | None) -> tuple[Tensor, np.ndarray | None]:
    """codes int64 [T] as ids, -1 where a visual token goes, and those tokens float32 [n, C] in order."""
    visual = codes < 0
    if rows_of is None or rows_of.rows is None or not bool(visual.any()):
        return codes, None
    return codes.clamp(min=-1), rows_of.rows[(-1 - codes[visual]).numpy()]


def read_prompts(
    ids: Tensor, mask: Tensor, pictures: int, text: TextConfig, *, queries: int, image_token_id: int
) -> Tensor:
    """Codes int64 [B, T, 1] of ids int64 [B, T] whose mask [B, T] is not 0, pictures in the order of the rows.

    queries: visual tokens of a picture, NQ; 0 for a model of text. Raises InvalidArgumentError for ids that are none
    and for places of pictures that differ in number from ``pictures``.
    """
    seen = mask != 0
    places = (ids == image_token_id) & seen if queries else torch.zeros_like(seen)
    _check_places(places.sum(1).tolist(), pictures, queries)
    codes = torch.where(seen, ids.to(torch.int64), torch.zeros_like(ids, dtype=torch.int64))
    wrong = ((codes < 0) | (codes >= text.vocab_size)) & ~places
    if bool(wrong.any()):
        raise InvalidArgumentError(f"input_ids has {int(codes[wrong][0])}, expected 0..{text.vocab_size - 1}")
    codes[places] = -1 - torch.arange(int(places.sum()))
    return codes.unsqueeze(-1)


def _check_places(counts: list[int], pictures: int, queries: int) -> None:
    if not queries:
        if pictures:
            raise InvalidArgumentError("pixel_values is given, expected None: the model is text-only")
        return
    for row, count in enumerate(counts):
        if count % queries:
            raise InvalidArgumentError(
                f"input_ids[{row}] has {count} places of visual tokens, expected a multiple of {queries}, a picture's"
            )
    places = sum(counts) // queries
    if places != pictures:
        raise InvalidArgumentError(
            f"input_ids has places for {places} picture{'s' * (places != 1)} and pixel_values holds {pictures}, "
            "expected as many"
        )
