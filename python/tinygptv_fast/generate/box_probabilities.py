"""How sure the model was of each box: the probabilities of the tokens that its text is made of."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from ..processing.boxes import Boxes, box_spans


def with_probabilities(boxes: Boxes, text: str, indent: int, widths: Sequence[int], logprobs: Sequence[float]) -> Boxes:
    """``boxes``, read from ``text``, with ``score`` and ``coordinate_probabilities``.

    ``widths``: characters that each token added, ``logprobs``: its float32 log-probability; ``indent``: characters that
    the tokens wrote before ``text`` begins. A token that covers a character of a number counts for that number, one
    that covers any character of the box counts for the box.
    """
    if not boxes:
        return boxes
    ends = [end - indent for end in accumulate(widths)]
    sums = [0.0, *accumulate(logprobs)]

    def probability(span: tuple[int, int]) -> float:
        first = bisect_right(ends, span[0])  # the first token that ends after the span's start
        last = min(bisect_left(ends, span[1]) + 1, len(logprobs))  # one past the token in which it ends
        return math.exp(min(sums[last] - sums[first], 0.0))

    scored = []
    for box, (whole, *numbers) in zip(boxes, box_spans(text), strict=True):
        x1, y1, x2, y2 = map(probability, numbers)
        scored.append(replace(box, score=probability(whole), coordinate_probabilities=(x1, y1, x2, y2)))
    return Boxes(scored, dropped=boxes.dropped)
