"""What is shown and asked when: training examples from (seed, stage, step, index) alone, and examinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ...errors import InvalidArgumentError
from ..question import Question
from ..randomness import generator, weighted
from .asking import KINDS, SEEN, Split, ask, check_kind
from .drawing import canvas
from .sampling import CROWDED, EASY, EMPTY, FULL, PACKED, TEXT, SceneSpec, random_scene, scene_from_seed
from .scene import Scene

_TRAINING, _EXAM = 1, 2  # first element of the path of every stream: an examination never meets a training stream
GREY = (200, 200, 200)
_TRIES_PER_QUESTION = 1000  # pictures of an examination
_TRIES_PER_PICTURE = 200  # draws until a picture has its questions: a dozen is usual

#: How often each kind is asked once everything is asked: most where a small model learns slowest.
# Reading and "nothing" weigh more than their share: only some pictures allow them.
_EVERYTHING = {
    "colour": 5, "shape": 5, "size": 4, "texture": 4, "count": 25, "exist": 5, "comparison": 7, "relation": 15,
    "side": 18, "position": 6, "statement": 14, "word": 80, "number": 40, "caption": 3, "refer": 22, "identify": 6,
    "grounding": 4, "detection": 7, "dialogue": 4, "absent": 7, "unknown": 3, "nothing": 5,
}  # fmt: skip
#: The same with more of what takes a small model longest: counts and exact coordinates.
_AIMED = _EVERYTHING | {
    "count": 130, "refer": 40, "grounding": 6, "detection": 10, "comparison": 9, "word": 120, "number": 40,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """``scenes``: (share, spec); ``kinds``: how often each kind is asked, () for none; ``questions`` per picture.
    ``stream``: the stage whose random numbers it draws from, where they are not its own."""

    scenes: tuple[tuple[float, SceneSpec], ...]
    kinds: tuple[tuple[str, float], ...] = ()
    questions: int = 0
    stream: str = ""


def _only(*kinds: str) -> tuple[tuple[str, float], ...]:
    return tuple((kind, float(_EVERYTHING[kind])) for kind in kinds)


# Of the wrong counts of the model before, five in six were of pictures with five or six things.
_MIXED = ((0.25, FULL), (0.20, CROWDED), (0.26, PACKED), (0.25, TEXT), (0.04, EMPTY))
_MIXED_ONCE = ((0.48, FULL), (0.20, CROWDED), (0.28, TEXT), (0.04, EMPTY))
_SEEN = ((0.30, FULL), (0.23, CROWDED), (0.45, TEXT), (0.02, EMPTY))
#: easy, full, words, reading, unnamed: pictures with labels for the vision side. The others add questions, as the
#: paper's four stages do: captions, then captions and boxes, then instructions, then every task.
STAGES: dict[str, Stage] = {
    "easy": Stage(((1.0, EASY),)),
    "full": Stage(((0.98, FULL), (0.02, EMPTY))),
    "words": Stage(((0.35, FULL), (0.63, TEXT), (0.02, EMPTY))),
    "warm_up": Stage(((0.5, EASY), (0.5, FULL)), _only("caption", "colour", "shape"), 4),
    "pretrain": Stage(
        ((0.72, FULL), (0.25, CROWDED), (0.03, EMPTY)),
        _only("caption", "grounding", "refer", "identify", "detection", "count", "colour", "shape", "exist", "nothing"),
        6,
    ),
    "instruct": Stage(
        ((0.71, FULL), (0.25, CROWDED), (0.04, EMPTY)),
        tuple((k, w) for k, w in _only(*KINDS) if k not in ("word", "number")),
        6,
    ),
    "multitask": Stage(_MIXED, _only(*KINDS), 6),
    "reading": Stage(((0.18, FULL), (0.80, TEXT), (0.02, EMPTY))),  # more words than shapes, for the vision side
    "aimed": Stage(_MIXED, tuple((kind, float(weight)) for kind, weight in _AIMED.items()), 6),
    # Everything there is to see, and a third of it of no name, for the last of the vision side's phases.
    "unnamed": Stage(tuple((share, replace(spec, unnamed=0.35)) for share, spec in _SEEN)),
    # What the vocabulary is made from. It must stay: another vocabulary makes another language of every model there is.
    "vocabulary": Stage(_MIXED_ONCE, _only(*KINDS), 6, stream="multitask"),
}


@dataclass(frozen=True)
class Example:
    """One picture and what is asked about it."""

    scene: Scene
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class ExamItem:
    """One question about the picture of ``scene_from_seed(scene_seed, spec)``, its own and nobody else's."""

    scene_seed: int
    spec: SceneSpec
    question: Question

    @property
    def scene(self) -> Scene:
        return scene_from_seed(self.scene_seed, self.spec)

    @property
    def other_scene(self) -> Scene:
        """The control: a scene of the same sort that the question is not about."""
        return scene_from_seed(self.scene_seed ^ 1, self.spec)


