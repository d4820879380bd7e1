"""Questions: true of their scenes by a check of its own, balanced, and nothing held out in training."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tinygptv_fast.data.colours import COLOURS
from tinygptv_fast.data.question import Question
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.asking import KINDS, SEEN, Split, ask, kinds_for, wordings_of
from tinygptv_fast.data.world.lexicon import (
    HELD_OUT_PAIRS,
    HELD_OUT_UNKNOWN,
    HELD_OUT_WORDS,
    ONLY_KNOWN,
    SHAPES,
    SIZES,
    TEXTURES,
)
from tinygptv_fast.data.world.sampler import STAGES, exam, grey_picture, spec_for, training
from tinygptv_fast.data.world.sampling import scene_from_seed
from tinygptv_fast.data.world.scene import Scene, Thing, box_text
from tinygptv_fast.data.world.wordings import HELD_OUT, TRAIN
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.processing.prompt import render, render_messages

_SLOT = re.compile(r"\\\{(\w+)\\\}")


def slots(question: Question, wording: str = "", prompt: str = "") -> dict[str, str]:
    """What stands in the wording's slots, read back from the prompt."""
    shapes = {"relation": "left of|right of|above|below", "box": r"\{.+?\}"}
    pattern = _SLOT.sub(lambda m: f"(?P<{m[1]}>{shapes.get(m[1], '.+')})", re.escape(wording or question.wording))
    match = re.fullmatch(pattern, prompt or question.prompt)
    assert match, question
    return match.groupdict()


def meant(scene: Scene, phrase: str) -> list[Thing]:
    """The things a phrase fits, word by word; written apart from the code that made the phrase."""
    found = list(scene.things)
    words = re.sub(r"^(a|an|the) ", "", phrase).split()
    if not {"word", "words", "number", "numbers"} & set(words):
        found = [t for t in found if t.shape in SHAPES]
    for at, word in enumerate(words):
        singular = {"crosses": "cross"}.get(word, word.rstrip("s") if word != "cross" else word)
        if word in COLOURS:
            found = [t for t in found if t.colour == word]
        elif word in SIZES:
            found = [t for t in found if t.size == word]
        elif word in TEXTURES:
            found = [t for t in found if t.texture == word]
        elif singular in (*SHAPES, "word", "number"):
            found = [t for t in found if t.shape == singular]
        elif singular not in ("shape", "thing"):
            assert at and words[at - 1] in ("word", "number"), phrase
            found = [t for t in found if t.text == word]
    return found


def the(scene: Scene, phrase: str) -> Thing:
    (thing,) = meant(scene, phrase)
    return thing


def middle(thing: Thing) -> tuple[float, float]:
    return (thing.box[0] + thing.box[2]) / 2, (thing.box[1] + thing.box[3]) / 2


def lies(one: Thing, relation: str, other: Thing) -> bool:
    (a, b), (c, d) = middle(one), middle(other)
    return {"left": a < c, "right": a > c, "above": b < d, "below": b > d}[relation.removesuffix(" of")]


def true_statement(scene: Scene, clause: str) -> bool:
    if match := re.fullmatch(r"there is (.+)", clause):
        return bool(meant(scene, match[1]))
    if match := re.fullmatch(r"there are (\d) (.+)", clause):
        return len(meant(scene, match[2])) == int(match[1])
    if match := re.fullmatch(r"the (.+) is (left of|right of|above|below) the (.+)", clause):
        return lies(the(scene, match[1]), match[2], the(scene, match[3]))
    if match := re.fullmatch(r"the (.+) is larger than the (.+)", clause):
        return the(scene, match[1]).extent > the(scene, match[2]).extent
    match = re.fullmatch(r"the (.+) is (\w+)", clause)
    assert match, clause
    return match[2] in (the(scene, match[1]).size, the(scene, match[1]).texture)


