"""The scorer: exact words, overlapping boxes, nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tinygptv_fast.data.questions import KINDS, Question, ask
from tinygptv_fast.data.scenes import random_scene
from tinygptv_fast.data.scoring import iou, is_right, read_boxes


def test_true_answers_are_right_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    for kind in KINDS:
        for _ in range(30):
            question = ask(rng, random_scene(rng), kind)
            if question is None:
                continue
            assert is_right(question, question.answer), question
            assert is_right(question, f" {question.answer} "), question
            for wrong in ("", "maybe", "{<0><0><1><1>}", "<p>heart</p>{<0><0><99><99>}"):
                assert not is_right(question, wrong), (question, wrong)


def test_iou() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert iou((10, 10, 0, 0), (0, 0, 10, 10)) == 0


def test_box_must_overlap_by_more_than_half() -> None:
    question = Question("refer", "refer", "the red circle", "{<10><10><30><30>}")
    assert is_right(question, "{<12><10><32><30>}")
    assert not is_right(question, "{<17><10><37><30>}")  # 13/27
    assert not is_right(question, "{<10><10><30>}")
    assert not is_right(question, "{<10><10><30><30>}{<50><50><60><60>}")


def test_detection_needs_every_box_once_in_any_order() -> None:
    question = Question("detection", "detection", "star", "<p>star</p>{<0><0><20><20>}<delim>{<50><50><80><80>}")
    assert is_right(question, "<p>star</p>{<51><50><80><80>}<delim>{<0><1><20><20>}")
    assert not is_right(question, "<p>star</p>{<0><0><20><20>}<delim>{<0><0><20><20>}")
    assert not is_right(question, "<p>cross</p>{<0><0><20><20>}<delim>{<50><50><80><80>}")


def test_caption_order_is_free_but_every_object_counts() -> None:
    question = Question("caption", "caption", "describe", "red star and blue star")
    assert is_right(question, "blue star and red star")
    assert not is_right(question, "red star")
    assert not is_right(question, "red star and blue star and red star")


def test_read_boxes_is_strict() -> None:
    assert read_boxes("x {<1><2><3><4>} {<1><2><3>} {<-1><2><3><4>}") == [(1, 2, 3, 4)]
