"""The cheapest one-to-one assignment of a few rows to more columns (Hungarian method, shortest augmenting paths)."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidArgumentError


def assign(cost: Sequence[Sequence[float]]) -> list[int]:
    """cost [n][m], n <= m, finite → for each row its column, all different, with the least total cost.

    Jonker & Volgenant's form with potentials: O(n² m). Raises InvalidArgumentError when n > m.
    """
    n = len(cost)
    m = len(cost[0]) if n else 0
    if n > m:
        raise InvalidArgumentError(f"cost is {n}x{m}, expected no more rows than columns")
    u, v = [0.0] * (n + 1), [0.0] * (m + 1)
    row_of = [0] * (m + 1)  # row (from 1) that holds each column (from 1); column 0 is the search's start
    for row in range(1, n + 1):
        row_of[0] = row
        _augment(cost, u, v, row_of)
    columns = [-1] * n
    for column in range(1, m + 1):
        if row_of[column]:
            columns[row_of[column] - 1] = column - 1
    return columns


def _augment(cost: Sequence[Sequence[float]], u: list[float], v: list[float], row_of: list[int]) -> None:
    """Give the row waiting at column 0 a column along the cheapest alternating path."""
    m = len(v) - 1
    least, came_from, used = [float("inf")] * (m + 1), [0] * (m + 1), [False] * (m + 1)
    here = 0
    while row_of[here]:
        used[here] = True
        row, delta, following = row_of[here], float("inf"), 0
        costs, potential = cost[row - 1], u[row]
        for column in range(1, m + 1):
            if used[column]:
                continue
            reduced = costs[column - 1] - potential - v[column]
            if reduced < least[column]:
                least[column], came_from[column] = reduced, here
            if least[column] < delta:
                delta, following = least[column], column
        for column in range(m + 1):
            if used[column]:
                u[row_of[column]] += delta
                v[column] -= delta
            else:
                least[column] -= delta
        here = following
    while here:
        row_of[here] = row_of[came_from[here]]
        here = came_from[here]
