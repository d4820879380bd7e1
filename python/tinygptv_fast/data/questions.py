"""Questions about a drawn scene, with the answer that is true of it.

Each kind is one small function from (random generator, scene) to a ``Question`` or None when the scene allows no
clear question of that kind. Prompts carry the task tags of TinyGPT-V ([vqa], [refer], ...); boxes are written as the
original writes them, ``{<x1><y1><x2><y2>}`` with int(fraction * 100). Knows nothing of pixels, tokens or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import InvalidArgumentError
from .question import Question
from .scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, SceneObject

NOT_THERE = "none"
_CLEAR = 0.08  # how far, as a fraction of the side, two centres must differ for a relation to be asked about


_Maker = Callable[[np.random.Generator, Scene], "Question | None"]


def box_text(item: SceneObject) -> str:
    """``{<x1><y1><x2><y2>}``: int() of 0..100, truncating, as the original's datasets write it."""
    return "{" + "".join(f"<{int(v * 100)}>" for v in item.box) + "}"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _phrase(rng: np.random.Generator, options: Sequence[str], **words: str) -> str:
    return _pick(rng, options).format(**words)


def left_to_right(scene: Scene) -> list[SceneObject]:
    """The order in which captions and detections name objects."""
    return sorted(scene.objects, key=lambda o: o.centre)


def _unique(scene: Scene, item: SceneObject) -> bool:
    return len(scene.find(item.colour, item.shape)) == 1


def _any_unique(rng: np.random.Generator, scene: Scene) -> SceneObject | None:
    items = [o for o in scene.objects if _unique(scene, o)]
    return items[int(rng.integers(len(items)))] if items else None


