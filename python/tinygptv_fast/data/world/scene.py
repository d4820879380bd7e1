"""A scene: pure geometry in fractions of the picture's sides, and what can be asked of it without drawing it."""

from __future__ import annotations

from dataclasses import dataclass

from ..colours import RGB
from .lexicon import TEXT_SORTS, article, plural

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """A drawn shape, word or number.

    ``shape`` is one of ``lexicon.SHAPES`` or ``TEXT_SORTS``; ``size`` and ``texture`` are None and ``text`` is set for
    the latter. ``box`` is (x1, y1, x2, y2) of the *whole* thing, tight, in fractions 0..1 of the picture's sides.
    """

    shape: str
    colour: str
    box: Box
    rgb: RGB
    size: str | None = None
    texture: str | None = None
    text: str = ""

    @property
    def is_text(self) -> bool:
        return self.shape in TEXT_SORTS

    @property
    def name(self) -> str:
        """What captions call it: ``red star``, ``striped red star``, ``word cat``."""
        if self.is_text:
            return f"{self.shape} {self.text}"
        return (
            f"{self.colour} {self.shape}" if self.texture == "plain" else f"{self.texture} {self.colour} {self.shape}"
        )

    @property
    def phrase(self) -> str:
        """The name with its article: ``a striped red star``, ``the word cat``."""
        return f"the {self.name}" if self.is_text else f"{article(self.name)} {self.name}"

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def extent(self) -> float:
        """√(width x height) in fractions: what the size words measure."""
        x1, y1, x2, y2 = self.box
        return ((x2 - x1) * (y2 - y1)) ** 0.5


@dataclass(frozen=True)
class Background:
    """``kind``: plain | gradient | pattern | noise. ``second`` is the other end of a gradient, the other colour of a
    pattern; ``direction`` 0..3 (across, down, the two diagonals); ``period`` of a pattern as a fraction of the side."""

    kind: str
    first: RGB
    second: RGB
    direction: int = 0
    period: float = 0.1


@dataclass(frozen=True)
class Scene:
    """``things`` in the order they are painted: later ones lie on top. ``aspect`` is width : height.

    ``noise`` is an amplitude in grey levels of a fixed pattern, taken at ``noise_offset``.
    """

    things: tuple[Thing, ...]
    aspect: tuple[int, int]
    background: Background
    noise: float = 0.0
    noise_offset: tuple[int, int] = (0, 0)

    @property
    def shapes(self) -> tuple[Thing, ...]:
        """The things that are not text."""
        return tuple(t for t in self.things if not t.is_text)

    @property
    def texts(self) -> tuple[Thing, ...]:
        return tuple(t for t in self.things if t.is_text)


@dataclass(frozen=True)
class Description:
    """What a phrase says of a thing; None says nothing. ``shape`` None means any shape, never a text."""

    size: str | None = None
    texture: str | None = None
    colour: str | None = None
    shape: str | None = None
    text: str | None = None

    def fits(self, thing: Thing) -> bool:
        if self.shape is None and thing.is_text:
            return False
        return all(
            wanted is None or wanted == has
            for wanted, has in (
                (self.size, thing.size),
                (self.texture, thing.texture),
                (self.colour, thing.colour),
                (self.shape, thing.shape),
                (self.text, thing.text),
            )
        )

    def find(self, scene: Scene) -> tuple[Thing, ...]:
        return tuple(t for t in scene.things if self.fits(t))

    def words(self, *, many: bool = False) -> str:
        """``large striped red star``; ``stars`` with ``many``; any shape is called ``shape``; ``word cat``."""
        noun = self.shape or "shape"
        if many:
            noun = plural(noun)
        return " ".join(w for w in (self.size, self.texture, self.colour, noun, self.text) if w)

    @property
    def pair(self) -> tuple[str, str] | None:
        """(colour, shape) if it names both of a shape."""
        return (self.colour, self.shape) if self.colour and self.shape and self.shape not in TEXT_SORTS else None


def left_to_right(scene: Scene) -> list[Thing]:
    """The order in which captions and detections name things."""
    return sorted(scene.things, key=lambda t: t.centre)


def box_text(box: Box) -> str:
    """``{<x1><y1><x2><y2>}``: int() of 0..100, truncating, as the original's datasets write it."""
    return "{" + "".join(f"<{int(v * 100)}>" for v in box) + "}"
