"""The value of an answer that is json and can be written as json again: UTF-8, and no number that is not finite."""

from __future__ import annotations

import json
import math
from typing import Any

from ..errors import TinyGPTVError

_SHOWN = 40


def read_json(text: str) -> Any:
    """The value of ``text``. Integers keep every digit; other numbers are float64.

    Raises ValueError for what is not json (NaN and Infinity are not); TinyGPTVError for json that Python cannot hold: a
    number beyond float64 (``1e999``, which Python reads as infinity) or half a surrogate pair. Neither is guessed at:
    infinity is no json, and text where a schema says number would be no instance of it.
    """
    value = json.loads(text, parse_float=_float, parse_int=_integer, parse_constant=_refuse)
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise TinyGPTVError(
            f"the answer's json has half a surrogate pair ({text[:_SHOWN]!r}), which is no text; expected a schema "
            "with a pattern or an enum there"
        ) from None
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _too_large(text)
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python's bound on digits
        raise _too_large(text) from None


def _too_large(text: str) -> TinyGPTVError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return TinyGPTVError(
        f"the answer's json has the number {shown}, which is beyond float64; expected a schema with minimum and "
        "maximum there"
    )


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not json")
