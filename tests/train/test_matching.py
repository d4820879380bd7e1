"""The assignment against every permutation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.train.matching import assign


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (2, 2), (3, 5), (4, 4), (4, 7)])
def test_cheapest(rows: int, columns: int) -> None:
    rng = np.random.default_rng(rows * 10 + columns)
    for _ in range(40):
        # Few distinct values: ties are where a wrong search goes astray.
        cost = rng.integers(-3, 4, (rows, columns)).astype(float)
        chosen = assign(cost.tolist())
        assert len(set(chosen)) == rows and all(0 <= c < columns for c in chosen)
        best = min(
            sum(cost[i, c] for i, c in enumerate(picked)) for picked in itertools.permutations(range(columns), rows)
        )
        assert sum(cost[i, c] for i, c in enumerate(chosen)) == best


def test_nothing_to_assign() -> None:
    assert assign([]) == []


def test_more_rows_than_columns() -> None:
    with pytest.raises(InvalidArgumentError, match="cost is 2x1"):
        assign([[1.0], [2.0]])
