"""Questions about one thing: its colour, shape, size and texture."""

from __future__ import annotations

from collections.abc import Iterator

from .candidate import Candidate, pairs_of, words_of
from .phrases import looks, namings
from .scene import Description, Scene, Thing


def _about(family: str, thing: Thing, description: Description, answer: str) -> Candidate:
    slots = {"thing": description.words(), "look": looks(description)}
    return Candidate(
        family, slots, answer, group=answer, pairs=pairs_of([thing], description), words=words_of([thing], description)
    )


def colours(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.things:
        for description in namings(scene, thing, without="colour"):
            yield _about("colour", thing, description, thing.colour)


def shapes(scene: Scene) -> Iterator[Candidate]:
    inked = {t.colour for t in scene.texts}
    for thing in scene.shapes:
        for description in namings(scene, thing, without="shape"):
            if description.colour not in inked:  # "the red thing" could be the red word
                yield _about("shape", thing, description, thing.shape)


def sizes(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.shapes:
        for description in namings(scene, thing, without="size"):
            yield _about("size", thing, description, thing.size or "")


def textures(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.shapes:
        for description in namings(scene, thing, without="texture"):
            yield _about("texture", thing, description, thing.texture or "")
