"""Scenes from words and words from scenes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.data.colours import COLOURS
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.grammar import Group, parse
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.data.world.lexicon import SHAPES, SIZES, TEXTURES
from tinygptv_fast.data.world.places import CLEAR, relation_holds
from tinygptv_fast.data.world.sampling import EMPTY, TEXT, scene_from_seed
from tinygptv_fast.data.world.scene import box_text
from tinygptv_fast.data.world.text import scene_text
from tinygptv_fast.errors import InvalidArgumentError

GROUPS = {
    "red star left of blue ring": (
        Group(colour="red", shape="star"),
        Group(colour="blue", shape="ring", relation="left of"),
    ),
    "a Star": (Group(shape="star"),),
    "three small green circles": (Group(3, "small", None, "green", "circle"),),
    "dotted large pink crosses": (Group(2, "large", "dotted", "pink", "cross"),),
    'the word "cat" above the red number 42': (
        Group(shape="word", text="cat"),
        Group(colour="red", shape="number", text="42", relation="above"),
    ),
    "a shape, two shapes, and a ring to the right of a heart": (
        Group(),
        Group(2),
        Group(shape="ring"),
        Group(shape="heart", relation="right of"),
    ),
}


@pytest.mark.parametrize("text", GROUPS)
def test_parse(text: str) -> None:
    assert parse(text) == GROUPS[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["blank", "star", "purple"]),
        ("red stra left of blue ring", ["'stra' (word 2, column 5)", "did you mean 'star'", "shapes: circle"]),
        ("red star leftof ring", ["'leftof' (word 3", "did you mean 'left of'"]),
        ("red star ring", ["'ring' (word 3", "cannot stand here"]),
        ("red blue star", ["'blue' (word 2", "second colour"]),
        ("red star and", ["ends"]),
        ("red", ["ends", "expected a shape"]),
        ('the word "Ca7"', ['"Ca7"', "a..z"]),
        ("the number", ["ends after 'number'", "digits"]),
        ('three word "cat"', ["no size, texture or count"]),
        ("four stars and three rings", ["7 things", "at most 6"]),
    ],
)
def test_errors_point_at_the_word(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        parse(text)
    for word in words:
        assert word in str(error.value)


def test_what_cannot_fit_is_said() -> None:
    with pytest.raises(InvalidArgumentError, match="no room"):
        arrange("six large stars")


adjectives = st.tuples(*(st.sampled_from(["", *table]) for table in (SIZES, TEXTURES, COLOURS)))
nouns = st.tuples(adjectives, st.sampled_from(SHAPES))


@settings(max_examples=60, deadline=None)
@given(nouns, st.sampled_from(["left of", "right of", "above", "below"]), nouns, st.integers(0, 2**40))
def test_the_scene_is_what_was_asked_for(one, relation: str, other, seed: int) -> None:
    text = " ".join(w for w in (*one[0], one[1], relation, *other[0], other[1]) if w)
    scene = arrange(text, seed)
    assert scene == arrange(text, seed)
    first, second = scene.things
    for thing, (wanted, shape) in ((first, one), (second, other)):
        assert thing.shape == shape
        for has, asked in zip((thing.size, thing.texture, thing.colour), wanted, strict=True):
            assert asked in ("", has)
    assert relation_holds(first, relation, second)
    axis = 0 if relation.endswith("of") else 1
    assert abs(first.centre[axis] - second.centre[axis]) >= CLEAR
    a, b = first.box, second.box
    assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_scene_text_says_everything() -> None:
    for seed in range(30):
        scene = scene_from_seed(seed, TEXT)
        text, shuffled = scene_text(scene), scene_text(scene, generator(seed))
        assert sorted(text.split(", ")) == sorted(shuffled.split(", "))
        for thing in scene.things:
            words = (thing.size, thing.texture, thing.colour, thing.shape, thing.text)
            assert f"{' '.join(w for w in words if w)} {box_text(thing.box)}" in text
        assert len(re.findall(r"\{", text)) == len(scene.things)
    assert scene_text(scene_from_seed(0, EMPTY)) in ("noise", "a gradient", "an empty background")
