"""Whether an answer is right where only its text and the accepted answers are known, whatever data they come from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from .scoring import grounded, read_boxes, same_boxes
from .world.scoring import caption_things

_SPACE = re.compile(r"\s+")


def is_accepted(given: str, accepted: Sequence[str], task: str | None = None) -> bool:
    """True when ``given`` is as good as one of ``accepted``.

    An accepted answer with boxes wants the same phrases, each with as many boxes, each with IoU > 0.5. One of task
    "caption" wants the same things in any order. Any other wants the same text, but for case, white space and a full
    stop at the end.
    """
    return any(_fits(given, true, task) for true in accepted)


def _fits(given: str, true: str, task: str | None) -> bool:
    phrases = grounded(true)
    if phrases:
        found = grounded(given)
        return phrases.keys() == found.keys() and all(same_boxes(found[name], phrases[name]) for name in phrases)
    boxes = read_boxes(true)
    if boxes:
        return same_boxes(read_boxes(given), boxes)
    if task == "caption":
        return caption_things(plain(given)) == caption_things(plain(true))
    return plain(given) == plain(true)


def plain(text: str) -> str:
    """``text`` as it is compared: NFKC, lower case, single spaces, no full stop at the end."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold().removesuffix(".").rstrip()
