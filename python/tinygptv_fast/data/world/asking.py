"""The kinds of questions, and one question of a kind about a scene: chosen, balanced, worded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import InvalidArgumentError
from ..colours import COLOURS
from ..question import Question, Turn
from ..randomness import pick, weighted
from . import attributes, counting, dialogue, outside, places, reading, statements
from .candidate import Candidate
from .lexicon import HELD_OUT_PAIRS, HELD_OUT_UNKNOWN, HELD_OUT_WORDS, MAX_THINGS, SHAPES, SIZES, TEXTURES
from .scene import Scene
from .wordings import HELD_OUT, TASKS, TRAIN

_HELD_OUT_NAMES = frozenset((*HELD_OUT_WORDS, *HELD_OUT_UNKNOWN))
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Kind:
    """``candidates`` enumerates what may be asked; ``families`` are the wordings it uses.

    ``groups``: the groups that an examination asks for in equal numbers; () where answers are too many for that.
    ``scenes``: what sort of scene it needs: "shapes", "text" or "empty". ``guess``: most that answering without seeing
    may get right (the acceptance limit for grey and exchanged pictures); None where a blind answer may be honest.
    ``rare``: groups that few scenes have, with the weight that makes up for it in training (the others have 1).
    """

    candidates: Callable[[Scene], Iterable[Candidate]]
    families: tuple[str, ...]
    groups: tuple[str, ...] = ()
    scenes: str = "shapes"
    guess: float | None = 0.40
    rare: Mapping[str, float] = field(default_factory=dict)


KINDS: dict[str, Kind] = {
    "colour": Kind(attributes.colours, ("colour",), tuple(COLOURS)),
    "shape": Kind(attributes.shapes, ("shape",), SHAPES),
    "size": Kind(attributes.sizes, ("size",), tuple(SIZES)),
    "texture": Kind(attributes.textures, ("texture",), TEXTURES),
    "count": Kind(
        counting.counts,
        ("count",),
        tuple(str(n) for n in range(MAX_THINGS + 1)),
        rare={"2": 1.5, "3": 3.0, "4": 6.0, "5": 12.0, "6": 30.0},
    ),
    "exist": Kind(counting.existence, ("exist",), YES_NO, guess=0.60),
    "comparison": Kind(counting.comparisons, ("larger", "more"), ("first", "second"), guess=0.60),
    "relation": Kind(places.relations, ("relation",), YES_NO, guess=0.60),
    "side": Kind(places.sides, ("side",), places.SIDES),
    "position": Kind(places.positions, ("position",), places.POSITIONS, rare={"centre": 20.0}),
    "statement": Kind(statements.statements, ("statement",), YES_NO, guess=0.60),
    "word": Kind(reading.words, ("word",), scenes="text"),
    "number": Kind(reading.numbers, ("number",), scenes="text"),
    "caption": Kind(places.captions, ("caption",)),
    "refer": Kind(places.referrals, ("refer",), guess=0.10),
    "identify": Kind(places.identifications, ("identify",)),
    "grounding": Kind(places.groundings, ("grounding",), guess=0.10),
    "detection": Kind(places.detections, ("detection",), guess=0.10),
    "dialogue": Kind(dialogue.dialogues, ("exist", *(f for f in TRAIN if f.startswith("then_")))),
    "absent": Kind(outside.absences, outside.ABSENT_FAMILIES, guess=None),
    "unknown": Kind(outside.unknowns, outside.UNKNOWN_FAMILIES, guess=None),
    "nothing": Kind(
        outside.nothing,
        outside.NOTHING_FAMILIES,
        ("an empty background", "a gradient", "noise"),
        scenes="empty",
        guess=None,
    ),
}


@dataclass(frozen=True)
class Split:
    """Which pairs, wordings and words a question may use.

    "train": none that are held out. "held_out": the question names or turns on a held-out pair; every turn has a
    held-out wording; it names or turns on a held-out word. "all" (pairs, words only): any.
    """

    pairs: str = "train"
    wordings: str = "train"
    words: str = "train"

    def __post_init__(self) -> None:
        for name, allowed in (("pairs", _ANY), ("wordings", _ANY[:2]), ("words", _ANY)):
            if getattr(self, name) not in allowed:
                raise InvalidArgumentError(f"Split.{name} is {getattr(self, name)!r}, expected one of {allowed}")

    def admits(self, candidate: Candidate) -> bool:
        return _admits(self.pairs, candidate.pairs, HELD_OUT_PAIRS) and _admits(
            self.words, candidate.words, _HELD_OUT_NAMES
        )


_ANY = ("train", "held_out", "all")
SEEN = Split()


def _admits(rule: str, named: frozenset, held_out: frozenset) -> bool:
    return rule == "all" or (rule == "held_out") != named.isdisjoint(held_out)


def check_kind(kind: str) -> Kind:
    """The kind of this name. Raises ``InvalidArgumentError`` listing the names."""
    if kind not in KINDS:
        raise InvalidArgumentError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    return KINDS[kind]


def ask(
    rng: np.random.Generator, scene: Scene, kind: str, split: Split = SEEN, group: str | None = None
) -> Question | None:
    """One question of ``kind``, or None when the scene allows none.

    ``group``: one of the kind's groups, the answer wanted. Without it, kinds with groups draw one first, so that yes
    and no (and every other set of answers, as far as scenes have them) come up equally often.
    """
    found = [c for c in check_kind(kind).candidates(scene) if split.admits(c)]
    if group is None:
        group = _choose_group(rng, kind, found)
    chosen = [c for c in found if group is None or c.group == group]
    if not chosen:
        return None
    sort = pick(rng, sorted({c.sort for c in chosen}))
    return _word(rng, kind, pick(rng, [c for c in chosen if c.sort == sort]), split)


def _choose_group(rng: np.random.Generator, kind: str, found: list[Candidate]) -> str | None:
    """Of two groups one by a fair coin, whether the scene has it or not; of more, one that the scene has."""
    groups, rare = KINDS[kind].groups, KINDS[kind].rare
    if len(groups) == 2:
        return pick(rng, groups)
    there = sorted({c.group for c in found})
    return there[weighted(rng, [rare.get(g, 1.0) for g in there])] if there else None


def _word(rng: np.random.Generator, kind: str, candidate: Candidate, split: Split) -> Question:
    history = tuple(_turn(rng, earlier, split)[0] for earlier in candidate.history)
    last, wording = _turn(rng, candidate, split)
    return Question(kind, last.task, last.prompt, last.answer, history, candidate.refusal, wording)


def _turn(rng: np.random.Generator, candidate: Candidate, split: Split) -> tuple[Turn, str]:
    wording = pick(rng, (TRAIN if split.wordings == "train" else HELD_OUT)[candidate.family])
    task = TASKS.get(candidate.family, "vqa")
    return Turn(task, wording.format(**candidate.slots), candidate.answer), wording


def kinds_for(split: Split) -> tuple[str, ...]:
    """The kinds that have questions in ``split``: no pair can be held out of reading, nor a word out of a colour."""
    kinds = set(KINDS)
    if split.pairs == "held_out":
        kinds -= {"word", "number", "unknown", "nothing"}
    if split.words == "held_out":
        kinds &= {"word", "identify", "caption", "grounding", "position", "refer", "relation", "side", "unknown"}
    return tuple(kind for kind in KINDS if kind in kinds)


def wordings_of(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(training wordings, held-out wordings) of a kind, over all its families."""
    families = check_kind(kind).families
    return (
        tuple(w for family in families for w in TRAIN[family]),
        tuple(w for family in families for w in HELD_OUT[family]),
    )
