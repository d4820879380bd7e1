"""Questions about where: relations, sides, positions, and the tasks whose answers or prompts hold boxes."""

from __future__ import annotations

from collections.abc import Iterator

from .candidate import Candidate, pairs_of, words_of
from .phrases import named, namings
from .scene import Description, Scene, Thing, box_text, left_to_right

CLEAR = 0.08  # by how much of the side two centres must differ for a relation to be asked about
_MAINLY = 1.6  # how much further apart one way than the other, for "on which side"
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
POSITIONS = ("top left", "top right", "bottom left", "bottom right", "centre")
SIDES = ("left", "right", "above", "below")


def relation_holds(first: Thing, word: str, second: Thing) -> bool:
    """Whether the centre of ``first`` lies left of / right of / above / below that of ``second``."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    return {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[word]


def clear_relations(first: Thing, second: Thing) -> list[str]:
    """The relation words that beyond doubt hold of ``first`` to ``second``."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    words = ["left of" if x1 < x2 else "right of"] if abs(x1 - x2) >= CLEAR else []
    return words + (["above" if y1 < y2 else "below"] if abs(y1 - y2) >= CLEAR else [])


def relations(scene: Scene) -> Iterator[Candidate]:
    items = named(scene)
    for one, its_name in items:
        for other, other_name in items:
            if one is other:
                continue
            for true in clear_relations(one, other):
                for word, answer in ((true, "yes"), (OPPOSITE[true], "no")):
                    yield _between("relation", one, its_name, other, other_name, answer, word)


def _between(
    family: str, one: Thing, its_name: Description, other: Thing, other_name: Description, answer: str, word: str = ""
) -> Candidate:
    slots = {"one": its_name.words(), "other": other_name.words(), "relation": word}
    return Candidate(family, slots, answer, answer, word, pairs_of([one, other]), words_of([one, other]))


def sides(scene: Scene) -> Iterator[Candidate]:
    items = named(scene)
    for one, its_name in items:
        for other, other_name in items:
            side = None if one is other else main_side(one, other)
            if side is not None:
                yield _between("side", one, its_name, other, other_name, side)


def main_side(one: Thing, other: Thing) -> str | None:
    """left | right | above | below, where ``one`` mainly lies from ``other``; None if it is a matter of taste."""
    dx, dy = one.centre[0] - other.centre[0], one.centre[1] - other.centre[1]
    if abs(dx) >= max(1.5 * CLEAR, _MAINLY * abs(dy)):
        return "left" if dx < 0 else "right"
    if abs(dy) >= max(1.5 * CLEAR, _MAINLY * abs(dx)):
        return "above" if dy < 0 else "below"
    return None


def position(thing: Thing) -> str | None:
    """One of POSITIONS by the centre; None near a border between two of them."""
    x, y = thing.centre
    if max(abs(x - 0.5), abs(y - 0.5)) <= 0.07:
        return "centre"
    if min(abs(x - 0.5), abs(y - 0.5)) < 0.11:
        return None
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def positions(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.things:
        where = position(thing)
        if where is not None:
            for description in namings(scene, thing):
                yield _one("position", thing, description, where, group=where)


def _one(family: str, thing: Thing, description: Description, answer: str, group: str = "") -> Candidate:
    sort = "text" if description.text else "pair" if description.pair else "part"
    slots = {"thing": description.words()}
    return Candidate(family, slots, answer, group, sort, pairs_of([thing], description), words_of([thing], description))


def referrals(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.things:
        for description in namings(scene, thing):
            yield _one("refer", thing, description, box_text(thing.box))


def identifications(scene: Scene) -> Iterator[Candidate]:
    for thing in scene.things:
        slots = {"box": box_text(thing.box)}
        yield Candidate("identify", slots, thing.name, pairs=pairs_of([thing]), words=words_of([thing]))


def detections(scene: Scene) -> Iterator[Candidate]:
    wanted: dict[Description, str] = {}
    for thing in scene.things:
        wanted[Description(shape=thing.shape)] = "text" if thing.is_text else "shape"
        if not thing.is_text:
            wanted[Description(colour=thing.colour)] = "colour"
            wanted[Description(colour=thing.colour, shape=thing.shape)] = "pair"
            wanted[Description(texture=thing.texture, shape=thing.shape)] = "texture"
    for description, sort in wanted.items():
        found = [t for t in left_to_right(scene) if description.fits(t)]
        boxes = "<delim>".join(box_text(t.box) for t in found)
        slots = {"thing": description.words(), "things": description.words(many=True)}
        answer = f"<p>{description.words()}</p>{boxes}"
        yield Candidate(
            "detection", slots, answer, str(len(found)), sort, pairs_of(found, description), words_of(found)
        )


def captions(scene: Scene) -> Iterator[Candidate]:
    phrases = [t.phrase for t in left_to_right(scene)]
    if phrases:
        answer = " and ".join(p for p in (", ".join(phrases[:-1]), phrases[-1]) if p)
        yield _whole("caption", scene, answer)


def groundings(scene: Scene) -> Iterator[Candidate]:
    if scene.things:
        yield _whole("grounding", scene, ", ".join(f"<p>{t.name}</p>{box_text(t.box)}" for t in left_to_right(scene)))


def _whole(family: str, scene: Scene, answer: str) -> Candidate:
    return Candidate(family, {}, answer, pairs=pairs_of(scene.things), words=words_of(scene.things))
