"""Scenes described in words: ``three small green circles above a striped red star and the word "cat"``.

::

    description = group { link group }
    link        = "and" | "," | relation
    relation    = ["to the"] "left of" | ["to the"] "right of" | "above" | "below"
    group       = ["a" | "an" | "the"] [count] { size | texture | colour } noun
    noun        = shape | "shape" | "word" '"cat"' | "number" 42            (shapes also in the plural)

A relation holds between the groups on its two sides. What is not said is drawn from the seed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from ...errors import InvalidArgumentError
from ..colours import COLOURS
from .lexicon import MAX_THINGS, SHAPES, SIZES, TEXTURES, plural

COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, **{str(n): n for n in range(1, 7)}}
_SIDES = ("left", "right")
_UPRIGHT = ("above", "below")
_ARTICLES = ("a", "an", "the")
_NOUNS = {**{s: s for s in SHAPES}, **{plural(s): s for s in SHAPES}, "shape": "", "shapes": ""}
_TOKEN = re.compile(r'"[^"]*"?|[^\s,"]+|,')
_WORD = re.compile(r"[a-z]{1,10}$")
_NUMBER = re.compile(r"\d{1,4}$")


@dataclass(frozen=True)
class Group:
    """``count`` things alike. None: not said; ``text`` is set for a "word" or a "number".

    ``relation``: what the group *before* this one is to this one ("left of"), None after "and".
    """

    count: int = 1
    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None
    text: str = ""
    relation: str | None = None


class _Reader:
    """The words of a description, one after another; errors name the word and its place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [(m.group(), m.start()) for m in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self, ahead: int = 0) -> str | None:
        index = self.at + ahead
        return self.tokens[index][0].lower() if index < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise self.error("the description ends", "expected another thing")
        self.at += 1
        return token

    def skip(self, *words: str) -> bool:
        """Step over ``words`` if they come next, all of them."""
        if all(self.peek(i) == word for i, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def here(self) -> str:
        """``'stra' (word 2)`` for the word that comes next."""
        token, column = self.tokens[self.at]
        return f"{token!r} (word {self.at + 1}, column {column + 1})"

    def error(self, problem: str, hint: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"cannot draw {self.text!r}: {problem}; {hint}")


def known() -> str:
    """Everything a description may be made of, in one line."""
    return (
        f"shapes: {', '.join(SHAPES)}; colours: {', '.join(COLOURS)}; sizes: {', '.join(SIZES)}; "
        f'textures: {", ".join(TEXTURES)}; also one to six, the word "cat", the number 42, '
        "and, left of, right of, above, below"
    )


def parse(text: str) -> tuple[Group, ...]:
    """The groups of a description. Raises ``InvalidArgumentError`` that points at the first word it cannot read."""
    reader = _Reader(text)
    if not reader.tokens:
        raise reader.error("it is blank", f"known are {known()}")
    groups = [_group(reader)]
    while reader.peek() is not None:
        relation = _link(reader)
        groups.append(replace(_group(reader), relation=relation))
    total = sum(g.count for g in groups)
    if total > MAX_THINGS:
        raise reader.error(f"it has {total} things", f"expected at most {MAX_THINGS}")
    return tuple(groups)


def _link(reader: _Reader) -> str | None:
    """A relation, or None for "and" or a comma (or both)."""
    if reader.skip(","):
        reader.skip("and")
        return None
    if reader.skip("and"):
        return None
    for word in _UPRIGHT:
        if reader.skip(word):
            return word
    for side in _SIDES:
        if reader.skip("to", "the", side, "of") or reader.skip(side, "of"):
            return f"{side} of"
    raise reader.error(f"{reader.here()} cannot stand here", _hint(reader, _expected_links()))


def _expected_links() -> list[str]:
    return ["and", "left of", "right of", "above", "below"]


def _group(reader: _Reader) -> Group:
    if reader.peek() in _ARTICLES:
        reader.take()
    group = Group()
    counted = reader.peek() in COUNTS
    if counted:
        group = replace(group, count=COUNTS[reader.take()])
    while True:
        token = reader.peek()
        attribute = _attribute(token)
        if attribute is not None:
            if getattr(group, attribute) is not None:
                raise reader.error(f"{reader.here()} is a second {attribute}", f"{getattr(group, attribute)!r} is one")
            group = _with(group, attribute, reader.take())
        elif token in ("word", "number"):
            return _text(reader, group, counted)
        elif token in _NOUNS:
            reader.take()
            many = token != _NOUNS[token] and token != "shape"
            count = 2 if many and not counted else group.count
            return replace(group, shape=_NOUNS[token] or None, count=count)
        elif token is None:
            raise reader.error("the description ends", f"expected a shape: {', '.join(SHAPES)}, word or number")
        else:
            expected = [*_NOUNS, *COLOURS, *SIZES, *TEXTURES, *COUNTS, "word", "number"]
            raise reader.error(f"{reader.here()} is not known", _hint(reader, expected))


def _with(group: Group, attribute: str, value: str) -> Group:
    if attribute == "colour":
        return replace(group, colour=value)
    return replace(group, size=value) if attribute == "size" else replace(group, texture=value)


def _attribute(token: str | None) -> str | None:
    """Which attribute this adjective gives."""
    tables: dict[str, Collection[str]] = {"colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    return next((name for name, table in tables.items() if token in table), None)


def _text(reader: _Reader, group: Group, counted: bool) -> Group:
    sort = reader.take()
    if group.size or group.texture or (counted and group.count != 1):
        raise reader.error(f"a {sort} has no size, texture or count", f"expected the {sort}, or the red {sort}")
    if reader.peek() is None:
        raise reader.error(f"the description ends after {sort!r}", _example(sort))
    pattern = _WORD if sort == "word" else _NUMBER
    if not pattern.match((reader.peek() or "").strip('"')):
        raise reader.error(f"{reader.here()} cannot be drawn as a {sort}", _example(sort))
    return replace(group, shape=sort, text=reader.take().strip('"'))


def _example(sort: str) -> str:
    return (
        'expected 1 to 10 letters a..z: the word "cat"' if sort == "word" else "expected 1 to 4 digits: the number 42"
    )


def _hint(reader: _Reader, expected: list[str]) -> str:
    close = difflib.get_close_matches(reader.peek() or "", expected, n=1, cutoff=0.7)
    return (f"did you mean {close[0]!r}? " if close else "") + f"Known are {known()}"
