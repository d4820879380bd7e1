"""From a described scene to a drawn one: what was not said comes from the seed, and places that fit are searched."""

from __future__ import annotations

import numpy as np

from ...errors import InvalidArgumentError
from ..colours import COLOURS, jitter
from ..randomness import generator, pick
from .grammar import Group, parse
from .lexicon import SHAPES, SIZES, TEXT_SORTS, TEXTURES
from .places import clear_relations
from .sampling import background_for, place, shape_extents, text_colours, text_extents, touch
from .scene import Scene, Thing

_SQUARE = (1, 1)
_RESTARTS, _TRIES = 400, 30
_PATIENCE = 100  # restarts after which sizes that were not asked for become small


def arrange(text: str, seed: int = 0) -> Scene:
    """The scene that ``text`` describes (see ``grammar``): the same for the same text and seed (>= 0).

    Nothing overlaps, and every relation holds by a clear margin. Raises ``InvalidArgumentError`` for what cannot be
    read and for what does not fit in one picture.
    """
    groups = parse(text)
    rng = generator(seed)
    background = background_for(rng, dark=False)
    for restart in range(_RESTARTS):
        things = _try(rng, groups, "small" if restart >= _PATIENCE else None)
        if things is not None:
            return Scene(things, _SQUARE, background)
    raise InvalidArgumentError(f"cannot draw {text!r}: there is no room for all of it; ask for fewer or smaller things")


def _try(rng: np.random.Generator, groups: tuple[Group, ...], size: str | None) -> tuple[Thing, ...] | None:
    things: list[Thing] = []
    before: list[Thing] = []
    for group in groups:
        members: list[Thing] = []
        colour = group.colour or pick(rng, text_colours(dark=False) if group.text else tuple(COLOURS))
        shape = group.shape or pick(rng, SHAPES)
        for _ in range(group.count):
            thing = _fit(rng, group, shape, colour, size, things, before if group.relation else [])
            if thing is None:
                return None
            members.append(thing)
            things.append(thing)
        before = members
    return tuple(things)


def _fit(
    rng: np.random.Generator,
    group: Group,
    shape: str,
    colour: str,
    size: str | None,
    others: list[Thing],
    before: list[Thing],
) -> Thing | None:
    """One member of ``group`` that touches none of ``others`` and that all of ``before`` have the relation to."""
    rgb = jitter(rng, COLOURS[colour])
    for _ in range(_TRIES):
        if shape in TEXT_SORTS:
            thing = Thing(
                shape, colour, place(rng, *text_extents(rng, shape, group.text, _SQUARE)), rgb, text=group.text
            )
        else:
            mine = group.size or size or pick(rng, tuple(SIZES))
            texture = group.texture or pick(rng, TEXTURES)
            thing = Thing(shape, colour, place(rng, *shape_extents(rng, mine, _SQUARE)), rgb, mine, texture)
        if any(touch(thing.box, other.box) for other in others):
            continue
        if all(group.relation in clear_relations(other, thing) for other in before):
            return thing
    return None
