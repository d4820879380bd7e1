"""The picture of ``tinygptv demo``: of its seed alone, with one question of every sort, asked as in training."""

from __future__ import annotations

from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.data.world.showcase import SHOWCASE, showcase


def test_every_sort_of_question_once_in_order() -> None:
    for seed in range(25):
        example = showcase(seed)
        assert len(example.scene.things) >= 3
        assert [q.kind in kinds for q, kinds in zip(example.questions, SHOWCASE, strict=True)] == [True] * len(SHOWCASE)
        assert example.questions[-1].refusal and not any(q.refusal for q in example.questions[:-1])
        assert all(is_right(q, q.answer) for q in example.questions)


def test_a_seed_is_a_picture() -> None:
    assert showcase(4) == showcase(4)
    assert len({showcase(seed).scene for seed in range(10)}) == 10
    assert {q.kind for seed in range(25) for q in showcase(seed).questions} == {k for kinds in SHOWCASE for k in kinds}
