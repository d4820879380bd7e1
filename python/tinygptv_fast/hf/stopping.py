"""Stop strings of a model that brings its own tokenizer: where a row ends, in the engine and in transformers' loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..processing.tokenizer import Tokenizer


class StopStrings(StoppingCriteria):
    """A row ends with the token that completes one of ``stops`` in the text generated so far, as the engine has it.

    skip: columns before the generated ones. eos_ids add nothing to the text.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Tokenizer, *, skip: int, eos_ids: Sequence[int]) -> None:
        self.stops = tuple(stops)
        self._tokenizer = tokenizer
        self._skip = skip
        self._eos_ids = frozenset(eos_ids)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [B]."""
        ended = [self._found(row) is not None for row in input_ids[:, self._skip :].tolist()]
        return torch.tensor(ended, dtype=torch.bool)

    def cut(self, sequences: Tensor, pad_id: int) -> Tensor:
        """sequences int64 [B, n] with pad_id behind the token that ends a row, columns of nothing else left out."""
        kept = []
        for row in sequences.tolist():
            end = self._found(row[self._skip :])
            kept.append(row if end is None else row[: self._skip + end])
        longest = max(map(len, kept))
        return torch.tensor([row + [pad_id] * (longest - len(row)) for row in kept], dtype=sequences.dtype)

    def _found(self, ids: list[int]) -> int | None:
        """How many ids there are when the first stop string is complete. Whole texts are searched first: most rows
        have none."""
        text = [token for token in ids if token not in self._eos_ids]
        if not self._stops(self._tokenizer.decode(text)):
            return None
        stream, shown = self._tokenizer.stream(skip_special_tokens=True), ""
        for count, token in enumerate(ids, 1):
            shown += "" if token in self._eos_ids else stream.put(token)
            if self._stops(shown):
                return count
        return len(ids)

    def _stops(self, text: str) -> bool:
        return any(stop in text for stop in self.stops)
