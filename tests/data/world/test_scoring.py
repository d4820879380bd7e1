"""The scorer of the drawn world."""

from __future__ import annotations

import pytest

from tinygptv_fast.data.question import Question
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.asking import KINDS, ask
from tinygptv_fast.data.world.lexicon import ONLY_KNOWN
from tinygptv_fast.data.world.sampler import exam, spec_for
from tinygptv_fast.data.world.sampling import scene_from_seed
from tinygptv_fast.data.world.scoring import is_right, refuses, tally


@pytest.mark.parametrize("kind", KINDS)
def test_true_answers_are_right_and_others_are_not(kind: str) -> None:
    for seed in range(40):
        question = ask(generator(seed), scene_from_seed(seed, spec_for(kind)), kind)
        if question is None:
            continue
        assert is_right(question, question.answer) and is_right(question, f" {question.answer} ")
        for wrong in ("", "maybe", "{<0><0><1><1>}", "<p>dog</p>{<0><0><99><99>}", "there is no dog"):
            assert not is_right(question, wrong), (question, wrong)
        assert refuses(question.answer) == question.refusal


def test_boxes_count_from_half_an_overlap_on() -> None:
    question = Question("refer", "refer", "the red circle", "{<10><10><30><30>}")
    assert is_right(question, "{<12><10><32><30>}")
    assert not is_right(question, "{<17><10><37><30>}")  # 13/27
    assert not is_right(question, "{<10><10><30><30>}{<50><50><60><60>}")


def test_captions_and_groundings_are_sets() -> None:
    caption = Question("caption", "caption", "?", "a red star, an orange ring and the word cat")
    assert is_right(caption, "an orange ring, a red star and the word cat")
    assert not is_right(caption, "a red star and the word cat")
    assert not is_right(caption, "a red star, a red star, an orange ring and the word cat")
    grounding = Question(
        "grounding", "grounding", "?", "<p>red star</p>{<0><0><20><20>}, <p>red star</p>{<50><50><80><80>}"
    )
    assert is_right(grounding, "<p>red star</p>{<50><51><80><80>}, <p>red star</p>{<0><0><20><20>}")
    assert not is_right(grounding, "<p>red star</p>{<50><51><80><80>}, <p>red star</p>{<50><50><80><80>}")


def test_false_refusals_are_counted() -> None:
    items = exam(2, ["colour", "absent"], 4)
    answered = [(item.question, ONLY_KNOWN) for item in items]
    result = tally(answered)
    assert (result["colour"].asked, result["colour"].right, result["colour"].refused) == (4, 0, 4)
    assert (result["absent"].right, result["absent"].refused) == (0, 0)
    assert tally((i.question, i.question.answer) for i in items)["absent"].right == 4
