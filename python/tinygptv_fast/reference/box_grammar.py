"""Which ids may come next so that every box of an answer parses: the readable twin of csrc/engine/box_grammar.h.

Every ``{`` opens ``{<x1><y1><x2><y2>}``: whole numbers of 0..100 without leading zeros, x1 < x2, y1 < y2. Text outside
boxes is free. A box is begun, and gone on with, only in ways that can be completed with the ids that are left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

_LARGEST = 100
_ALPHABET = frozenset(b"0123456789<>{}")
_NEVER = 1 << 20
_WHOLE = re.compile(rb"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")
_BEGUN = re.compile(rb"\{(?:<(\d*)(>)?)?(?:<(\d*)(>)?)?(?:<(\d*)(>)?)?(?:<(\d*)(>)?)?")


class Open(NamedTuple):
    """A box that was begun: its finished numbers, the digits of the one being written (None: between two)."""

    numbers: tuple[int, ...]
    digits: str | None

    def bounds(self, index: int) -> tuple[int, int]:
        """The least and the most that number ``index`` may be."""
        return (0, _LARGEST - 1) if index < 2 else (self.numbers[index - 2] + 1, _LARGEST)


class BoxGrammar:
    """Over ``token_bytes``, the text of each id, b"" for those that have none. Callable as ``generation.Constrain``."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._bytes = list(token_bytes)
        self._known = frozenset(token_bytes)
        self.digits_cost = cache(self._digits_cost)

    def __call__(self, scores: Tensor, generated: Tensor, left: int) -> Tensor:
        """scores f32 [B, V], generated int64 [B, n] → scores, -inf where an id may not come. Rows that broke a rule
        already (beams without a chance) stay as they are."""
        out = scores.clone()
        for row, ids in enumerate(generated.tolist()):
            allowed = self.allowed(ids, left)
            if allowed:
                mask = torch.ones(scores.shape[1], dtype=torch.bool)
                mask[allowed] = False
                out[row, mask.to(out.device)] = float("-inf")
        return out

    def allowed(self, ids: Sequence[int], left: int) -> list[int]:
        """The ids that may follow ``ids`` when ``left`` more may come; [] if ``ids`` broke a rule."""
        told = _tail(b"".join(self._bytes[index] for index in ids))
        now = _read(told)
        if now is False:
            return []
        return [index for index, piece in enumerate(self._bytes) if self._may_follow(told, now, piece, left)]

    def _may_follow(self, told: bytes, now: Open | None, piece: bytes, left: int) -> bool:
        if not piece or (now is None and b"{" not in piece):
            return now is None
        if now is not None and not set(piece.partition(b"}")[0]) <= _ALPHABET:
            return False
        after = _read(told + piece)
        return after is not False and self.cost(after) < left

    # -- how many ids complete a box -------------------------------------------------------------------------------
    def cost(self, box: Open | None) -> int:
        """Ids of one completion. What x2 and y2 have to pass may be open yet: then the dearest."""
        if box is None:
            return 0
        done = len(box.numbers)
        if box.digits is None:
            return self._piece("}") if done == 4 else self._piece("<") + self._rest(box, done)
        if box.digits == "":
            return self._rest(box, done)
        number = self._number(box.digits, *box.bounds(done))
        return number + (self._piece(">}") if done == 3 else self._piece("><") + self._rest(box, done + 1))

    def _rest(self, box: Open, first: int) -> int:
        """From the beginning of number ``first`` to the end."""
        costs = [self._any if i - 2 >= len(box.numbers) else self._number("", *box.bounds(i)) for i in range(first, 4)]
        return sum(costs) + self._piece("><") * (3 - first) + self._piece(">}")

    @cached_property
    def _any(self) -> int:
        return max(self._number("", least, _LARGEST) for least in range(1, _LARGEST + 1))

    def _number(self, digits: str, least: int, most: int) -> int:
        texts = [str(number) for number in range(least, most + 1) if str(number).startswith(digits)]
        return min((self.digits_cost(text[len(digits) :]) for text in texts), default=_NEVER)

    def _digits_cost(self, digits: str) -> int:
        """The fewest ids that write ``digits``."""
        if not digits:
            return 0
        cuts = [cut for cut in range(1, len(digits) + 1) if digits[:cut].encode() in self._known]
        return min((1 + self.digits_cost(digits[cut:]) for cut in cuts), default=_NEVER)

    def _piece(self, piece: str) -> int:
        if piece.encode() in self._known:
            return 1
        return _NEVER if len(piece) == 1 else min(_NEVER, self._piece(piece[0]) + self._piece(piece[1]))


def _tail(text: bytes) -> bytes:
    """``text`` from the box on that it ends in, if it ends in one."""
    at = text.rfind(b"{")
    return text[at:] if at >= 0 else b""


def _read(text: bytes) -> Open | Literal[False] | None:
    """The box that ``text`` ends in, None outside boxes, False if a box in it breaks a rule."""
    while (at := text.find(b"{")) >= 0:
        text = text[at:]
        whole = _WHOLE.match(text)
        if whole is None:
            return _read_begun(text)
        x1, y1, x2, y2 = numbers = [int(digits) for digits in whole.groups()]
        if any(str(n).encode() != digits for n, digits in zip(numbers, whole.groups(), strict=True)):
            return False
        if not (x1 < x2 <= _LARGEST and y1 < y2 <= _LARGEST):
            return False
        text = text[whole.end() :]
    return None


def _read_begun(text: bytes) -> Open | Literal[False]:
    match = _BEGUN.fullmatch(text)
    if match is None:
        return False
    groups, box = match.groups(), Open((), None)
    for index in range(4):
        digits, closed = groups[2 * index], groups[2 * index + 1]
        if digits is None:
            if any(group is not None for group in groups[2 * index :]):
                return False
            break
        box = Open(box.numbers, digits.decode())
        least, most = box.bounds(index)
        if not any(str(number).startswith(digits.decode()) for number in range(least, most + 1)):
            return False
        if closed is None:
            return box if all(group is None for group in groups[2 * index + 1 :]) else False
        if not least <= int(digits or b"-1") <= most or str(int(digits)).encode() != digits:
            return False
        box = Open((*box.numbers, int(digits)), None)
    return box
