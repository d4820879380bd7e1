"""Every answer is checked against the scene by a second reading that shares no code with the question makers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tinygptv_fast.data.demo_scene import DEMO_KINDS, DEMO_SIDE, draw_demo_scene
from tinygptv_fast.data.questions import KINDS, NOT_THERE, TRAINING_MIX, Question, ask, ask_mixed
from tinygptv_fast.data.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, SceneObject, SceneSpec, random_scene
from tinygptv_fast.errors import InvalidArgumentError

Facts = list[tuple[str, str, float, float, tuple[int, ...]]]  # colour, shape, centre x, centre y, box in hundredths
_BOX = re.compile(r"\{<(\d+)><(\d+)><(\d+)><(\d+)>\}")


def facts(scene: Scene) -> Facts:
    rows = []
    for o in scene.objects:
        x1, y1, x2, y2 = o.box
        box = tuple(int(v * 100) for v in (x1, y1, x2, y2))
        rows.append((o.colour, o.shape, (x1 + x2) / 2, (y1 + y2) / 2, box))
    return sorted(rows, key=lambda row: row[2])


def words(text: str) -> tuple[list[str], list[str]]:
    """Colours and shapes named, in order; plurals count as their singular."""
    tokens = re.findall(r"[a-z]+", text.lower())
    singular = {**{s: s for s in SHAPES}, **{s + "s": s for s in SHAPES}, "crosses": "cross"}
    return [t for t in tokens if t in COLOURS], [singular[t] for t in tokens if t in singular]


def boxes(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in found) for found in _BOX.findall(text)]


def matching(rows: Facts, colours: list[str], shapes: list[str]) -> Facts:
    return [r for r in rows if (not colours or r[0] == colours[0]) and (not shapes or r[1] == shapes[0])]


def check_attribute(rows: Facts, q: Question) -> None:
    found = matching(rows, *words(q.prompt))
    column = 0 if q.kind == "colour" else 1
    assert q.answer == (found[0][column] if found else NOT_THERE)
    assert len(found) <= 1


def check_exist(rows: Facts, q: Question) -> None:
    assert q.answer == ("yes" if matching(rows, *words(q.prompt)) else "no")


def check_count(rows: Facts, q: Question) -> None:
    colours, shapes = words(q.prompt)
    assert int(q.answer) == len(matching(rows, colours, shapes))


def check_relation(rows: Facts, q: Question) -> None:
    (c1, c2), (s1, s2) = words(q.prompt)
    (first,), (second,) = matching(rows, [c1], [s1]), matching(rows, [c2], [s2])
    axis, sign = {"left": (2, 1), "right": (2, -1), "above": (3, 1), "below": (3, -1)}[
        re.findall("left|right|above|below", q.prompt)[0]
    ]
    gap = sign * (second[axis] - first[axis])
    assert abs(gap) >= 0.08 - 1e-9
    assert q.answer == ("yes" if gap > 0 else "no")


def check_position(rows: Facts, q: Question) -> None:
    (row,) = matching(rows, *words(q.prompt))
    assert q.answer.split() == ["bottom" if row[3] > 0.5 else "top", "right" if row[2] > 0.5 else "left"]


def check_refer(rows: Facts, q: Question) -> None:
    found = matching(rows, *words(q.prompt))
    assert boxes(q.answer) == [row[4] for row in found]
    assert (q.answer == NOT_THERE) == (not found)


def check_identify(rows: Facts, q: Question) -> None:
    (box,) = boxes(q.prompt)
    assert [f"{r[0]} {r[1]}" for r in rows if r[4] == box] == [q.answer]


def check_detection(rows: Facts, q: Question) -> None:
    found = matching(rows, *words(q.prompt))
    assert (q.answer == NOT_THERE) == (not found)
    if found:
        assert q.answer == f"<p>{q.prompt}</p>" + "<delim>".join(
            "{" + "".join(f"<{v}>" for v in r[4]) + "}" for r in found
        )


def check_caption(rows: Facts, q: Question) -> None:
    assert q.answer == " and ".join(f"{r[0]} {r[1]}" for r in rows)


def check_grounding(rows: Facts, q: Question) -> None:
    assert boxes(q.answer) == [row[4] for row in rows]
    assert re.findall("<p>(.*?)</p>", q.answer) == [f"{r[0]} {r[1]}" for r in rows]


CHECKS = {
    "colour": check_attribute,
    "shape": check_attribute,
    "exist": check_exist,
    "count": check_count,
    "relation": check_relation,
    "position": check_position,
    "refer": check_refer,
    "identify": check_identify,
    "detection": check_detection,
    "caption": check_caption,
    "grounding": check_grounding,
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_true(kind: str) -> None:
    rng = np.random.default_rng(5)
    asked = []
    for _ in range(400):
        scene = random_scene(rng, SceneSpec(pairs="all"))
        question = ask(rng, scene, kind)
        if question is not None:
            CHECKS[kind](facts(scene), question)
            asked.append(question)
    assert len(asked) >= 150
    assert {q.kind for q in asked} == {kind}


def test_yes_and_no_are_balanced() -> None:
    rng = np.random.default_rng(6)
    for kind in ("exist", "relation"):
        answers = [q.answer for q in (ask(rng, random_scene(rng), kind) for _ in range(1500)) if q]
        assert set(answers) == {"yes", "no"}
        # Four standard deviations of a fair coin.
        assert abs(answers.count("yes") / len(answers) - 0.5) < 2 / len(answers) ** 0.5


def test_training_never_names_a_held_out_pair() -> None:
    rng = np.random.default_rng(7)
    held_out = {f"{colour} {shape}" for colour, shape in HELD_OUT_PAIRS}
    for _ in range(400):
        for q in ask_mixed(rng, random_scene(rng), 6):
            assert not any(name in f"{q.prompt} {q.answer}" for name in held_out)


def test_mix_covers_every_kind() -> None:
    assert set(TRAINING_MIX) == set(KINDS)
    assert sum(TRAINING_MIX.values()) == pytest.approx(1)


def test_box_text_truncates_like_the_original() -> None:
    item = SceneObject("circle", "red", (0.199, 0.209, 0.5, 0.6099), (255, 0, 0))
    scene = Scene((item,), (255, 255, 255), 0.0, (0, 0))
    question = ask(np.random.default_rng(0), scene, "grounding")
    assert question is not None and question.answer == "<p>red circle</p>{<19><20><50><60>}"


def test_unknown_kind() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidArgumentError, match="kind is 'smell'"):
        ask(rng, random_scene(rng), "smell")


def test_demo_scene() -> None:
    image, asked = draw_demo_scene(3)
    again, asked_again = draw_demo_scene(3)
    assert image.size == (DEMO_SIDE, DEMO_SIDE) and image.mode == "RGB"
    assert asked == asked_again and image.tobytes() == again.tobytes()
    assert len(asked) == len(DEMO_KINDS)
    assert all(prompt and task and answer for prompt, task, answer in asked)
