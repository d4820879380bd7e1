"""Ways of asking and made-up names, for training: the sense stays, and nothing held out is said."""

from __future__ import annotations

import itertools
import re

import pytest

from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world import rewording
from tinygptv_fast.data.world.lexicon import HELD_OUT_PAIRS, SHAPES, plural
from tinygptv_fast.data.world.made_up import made_up_word, rename, renaming
from tinygptv_fast.data.world.rewording import BEFORE, BEHIND, CLAUSES, EVERYDAY, MORE, OPENINGS, reworded, slots_of
from tinygptv_fast.data.world.sampler import training
from tinygptv_fast.data.world.text import scene_text
from tinygptv_fast.data.world.wordings import HELD_OUT, TRAIN
from tinygptv_fast.train.demo.rows import Conversation
from tinygptv_fast.train.demo.telling import renamed

_SLOT = re.compile(r"\{(\w+)\}")


def words_of(wording: str) -> set[str]:
    return set(re.findall(r"[a-z]+", _SLOT.sub(" ", wording).lower()))


def spoken(wordings: dict[str, tuple[str, ...]]) -> set[str]:
    return set().union(*(words_of(w) for ways in wordings.values() for w in ways))


def pattern_of(wording: str) -> re.Pattern[str]:
    parts = _SLOT.split(wording)
    return re.compile("".join(".+" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


QUESTIONS = [q for index in range(160) for q in training(17, "multitask", 0, index).questions]


# --- wordings ---------------------------------------------------------------------------------------------------------
def test_every_family_has_other_ways_with_slots_it_can_fill() -> None:
    assert MORE.keys() == TRAIN.keys() and CLAUSES.keys() <= TRAIN.keys()
    for family, ways in TRAIN.items():
        slots = {s for w in ways for s in _SLOT.findall(w)}
        for way in (*MORE[family], *CLAUSES.get(family, ())):
            assert set(_SLOT.findall(way)) <= slots, (family, way)


def test_no_way_is_held_out_nor_says_a_word_that_only_held_out_wordings_have() -> None:
    held_out = {w for ways in HELD_OUT.values() for w in ways}
    clauses = [c for ways in CLAUSES.values() for c in ways]
    composed = {f"{opening} {clause}{end}" for opening, clause, end in itertools.product(OPENINGS, clauses, ".?")}
    assert not held_out & (composed | {w for ways in MORE.values() for w in ways})
    only_held_out = spoken(HELD_OUT) - spoken(TRAIN)
    new = spoken(MORE) | spoken(CLAUSES) | set(EVERYDAY) | set().union(*map(words_of, (*OPENINGS, *BEFORE, *BEHIND)))
    assert not new & only_held_out
    assert len(only_held_out) > 20  # the held-out wordings stay foreign


def test_reworded_questions_keep_their_answers_and_names() -> None:
    held_out = [pattern_of(w) for ways in HELD_OUT.values() for w in ways if not w.startswith("{")]
    changed = 0
    for index, question in enumerate(QUESTIONS):
        other = reworded(generator(3, index), question)
        assert other == reworded(generator(3, index), question)
        assert (other.kind, other.task, other.answer) == (question.kind, question.task, question.answer)
        assert (other.history, other.refusal) == (question.history, question.refusal)
        if other == question:
            continue
        changed += 1
        assert other.wording == "" and other.prompt != question.prompt
        assert not any(p.fullmatch(other.prompt) for p in held_out), other.prompt
        slots = slots_of(question)
        said = other.prompt.lower()
        if question.kind == "statement":
            assert slots["clause"].rstrip(".").lower() in said
        else:
            assert all(value.lower() in said for value in slots.values()), (question.prompt, other.prompt)
    assert 0.3 < changed / len(QUESTIONS) < 0.65


@pytest.mark.parametrize("share", ["_FRAMED", "_NOISY", "_COMPOSED"])
def test_every_change_happens(share: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FRAMED", "_NOISY", "_COMPOSED"):
        monkeypatch.setattr(rewording, name, 0.0 if name != share else 0.9)
    changed = [(q, other) for i, q in enumerate(QUESTIONS) if (other := reworded(generator(4, i), q)) != q]
    assert len(changed) > len(QUESTIONS) / 4


def test_slots_are_read_back() -> None:
    for question in QUESTIONS:
        slots = slots_of(question)
        assert question.wording.format(**slots) == question.prompt
        if question.kind == "statement":
            assert slots["statement"].endswith(".") and slots["statement"][0].isupper()
            assert slots["clause"].lower() == slots["statement"][:-1].lower()


# --- made-up names ----------------------------------------------------------------------------------------------------
def test_made_up_names_replace_what_is_there_and_nothing_else() -> None:
    exchanged = 0
    for index in range(80):
        example = training(18, "multitask", 0, index)
        rng = generator(5, index)
        names = renaming(rng, example.scene)
        there = {t.shape for t in example.scene.shapes} | {t.colour for t in example.scene.things}
        assert names.keys() <= there and len(set(names.values())) == len(names)
        exchanged += len(names)
        keep = (True,) * len(example.questions)
        told = renamed(Conversation(example.questions, keep, scene_text(example.scene)), names)
        assert told.scene is not None
        assert rename(told.scene, {new: old for old, new in names.items()}) == scene_text(example.scene)
        for before, after in zip(example.questions, told.questions, strict=True):
            text = f"{after.prompt} {after.answer} {[(t.prompt, t.answer) for t in after.history]}"
            assert not any(re.search(rf"\b{old}s?\b", text) for old in names), text
            assert not any(f"{c} {s}" in text for c, s in HELD_OUT_PAIRS)
            if not names.keys() & set(re.findall(r"[a-z]+", f"{before.prompt} {before.answer} {before.history}")):
                assert after.prompt == before.prompt or any(plural(s) in before.prompt for s in SHAPES)
    assert exchanged > 100


def test_rename_keeps_grammar() -> None:
    names = {"orange": "dalu", "cross": "tenov"}
    assert rename("Is there an orange cross?", names) == "Is there a dalu tenov?"
    assert rename("How many orange crosses and red stars?", names) == "How many dalu tenovs and red stars?"
    assert rename("an oranges crossed", names) == "an oranges crossed"
    assert rename("a red star", {}) == "a red star"


def test_made_up_words_are_new() -> None:
    words = {made_up_word(generator(6, i)) for i in range(500)}
    assert len(words) > 400 and all(re.fullmatch(r"[a-z]{4,5}", word) for word in words)
    assert not words & {w for ways in (*TRAIN.values(), *HELD_OUT.values()) for way in ways for w in words_of(way)}
