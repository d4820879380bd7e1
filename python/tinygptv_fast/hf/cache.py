"""transformers' ``past_key_values`` over native sequences. Knows rows and masks, not how tokens are chosen."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from transformers import Cache

from ..errors import InvalidArgumentError
from .sequences import Sequences


def _release(pool: Sequences, rows: list[int]) -> None:
    pool.release(rows)
    rows.clear()


class NativeCache(Cache):
    """One native sequence per row of the batch. Padding is never fed, so rows differ in length: ``mask`` bool [B, T]
    says which of the T columns that callers count are there.

    Memory goes back with ``release``, with ``reset``, or when nobody refers to the cache any more.
    """

    def __init__(self, pool: Sequences) -> None:
        super().__init__(layers=[])
        self.pool = pool
        self.rows: list[int] = []
        self.mask = torch.ones((0, 0), dtype=torch.bool)
        weakref.finalize(self, _release, pool, self.rows).atexit = False

    # --- what transformers asks ------------------------------------------------------------------------------------
    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Columns: the longest row with its padding."""
        return int(self.mask.shape[1])

    def get_max_cache_shape(self, *args: Any, **kwargs: Any) -> int:
        """-1: it grows."""
        return -1

    get_max_length = get_max_cache_shape

    @property
    def is_compileable(self) -> bool:
        """Nothing of it is torch's."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether anything has been fed."""
        return bool(self.rows)

    @property
    def max_batch_size(self) -> int:
        """B."""
        return len(self.rows)

    def __len__(self) -> int:
        return 0  # layers that could be looked at

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"NativeCache({len(self.rows)} rows of up to {self.get_seq_length()} positions)"

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Raises: keys and values are computed inside of the native core."""
        raise InvalidArgumentError("past_key_values is a NativeCache, expected one that torch fills")

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Row i becomes what row beam_idx[i] was."""
        self._choose(beam_idx.tolist())

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        self._choose(indices.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row so many times."""
        self._choose([row for row in range(len(self.rows)) for _ in range(repeats)])

    def crop(self, max_length: int) -> None:
        """Keep so many columns; 0 or less: drop so many from the end."""
        columns = self.get_seq_length()
        keep = min(max_length if max_length > 0 else max(columns + max_length, 0), columns)
        self.mask = self.mask[:, :keep]
        for row, length in zip(self.rows, self.mask.sum(1).tolist(), strict=True):
            self.pool.truncate(row, length)

    def reset(self) -> None:
        """Forget everything."""
        self.release()

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeCache:
        """The same positions; memory is shared until one of the two goes on."""
        copy = NativeCache(self.pool)
        for row in self.rows:
            copy.rows.append(self.pool.fork(row))
        copy.mask = self.mask.clone()
        return copy

    # --- what the model asks ---------------------------------------------------------------------------------------
    def release(self) -> None:
        """Give the memory back; the cache is empty then and can be used again."""
        _release(self.pool, self.rows)
        self.mask = torch.ones((0, 0), dtype=torch.bool)

    def _choose(self, parents: list[int]) -> None:
        """The first heir of a row takes its sequence, the others fork it. Rows without heirs are given back first: the
        forks may need their room."""
        if not self.rows:
            return  # nothing was fed, so all rows are still to come
        wrong = [parent for parent in parents if not 0 <= parent < len(self.rows)]
        if wrong:
            raise InvalidArgumentError(f"beam_idx has {wrong[0]}, expected 0..{len(self.rows) - 1}")
        old = list(self.rows)
        orphans = [row for index, row in enumerate(old) if index not in set(parents)]
        kept = [row for index, row in enumerate(old) if index in set(parents)]
        self.pool.release(orphans)
        self.rows[:] = kept  # what there is to give back if a fork fails
        chosen: list[int] = []
        taken: set[int] = set()
        for parent in parents:
            row = old[parent]
            if parent in taken:
                row = self.pool.fork(row)
                self.rows.append(row)
            taken.add(parent)
            chosen.append(row)
        self.rows[:] = chosen
        self.mask = self.mask[parents]
