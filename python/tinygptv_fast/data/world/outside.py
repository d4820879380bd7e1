"""Questions that the picture or the world cannot answer, with the honest answer."""

from __future__ import annotations

from collections.abc import Iterator

from .candidate import Candidate, pairs_of, words_of
from .lexicon import HELD_OUT_UNKNOWN, ONLY_KNOWN, TEXT_SORTS, TRAIN_UNKNOWN, article, plural
from .phrases import absent, looks
from .scene import Description, Scene

UNKNOWN_FAMILIES = ("unknown", "colour", "exist", "position", "count", "refer")
NOTHING_FAMILIES = ("nothing", "caption", "grounding")
ABSENT_FAMILIES = ("colour", "size", "texture", "position", "refer", "detection", "shape", "word", "number")
GROUNDS = {
    "plain": "an empty background",
    "pattern": "an empty background",
    "gradient": "a gradient",
    "noise": "noise",
}


def absences(scene: Scene) -> Iterator[Candidate]:
    """Questions about a thing that is not there: ``there is no red star``."""
    for sort, description in absent(scene):
        answer = f"there is no {description.words()}"
        slots = {
            "thing": description.words(),
            "things": description.words(many=True),
            "look": looks(description),
            "text": description.words(),
        }
        for family in _families(scene, description):
            yield Candidate(
                family, slots, answer, sort, family, pairs_of((), description), words_of((), description), refusal=True
            )


def _families(scene: Scene, description: Description) -> tuple[str, ...]:
    if description.text is not None:
        return ("colour", "position", "refer")
    if description.shape in TEXT_SORTS:
        return (description.shape or "", "position", "refer")
    if description.shape is None:  # "what shape is the red thing?", unless a word is red
        read = any(t.colour == description.colour for t in scene.texts)
        return ("detection", "refer") if read else ("shape", "detection", "refer")
    asked = ("size", "position", "refer", "detection")
    return (
        *asked,
        *(() if description.colour else ("colour",)),
        *(() if description.texture else ("texture",)),
    )


def unknowns(scene: Scene) -> Iterator[Candidate]:
    """Questions about things that are never drawn."""
    for thing in (*TRAIN_UNKNOWN, *HELD_OUT_UNKNOWN):
        slots = {"thing": thing, "things": plural(thing), "a_thing": f"{article(thing)} {thing}"}
        for family in UNKNOWN_FAMILIES:
            yield Candidate(family, slots, ONLY_KNOWN, family, words=frozenset({thing}), refusal=True)


def nothing(scene: Scene) -> Iterator[Candidate]:
    """A picture with no things: ``there are no shapes or words, only noise``."""
    if scene.things:
        return
    ground = GROUNDS[scene.background.kind]
    answer = f"there are no shapes or words, only {ground}"
    for family in NOTHING_FAMILIES:
        yield Candidate(family, {}, answer, ground, family, refusal=True)
