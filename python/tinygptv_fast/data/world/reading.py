"""Questions whose answer is a drawn word or number."""

from __future__ import annotations

from collections.abc import Iterator

from .candidate import Candidate, words_of
from .scene import Description, Scene


def _texts(scene: Scene, sort: str) -> Iterator[Candidate]:
    for thing in scene.texts:
        for description in (Description(shape=sort), Description(shape=sort, colour=thing.colour)):
            if description.find(scene) == (thing,):
                slots = {"text": description.words()}
                yield Candidate(sort, slots, thing.text, words=words_of([thing]))


def words(scene: Scene) -> Iterator[Candidate]:
    return _texts(scene, "word")


def numbers(scene: Scene) -> Iterator[Candidate]:
    return _texts(scene, "number")