def training(seed: int, stage: str, step: int, index: int) -> Example:
    """Picture ``index`` of the batch of ``step``: depends on the four arguments alone. None of it is held out.

    Raises ``InvalidArgumentError`` for an unknown stage.
    """
    scene, rng = _training_scene(seed, stage, step, index)
    return Example(scene, questions_about(rng, scene, STAGES[stage]))


def training_scene(seed: int, stage: str, step: int, index: int) -> Scene:
    """The picture of ``training`` with these arguments, without the work of asking about it."""
    return _training_scene(seed, stage, step, index)[0]


def _training_scene(seed: int, stage: str, step: int, index: int) -> tuple[Scene, np.random.Generator]:
    if stage not in STAGES:
        raise InvalidArgumentError(f"stage is {stage!r}, expected one of {', '.join(STAGES)}")
    chosen = STAGES[stage]
    rng = generator(seed, _TRAINING, tuple(STAGES).index(chosen.stream or stage), step, index)
    spec = chosen.scenes[weighted(rng, [share for share, _ in chosen.scenes])][1]
    return random_scene(rng, spec), rng


def questions_about(rng: np.random.Generator, scene: Scene, stage: Stage) -> tuple[Question, ...]:
    """As many different questions as ``stage`` asks of a picture, fewer where the scene allows no more."""
    # An empty picture is asked what it shows, and about absent and unknown things; "how many" would always be 0.
    fitting = [(k, w) for k, w in stage.kinds if scene.things or k in ("nothing", "absent", "unknown")]
    found: list[Question] = []
    for _ in range(_TRIES_PER_PICTURE if fitting else 0):
        if len(found) == stage.questions:
            break
        at = weighted(rng, [weight for _, weight in fitting])
        question = ask(rng, scene, fitting[at][0])
        if question is not None and question not in found:
            found.append(question)
    return tuple(found)


def grey_picture(scene: Scene, side: int) -> Image.Image:
    """The other control: a picture of the same size as ``draw(scene, side)`` with nothing on it."""
    return Image.new("RGB", canvas(scene, side), GREY)


def spec_for(kind: str, split: Split = SEEN, texts: float = 0.3) -> SceneSpec:
    """What scenes an examination of ``kind`` draws; ``texts``: share with drawn text where the kind leaves a choice."""
    base = {"shapes": replace(FULL, texts=texts), "text": TEXT, "empty": EMPTY}[check_kind(kind).scenes]
    if split.words != "train" and kind not in ("unknown", "nothing"):
        base = replace(base, texts=1.0)
    return replace(base, pairs=split.pairs, words=split.words)


def exam(seed: int, kinds: Sequence[str], per_kind: int, split: Split = SEEN, *, texts: float = 0.3) -> list[ExamItem]:
    """``per_kind`` questions of each kind, every one about its own picture, answers in equal numbers where a kind has
    groups. The same for the same arguments; no picture of it is ever a training picture.

    ``texts``: share of the pictures that also show text; 0 for a model whose input is too small to read.
    Raises ``InvalidArgumentError`` for an unknown kind, and for a kind that has no question in ``split``.
    """
    items = []
    for kind in kinds:
        check_kind(kind)
        items += _exam_of(seed, kind, per_kind, split, texts)
    return items


def _exam_of(seed: int, kind: str, per_kind: int, split: Split, texts: float) -> list[ExamItem]:
    groups: list[str | None] = list(KINDS[kind].groups) or [None]
    number, spec = list(KINDS).index(kind), spec_for(kind, split, texts)
    items: list[ExamItem] = []
    tries = 0
    while len(items) < per_kind:
        rng = generator(seed, _EXAM, number, tries)
        tries += 1
        scene_seed = int(rng.integers(2**62))
        question = ask(rng, scene_from_seed(scene_seed, spec), kind, split, groups[len(items) % len(groups)])
        if question is not None:
            items.append(ExamItem(scene_seed, spec, question))
        elif tries > _TRIES_PER_QUESTION * (len(items) + 1):
            raise InvalidArgumentError(
                f"{kind} has no question for {split} and answer {groups[len(items) % len(groups)]!r}"
            )
    return items
