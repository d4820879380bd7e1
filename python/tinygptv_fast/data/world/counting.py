"""Questions about how many: counts, existence, which are more, which of two is larger."""

from __future__ import annotations

from collections.abc import Iterator

from ..colours import COLOURS
from .candidate import Candidate, pairs_of, words_of
from .lexicon import SHAPES, SIZES, TEXTURES
from .phrases import absent, named, with_article
from .scene import Description, Scene

CLEARLY_LARGER = 1.25  # ratio of extents from which "larger" is asked about


def countable(scene: Scene) -> Iterator[tuple[str, Description]]:
    """What may be counted, as (sort, description), whether there or not."""
    yield "all", Description()
    for shape in SHAPES:
        yield "shape", Description(shape=shape)
    for colour in COLOURS:
        yield "colour", Description(colour=colour)
    for texture in TEXTURES:
        yield "texture", Description(texture=texture)
    for size in SIZES:
        yield "size", Description(size=size)
    if scene.texts:
        yield "text", Description(shape="word")
        yield "text", Description(shape="number")
    for colour, shape in sorted({(t.colour, t.shape) for t in scene.shapes}):
        yield "pair", Description(colour=colour, shape=shape)
    for texture, shape in sorted({(t.texture or "", t.shape) for t in scene.shapes}):
        yield "dressed", Description(texture=texture, shape=shape)
    yield from (found for found in absent(scene) if found[0] == "pair")


def counts(scene: Scene) -> Iterator[Candidate]:
    for sort, description in countable(scene):
        found = description.find(scene)
        number = str(len(found))
        slots = {"things": description.words(many=True)}
        yield Candidate("count", slots, number, group=number, sort=sort, pairs=pairs_of(found, description))


def existence(scene: Scene) -> Iterator[Candidate]:
    there: dict[Description, str] = {}
    for thing in scene.things:
        if thing.is_text:
            there[Description(shape=thing.shape)] = "text"
            there[Description(shape=thing.shape, text=thing.text)] = "word"
            continue
        there[Description(colour=thing.colour, shape=thing.shape)] = "pair"
        there[Description(shape=thing.shape)] = "shape"
        there[Description(colour=thing.colour)] = "colour"
        there[Description(texture=thing.texture, shape=thing.shape)] = "texture"
    for description, sort in there.items():
        yield _exists(scene, description, sort, "yes")
    for sort, description in absent(scene):
        yield _exists(scene, description, sort, "no")


def _exists(scene: Scene, description: Description, sort: str, answer: str) -> Candidate:
    found = description.find(scene)
    return Candidate(
        "exist",
        {"a_thing": with_article(description)},
        answer,
        group=answer,
        sort=sort,
        pairs=pairs_of(found, description),
        words=words_of(found, description),
    )


def larger(scene: Scene) -> Iterator[Candidate]:
    """Which of two named shapes is larger; the groups are where in the question the answer stands."""
    items = [(t, d) for t, d in named(scene) if not t.is_text]
    for one, its_name in items:
        for other, other_name in items:
            if one.extent >= CLEARLY_LARGER * other.extent:
                pairs = pairs_of([one, other])
                for group, slots in (
                    ("first", {"one": its_name.words(), "other": other_name.words()}),
                    ("second", {"one": other_name.words(), "other": its_name.words()}),
                ):
                    yield Candidate("larger", slots, its_name.words(), group, "larger", pairs)


def more(scene: Scene) -> Iterator[Candidate]:
    """Which of two shapes, or colours, is there more of."""
    for sort, things in (
        ("more shapes", [Description(shape=s) for s in sorted({t.shape for t in scene.shapes})]),
        ("more colours", [Description(colour=c) for c in sorted({t.colour for t in scene.shapes})]),
    ):
        numbers = {d: d.find(scene) for d in things}
        for many, found in numbers.items():
            for few, others in numbers.items():
                if len(found) > len(others):
                    most, least = many.words(many=True), few.words(many=True)
                    pairs = pairs_of([*found, *others])
                    yield Candidate("more", {"one": most, "other": least}, most, "first", sort, pairs)
                    yield Candidate("more", {"one": least, "other": most}, most, "second", sort, pairs)


def comparisons(scene: Scene) -> Iterator[Candidate]:
    yield from larger(scene)
    yield from more(scene)