def check(scene: Scene, q: Question) -> None:
    """Raise unless the answer is true of the scene."""
    s = slots(q)
    if q.kind in ("colour", "size", "texture"):
        assert getattr(the(scene, s["thing"]), q.kind) == q.answer
    elif q.kind == "shape":
        assert the(scene, s["look"]).shape == q.answer
    elif q.kind == "count":
        assert len(meant(scene, s["things"])) == int(q.answer)
    elif q.kind == "exist":
        assert bool(meant(scene, s["a_thing"])) == (q.answer == "yes")
    elif q.kind == "comparison":
        loser = s["other"] if q.answer == s["one"] else s["one"]
        if q.wording in (*TRAIN["larger"], *HELD_OUT["larger"]):
            assert the(scene, q.answer).extent > 1.2 * the(scene, loser).extent
        else:
            assert len(meant(scene, q.answer)) > len(meant(scene, loser))
    elif q.kind == "relation":
        assert lies(the(scene, s["one"]), s["relation"], the(scene, s["other"])) == (q.answer == "yes")
    elif q.kind == "side":
        assert lies(the(scene, s["one"]), q.answer, the(scene, s["other"]))
    elif q.kind == "position":
        check_position(the(scene, s["thing"]), q.answer)
    elif q.kind == "statement":
        clause = s.get("clause") or s["statement"][0].lower() + s["statement"][1:-1]
        assert true_statement(scene, clause) == (q.answer == "yes")
    elif q.kind in ("word", "number"):
        assert the(scene, s["text"]).text == q.answer and q.kind in s["text"]
    elif q.kind == "refer":
        assert box_text(the(scene, s["thing"]).box) == q.answer
    elif q.kind == "identify":
        fitting = [t for t in scene.things if box_text(t.box) == s["box"]]
        assert any(q.answer.endswith(t.text or f"{t.colour} {t.shape}") for t in fitting)
    elif q.kind == "detection":
        found = meant(scene, s.get("thing") or s["things"])
        assert sorted(re.findall(r"\{[^}]*\}", q.answer)) == sorted(box_text(t.box) for t in found)
    elif q.kind in ("caption", "grounding"):
        assert all((t.text or f"{t.colour} {t.shape}") in q.answer for t in scene.things)
        if q.kind == "grounding":
            assert sorted(re.findall(r"\{[^}]*\}", q.answer)) == sorted(box_text(t.box) for t in scene.things)
    elif q.kind == "dialogue":
        check_dialogue(scene, q)
    elif q.kind == "absent":
        named = q.answer.removeprefix("there is no ")
        assert not meant(scene, named) and q.refusal
    elif q.kind == "unknown":
        assert q.answer == ONLY_KNOWN and q.refusal
    else:
        assert q.kind == "nothing" and not scene.things and q.refusal
        assert q.answer.endswith(
            {"noise": "only noise", "gradient": "only a gradient"}.get(scene.background.kind, "an empty background")
        )


def check_position(thing: Thing, answer: str) -> None:
    x, y = middle(thing)
    if answer == "centre":
        assert abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1
    else:
        assert answer == f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def check_dialogue(scene: Scene, q: Question) -> None:
    first = q.history[0]
    # The longest: "Is there {a_thing} in the picture?" also looks like "Is there {a_thing}?".
    wording = max((w for w in (*TRAIN["exist"], *HELD_OUT["exist"]) if matches(w, first.prompt)), key=len)
    thing = the(scene, slots(q, wording, first.prompt)["a_thing"])
    assert first.answer == "yes" and 1 <= len(q.history) <= 2
    for turn_wording, task, answer in (
        *((t.prompt, t.task, t.answer) for t in q.history[1:]),
        (q.prompt, q.task, q.answer),
    ):
        family = next(f for f in TRAIN if f.startswith("then_") and turn_wording in (*TRAIN[f], *HELD_OUT[f]))
        if family == "then_refer":
            assert task == "refer" and answer == box_text(thing.box)
        elif family == "then_position":
            check_position(thing, answer)
        else:
            assert answer == getattr(thing, family.removeprefix("then_"))


