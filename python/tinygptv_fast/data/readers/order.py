"""In which order examples are drawn: which data set each slot of a mixture takes, and a shuffled order of a data set's
records. Both are pure functions of (seed, position), so a run that stops needs to remember its step and no more.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 1000  # slots over which the ratios of a mixture hold exactly
_ROUNDS = 6
_LEAST_HALF = 3  # bits; a smaller domain has too few orders to be shuffled well
_MASK = (1 << 64) - 1


@lru_cache(maxsize=8)
def block_order(shares: tuple[float, ...], seed: int, block: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(data set of each slot of ``block``, how many slots of that set stand before it in the block).

    shares need not add up to 1. Counts are their thousandths, rounded by largest remainders; the order is shuffled.
    """
    exact = np.array(shares) / sum(shares) * BLOCK
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: BLOCK - counts.sum()]:
        counts[index] += 1
    order = np.repeat(np.arange(len(shares)), counts)
    np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1, block]))).shuffle(order)
    before, seen = [], [0] * len(shares)
    for which in order.tolist():
        before.append(seen[which])
        seen[which] += 1
    return tuple(order.tolist()), tuple(before)


def locate(shares: tuple[float, ...], seed: int, position: int) -> tuple[int, int]:
    """(data set, how often it was drawn before) of the 0-based ``position`` of a mixture."""
    block, slot = divmod(position, BLOCK)
    order, before = block_order(shares, seed, block)
    # Every block holds the same number of each set, so whole blocks need not be walked.
    return order[slot], block * order.count(order[slot]) + before[slot]


def shuffled(index: int, count: int, *path: int) -> int:
    """Where 0 <= ``index`` < ``count`` comes to lie in a shuffled order of ``range(count)`` that ``path`` chooses.

    A bijection for every path, computed without a table, so that 100 million records take no memory: a Feistel network
    over the next even power of two, walked until it lands inside (Black and Rogaway, CT-RSA 2002, "cycle walking").
    """
    half = max(_LEAST_HALF, ((count - 1).bit_length() + 1) // 2)
    keys, mask = _keys(path), (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        index = (left << half) | right
        if index < count:
            return index


@lru_cache(maxsize=256)
def _keys(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.random.SeedSequence(path).generate_state(_ROUNDS, np.uint64)))


def _mixed(value: int) -> int:
    """splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): every bit of the result depends on every bit."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