def _absent_pair(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """A (colour, shape) that is not there; mostly one that shares a word with something that is."""
    colours, shapes = list(COLOURS), list(SHAPES)
    near = rng.random() < 0.7
    other = scene.objects[int(rng.integers(len(scene.objects)))]
    while True:
        colour, shape = _pick(rng, colours), _pick(rng, shapes)
        if near:
            colour, shape = (other.colour, shape) if rng.random() < 0.5 else (colour, other.shape)
        if not scene.find(colour, shape) and (colour, shape) not in HELD_OUT_PAIRS:
            return colour, shape


def ask_colour(rng: np.random.Generator, scene: Scene) -> Question | None:
    if rng.random() < 0.12:
        missing = [s for s in SHAPES if not scene.find(shape=s)]
        shape, answer = _pick(rng, missing), NOT_THERE
    else:
        items = [o for o in scene.objects if len(scene.find(shape=o.shape)) == 1]
        if not items:
            return None
        item = items[int(rng.integers(len(items)))]
        shape, answer = item.shape, item.colour
    ways = ("What colour is the {shape}?", "What color is the {shape}?", "Which colour does the {shape} have?")
    return Question("colour", "vqa", _phrase(rng, ways, shape=shape), answer)


def ask_shape(rng: np.random.Generator, scene: Scene) -> Question | None:
    if rng.random() < 0.12:
        missing = [c for c in COLOURS if not scene.find(colour=c)]
        colour, answer = _pick(rng, missing), NOT_THERE
    else:
        items = [o for o in scene.objects if len(scene.find(colour=o.colour)) == 1]
        if not items:
            return None
        item = items[int(rng.integers(len(items)))]
        colour, answer = item.colour, item.shape
    ways = ("What shape is the {colour} object?", "Which shape is {colour}?", "What is the {colour} thing?")
    return Question("shape", "vqa", _phrase(rng, ways, colour=colour), answer)


def ask_exist(rng: np.random.Generator, scene: Scene) -> Question | None:
    if rng.random() < 0.5:
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        colour, shape, answer = item.colour, item.shape, "yes"
    else:
        colour, shape = _absent_pair(rng, scene)
        answer = "no"
    a = "an" if colour == "orange" else "a"
    ways = (
        "Is there {a} {colour} {shape}?",
        "Do you see {a} {colour} {shape}?",
        "Is there {a} {colour} {shape} in the picture?",
    )
    return Question("exist", "vqa", _phrase(rng, ways, a=a, colour=colour, shape=shape), answer)


def ask_count(rng: np.random.Generator, scene: Scene) -> Question | None:
    which = rng.random()
    other = scene.objects[int(rng.integers(len(scene.objects)))]
    if which < 0.34:
        prompt = _pick(
            rng, ("How many objects are there?", "How many shapes are there?", "How many objects do you see?")
        )
        count = len(scene.objects)
    elif which < 0.67:
        shape = other.shape if rng.random() < 0.75 else _pick(rng, SHAPES)
        plural = "crosses" if shape == "cross" else shape + "s"
        prompt = _phrase(rng, ("How many {plural} are there?", "How many {plural} do you see?"), plural=plural)
        count = len(scene.find(shape=shape))
    else:
        colour = other.colour if rng.random() < 0.75 else _pick(rng, list(COLOURS))
        prompt = _phrase(rng, ("How many {colour} objects are there?", "How many objects are {colour}?"), colour=colour)
        count = len(scene.find(colour=colour))
    return Question("count", "vqa", prompt, str(count))


def relation_holds(first: SceneObject, word: str, second: SceneObject) -> bool:
    """Whether the centre of ``first`` lies left of / right of / above / below that of ``second``."""
    (x1, y1), (x2, y2) = first.centre, second.centre
    return {"left of": x1 < x2, "right of": x1 > x2, "above": y1 < y2, "below": y1 > y2}[word]


def ask_relation(rng: np.random.Generator, scene: Scene) -> Question | None:
    items = [o for o in scene.objects if _unique(scene, o)]
    if len(items) < 2:
        return None
    i, j = rng.permutation(len(items))[:2]
    first, second = items[i], items[j]
    (x1, y1), (x2, y2) = first.centre, second.centre
    words = (("left of", "right of") if abs(x1 - x2) >= _CLEAR else ()) + (
        ("above", "below") if abs(y1 - y2) >= _CLEAR else ()
    )
    if not words:
        return None
    word = _pick(rng, words)
    answer = "yes" if relation_holds(first, word, second) else "no"
    to_the = "to the " if word in ("left of", "right of") and rng.random() < 0.3 else ""
    prompt = f"Is the {first.name} {to_the}{word} the {second.name}?"
    return Question("relation", "vqa", prompt, answer)


def quadrant(item: SceneObject) -> str:
    """``top left`` ... ``bottom right``, by the centre."""
    x, y = item.centre
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def ask_position(rng: np.random.Generator, scene: Scene) -> Question | None:
    items = [o for o in scene.objects if _unique(scene, o) and all(abs(c - 0.5) >= _CLEAR / 2 for c in o.centre)]
    if not items:
        return None
    item = items[int(rng.integers(len(items)))]
    ways = ("Where is the {name}?", "Which corner is the {name} in?")
    return Question("position", "vqa", _phrase(rng, ways, name=item.name), quadrant(item))


def ask_refer(rng: np.random.Generator, scene: Scene) -> Question | None:
    ways = (
        "the {name}",
        "{name}",
        "give me the location of the {name}",
        "where is the {name}?",
        "from this image, tell me the location of the {name}",
    )
    if rng.random() < 0.1:
        name, answer = " ".join(_absent_pair(rng, scene)), NOT_THERE
    else:
        item = _any_unique(rng, scene)
        if item is None:
            return None
        alone = len(scene.find(shape=item.shape)) == 1 and rng.random() < 0.2
        name, answer = item.shape if alone else item.name, box_text(item)
    return Question("refer", "refer", _phrase(rng, ways, name=name), answer)


def ask_identify(rng: np.random.Generator, scene: Scene) -> Question | None:
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    ways = (
        "{box}",
        "what is this {box}",
        "what object is in this location {box}",
        "what is it in {box}",
        "this {box} is",
    )
    return Question("identify", "identify", _pick(rng, ways).replace("{box}", box_text(item)), item.name)


def ask_detection(rng: np.random.Generator, scene: Scene) -> Question | None:
    if rng.random() < 0.1:
        missing = [s for s in SHAPES if not scene.find(shape=s)]
        return Question("detection", "detection", _pick(rng, missing), NOT_THERE)
    shape = scene.objects[int(rng.integers(len(scene.objects)))].shape
    boxes = "<delim>".join(box_text(o) for o in left_to_right(scene) if o.shape == shape)
    return Question("detection", "detection", shape, f"<p>{shape}</p>{boxes}")


def ask_caption(rng: np.random.Generator, scene: Scene) -> Question | None:
    ways = (
        "please describe this image?",
        "Describe this picture.",
        "briefly describe this image",
        "A short image caption:",
    )
    answer = " and ".join(o.name for o in left_to_right(scene))
    return Question("caption", "caption", _pick(rng, ways), answer)


def ask_grounding(rng: np.random.Generator, scene: Scene) -> Question | None:
    ways = ("please describe this image in details", "describe this image in detail", "Describe this picture.")
    answer = " and ".join(f"<p>{o.name}</p>{box_text(o)}" for o in left_to_right(scene))
    return Question("grounding", "grounding", _pick(rng, ways), answer)


MAKERS: dict[str, _Maker] = {
    "colour": ask_colour,
    "shape": ask_shape,
    "exist": ask_exist,
    "count": ask_count,
    "relation": ask_relation,
    "position": ask_position,
    "refer": ask_refer,
    "identify": ask_identify,
    "detection": ask_detection,
    "caption": ask_caption,
    "grounding": ask_grounding,
}
KINDS = tuple(MAKERS)

#: How often each kind is asked in training. Evaluation asks every kind equally often.
TRAINING_MIX: dict[str, float] = {
    "colour": 0.06,
    "shape": 0.06,
    "exist": 0.09,
    "count": 0.16,
    "relation": 0.14,
    "position": 0.06,
    "refer": 0.15,
    "identify": 0.07,
    "detection": 0.08,
    "caption": 0.05,
    "grounding": 0.08,
}


def ask(rng: np.random.Generator, scene: Scene, kind: str) -> Question | None:
    """One question of ``kind``, or None when this scene allows none. Raises InvalidArgumentError on another kind."""
    if kind not in MAKERS:
        raise InvalidArgumentError(f"kind is {kind!r}, expected one of {list(KINDS)}")
    return MAKERS[kind](rng, scene)


def ask_mixed(rng: np.random.Generator, scene: Scene, count: int) -> list[Question]:
    """``count`` questions in the training mix; kinds that the scene does not allow are drawn again."""
    kinds, weights = list(TRAINING_MIX), np.array(list(TRAINING_MIX.values()))
    questions: list[Question] = []
    while len(questions) < count:
        question = ask(rng, scene, kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))])
        if question is not None:
            questions.append(question)
    return questions