def matches(wording: str, prompt: str) -> bool:
    return re.fullmatch(_SLOT.sub(".+", re.escape(wording)), prompt) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true(kind: str) -> None:
    found = 0
    for seed in range(160):
        scene = scene_from_seed(seed, spec_for(kind))
        question = ask(generator(7, seed), scene, kind)
        if question is not None:
            found += 1
            check(scene, question)
    assert found >= 30


@pytest.mark.parametrize("kind", KINDS)
def test_wordings(kind: str) -> None:
    seen, held_out = wordings_of(kind)
    assert len({*seen, *held_out}) >= 12 and len(set(held_out)) >= 3
    # Nowhere in training, not even as another kind's wording.
    assert not set(held_out) & {w for ways in TRAIN.values() for w in ways}


def test_families_fill_the_same_slots_seen_and_held_out() -> None:
    assert TRAIN.keys() == HELD_OUT.keys()
    names = {f: {s for w in (*TRAIN[f], *HELD_OUT[f]) for s in re.findall(r"\{(\w+)\}", w)} for f in TRAIN}
    assert names["detection"] == {"thing", "things"} and names["statement"] == {"clause", "statement"}
    assert all(
        len(n) <= 1 or f in ("larger", "more", "side", "relation", "detection", "statement", "unknown")
        for f, n in names.items()
    )


def test_training_shows_and_names_nothing_that_is_held_out() -> None:
    wordings = [w for ways in HELD_OUT.values() for w in ways]
    patterns = [re.compile(_SLOT.sub(".+", re.escape(w))) for w in wordings]
    plain = set(wordings)
    words = re.compile(rf"\b({'|'.join((*HELD_OUT_WORDS, *HELD_OUT_UNKNOWN))})s?\b")
    pairs = re.compile("|".join(rf"\b{c} {s}" for c, s in sorted(HELD_OUT_PAIRS)))
    asked = 0
    for stage in STAGES:
        for index in range(130):
            example = training(5, stage, index % 3, index)
            assert not {(t.colour, t.shape) for t in example.scene.things} & HELD_OUT_PAIRS
            assert not {t.text for t in example.scene.things} & set(HELD_OUT_WORDS)
            for question in example.questions:
                asked += 1
                prompts = [question.prompt, *(turn.prompt for turn in question.history)]
                text = " ".join([*prompts, question.answer, *(turn.answer for turn in question.history)])
                assert not words.search(text) and not pairs.search(text), text
                assert question.wording not in plain
                if index < 15:  # the patterns themselves, slowly, on a part
                    assert not any(p.fullmatch(prompt) for p in patterns for prompt in prompts)
    assert asked > 2000


def test_training_depends_on_its_arguments_alone() -> None:
    assert training(1, "multitask", 2, 3) == training(1, "multitask", 2, 3)
    others = [training(*path) for path in ((2, "multitask", 2, 3), (1, "instruct", 2, 3), (1, "multitask", 3, 2))]
    assert all(other != training(1, "multitask", 2, 3) for other in others)
    with pytest.raises(InvalidArgumentError, match="stage is 'nap', expected one of easy"):
        training(0, "nap", 0, 0)


def test_training_answers_are_balanced() -> None:
    questions = [q for index in range(500) for q in training(11, "multitask", 0, index).questions]
    by_kind = {kind: Counter(q.answer for q in questions if q.kind == kind) for kind in KINDS}
    for kind in ("exist", "relation", "statement"):
        total = sum(by_kind[kind].values())
        assert 0.40 <= by_kind[kind]["yes"] / total <= 0.60, (kind, by_kind[kind])
    for kind in ("colour", "shape", "size", "texture", "side", "count"):
        share = max(by_kind[kind].values()) / sum(by_kind[kind].values())
        assert share <= 2.2 / len(KINDS[kind].groups), (kind, by_kind[kind])
    assert all(by_kind.values())


