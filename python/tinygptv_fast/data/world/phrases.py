"""How a thing can be named so that nothing else is meant, and what could be there but is not."""

from __future__ import annotations

from collections.abc import Iterator

from ..colours import COLOURS
from .lexicon import SHAPES, TEXT_SORTS, TEXTURES, TRAIN_WORDS, article
from .scene import Description, Scene, Thing

#: Which attributes a phrase may name, the usual ones first.
_NAMINGS = (
    ("colour", "shape"),
    ("shape",),
    ("colour",),
    ("size", "shape"),
    ("texture", "shape"),
    ("size", "colour"),
    ("texture", "colour"),
    ("size", "colour", "shape"),
    ("texture", "colour", "shape"),
    ("size",),
    ("texture",),
    ("size", "texture"),
)


def namings(scene: Scene, thing: Thing, without: str | None = None) -> list[Description]:
    """Every description that fits ``thing`` and nothing else in the scene, and does not name ``without``."""
    if thing.is_text:
        found = [Description(shape=thing.shape, text=thing.text)]
        if without != "colour":
            found.append(Description(shape=thing.shape, colour=thing.colour))
        return [d for d in found if len(d.find(scene)) == 1]
    out = []
    for names in _NAMINGS:
        if without in names:
            continue
        description = Description(**{name: getattr(thing, name) for name in names})
        if len(description.find(scene)) == 1:
            out.append(description)
    return out


def plain_name(scene: Scene, thing: Thing) -> Description | None:
    """``red star`` or ``word cat``, if it means ``thing`` alone."""
    description = (
        Description(shape=thing.shape, text=thing.text)
        if thing.is_text
        else Description(colour=thing.colour, shape=thing.shape)
    )
    return description if len(description.find(scene)) == 1 else None


def named(scene: Scene) -> list[tuple[Thing, Description]]:
    """The things that have a plain name of their own, with it."""
    return [(t, d) for t in scene.things if (d := plain_name(scene, t)) is not None]


def looks(description: Description) -> str:
    """The adjectives alone: ``large striped red``."""
    return " ".join(w for w in (description.size, description.texture, description.colour) if w)


def with_article(description: Description) -> str:
    """``a red star``, ``the word cat``."""
    words = description.words()
    return f"the {words}" if description.text else f"{article(words)} {words}"


def absent(scene: Scene) -> Iterator[tuple[str, Description]]:
    """What is not there, as (sort, description): mostly things that share a word with something that is."""
    for shape in SHAPES:
        description = Description(shape=shape)
        if not description.find(scene):
            yield "shape", description
    for colour in COLOURS:
        description = Description(colour=colour)
        if not description.find(scene):
            yield "colour", description
    for sort in TEXT_SORTS:
        description = Description(shape=sort)
        if not description.find(scene):
            yield "text", description
    shapes = {(t.colour, t.shape) for t in scene.shapes}
    near = {(c, s) for _, s in shapes for c in COLOURS} | {(c, s) for c, _ in shapes for s in SHAPES}
    for colour, shape in sorted(near - shapes):
        yield "pair", Description(colour=colour, shape=shape)
    dressed = {(t.texture, t.shape) for t in scene.shapes}
    for texture in TEXTURES:
        for shape in sorted({s for _, s in dressed}):
            if (texture, shape) not in dressed:
                yield "texture", Description(texture=texture, shape=shape)
    for thing in scene.texts:
        if thing.shape == "word":
            for word in TRAIN_WORDS:
                description = Description(shape="word", text=word)
                if word[0] == thing.text[0] and not description.find(scene):
                    yield "word", description
