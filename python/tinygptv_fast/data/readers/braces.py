"""Shell braces in names of shards: ``{00000..01255}.tar`` and ``{a,b}/x.tar``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...errors import ConfigError

MAX_NAMES = 1_000_000
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand(pattern: str) -> list[str]:
    """Every name that ``pattern`` stands for, in order; numbers keep the width of the first bound, as in a shell.

    Raises ConfigError: a brace without partner, braces with neither ``..`` nor a comma, more than a million names.
    """
    out: list[str] = []
    for name in _expanded(pattern, pattern):
        if len(out) == MAX_NAMES:
            raise ConfigError(f"pattern {pattern!r} stands for more than {MAX_NAMES} names")
        out.append(name)
    return out


def _expanded(text: str, pattern: str) -> Iterator[str]:
    match = _INNERMOST.search(text)
    if match is None:
        if "{" in text or "}" in text:
            raise ConfigError(f"pattern {pattern!r} has a brace without partner")
        yield text
        return
    for choice in _choices(match[1], pattern):
        yield from _expanded(text[: match.start()] + choice + text[match.end() :], pattern)


def _choices(inside: str, pattern: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is not None:
        first, last = numbers.groups()
        if max(len(first), len(last)) > 18 or int(first) > int(last):
            raise ConfigError(f"pattern {pattern!r} counts from {first[:30]} to {last[:30]}, expected an upward range")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        yield from (str(number).rjust(width, "0") for number in range(int(first), int(last) + 1))
    elif "," in inside:
        yield from inside.split(",")
    else:
        raise ConfigError(f"pattern {pattern!r} has braces around {inside[:30]!r}, expected a..b or a,b,c")