def test_exams_are_balanced_and_repeatable() -> None:
    kinds = [kind for kind in KINDS if KINDS[kind].groups]
    items = exam(3, kinds, 21)
    assert items == exam(3, kinds, 21) and items != exam(4, kinds, 21)
    assert len({item.scene_seed for item in items}) == len(items)
    for kind in ("colour", "shape", "size", "texture", "count", "exist", "relation", "side", "position", "statement"):
        counts = Counter(item.question.answer for item in items if item.question.kind == kind)
        assert len(counts) == len(KINDS[kind].groups) and max(counts.values()) - min(counts.values()) <= 1, counts
    for item in items[::7]:
        check(item.scene, item.question)
        assert item.other_scene != item.scene
    assert grey_picture(items[0].scene, 100).getcolors() is not None


@pytest.mark.parametrize("held_out", ["pairs", "wordings", "words"])
def test_held_out_exams(held_out: str) -> None:
    split = Split(**{held_out: "held_out"})
    for item in exam(1, kinds_for(split), 6, split):
        question, scene = item.question, item.scene
        check(scene, question)
        if held_out == "wordings":
            assert any(question.wording in ways for ways in HELD_OUT.values())
        elif held_out == "pairs":
            here = {(t.colour, t.shape) for t in scene.things}
            assert here & HELD_OUT_PAIRS
        else:
            text = f"{question.prompt} {question.answer} {[t.text for t in scene.texts]}"
            assert any(word in text for word in (*HELD_OUT_WORDS, *HELD_OUT_UNKNOWN))


def test_guessing_without_the_picture_stays_below_the_limits() -> None:
    """The best answer by wording alone, found on one exam and given in another: what a grey picture could reach."""
    kinds = ["colour", "shape", "size", "texture", "count", "exist", "comparison", "relation", "side", "position"]
    prior: dict[tuple[str, str], Counter[str]] = {}
    for item in exam(21, kinds, 63):
        q = item.question
        prior.setdefault((q.kind, topic(q)), Counter())[blind(q)] += 1
    right: Counter[str] = Counter()
    again = exam(22, kinds, 63)
    for item in again:
        q = item.question
        counts = prior.get((q.kind, topic(q)))
        right[q.kind] += counts is not None and counts.most_common(1)[0][0] == blind(q)
    for kind in kinds:
        limit = KINDS[kind].guess
        assert limit is not None and right[kind] / 63 <= limit + 0.08, (kind, right[kind] / 63)


def topic(q: Question) -> str:
    """The sort of phrase that is asked about: which attributes it names."""
    values = slots(q)
    phrase = values.get("things") or values.get("thing") or values.get("a_thing") or ""
    tables = (COLOURS, SIZES, TEXTURES)
    return " ".join(str(any(w in table for w in phrase.split())) for table in tables) + str("shape" in phrase)


def blind(q: Question) -> str:
    """The answer, or for a choice between two named things, which of them."""
    return q.answer if q.kind != "comparison" else str(slots(q)["one"] == q.answer)


@pytest.mark.parametrize("template", ["inst", "train-stage4"])
def test_every_question_fits_the_prompt_templates(template: str) -> None:
    """No marker of a template, no tag of another task, in any prompt; dialogues become messages."""
    for item in exam(8, list(KINDS), 12):
        question = item.question
        if not question.history:
            assert question.prompt in render(question.prompt, images=1, template=template, task=question.task)
        text, pictures = render_messages(question.messages(), template=template)
        assert pictures == [None]
        places = [text.index(part) for t in question.history for part in (t.prompt, t.answer)]
        assert places == sorted(places) and f"[{question.task}] {question.prompt}" in text


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgumentError, match="kind is 'smell', expected one of colour"):
        ask(generator(0), scene_from_seed(0), "smell")
    with pytest.raises(InvalidArgumentError, match=r"Split\.pairs"):
        Split(pairs="none")
    with pytest.raises(InvalidArgumentError, match="nothing has no question"):
        exam(0, ["nothing"], 1, Split(pairs="held_out"))
    assert SEEN == Split()
