"""Dialogues of two and three turns about one thing, whose later turns call it "it"."""

from __future__ import annotations

from collections.abc import Iterator

from .candidate import Candidate, pairs_of, words_of
from .phrases import namings, with_article
from .places import position
from .scene import Description, Scene, Thing, box_text

_TOPICS = ("colour", "size", "texture", "position", "refer")
_NAMES = 2  # of each thing: enough to choose from


def dialogues(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.shapes:
        for description in namings(scene, thing)[:_NAMES]:
            opening = _open(thing, description)
            follow_ups = [c for topic in _TOPICS if (c := _then(topic, thing, description)) is not None]
            for last in follow_ups:
                yield _join(last, (opening,))
                for middle in follow_ups:
                    if middle is not last:
                        yield _join(last, (opening, middle))


def _open(thing: Thing, description: Description) -> Candidate:
    return Candidate("exist", {"a_thing": with_article(description)}, "yes", pairs=pairs_of([thing], description))


def _then(topic: str, thing: Thing, description: Description) -> Candidate | None:
    if getattr(description, topic, None) is not None:
        return None  # already said
    if topic == "refer":
        answer: str | None = box_text(thing.box)
    elif topic == "position":
        answer = position(thing)
    else:
        answer = getattr(thing, topic)
    return None if answer is None else Candidate(f"then_{topic}", {}, answer, pairs=pairs_of([thing]))


def _join(last: Candidate, history: tuple[Candidate, ...]) -> Candidate:
    pairs = frozenset().union(*(c.pairs for c in history)) | last.pairs
    turns = str(len(history) + 1)
    return Candidate(last.family, last.slots, last.answer, last.family, turns, pairs, words_of(()), history=history)
