"""Pixels are those of ``processing.image``; rows are the prompts and answers, shifted by one, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinygptv_fast.data.questions import Question
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.scenes import FULL, draw, random_scene, scene_from_seed
from tinygptv_fast.data.vocabulary import tokenizer_json
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference.loss import IGNORE
from tinygptv_fast.train.batches import RowEncoder, ask_about, build_rows, draw_pictures, render_scenes


@pytest.fixture(scope="module")
def encoder() -> RowEncoder:
    return RowEncoder(Tokenizer.from_string(tokenizer_json()))


def test_pixels_equal_the_image_processor() -> None:
    scenes = [scene_from_seed(seed) for seed in range(3)]
    ours = render_scenes(scenes, [96, 128, 224], 64)
    theirs = torch.stack(
        [ImageProcessor(64).pixels(draw(s, side)) for s, side in zip(scenes, (96, 128, 224), strict=True)]
    )
    assert torch.allclose(ours, theirs, atol=1e-6)  # the same formula in fp32, one rounding apart


def test_streams_depend_on_their_path_alone() -> None:
    assert generator(1, 2, 3).random() == generator(1, 2, 3).random()
    assert len({generator(*path).random() for path in ((1, 2, 3), (1, 2, 4), (1, 3, 3), (2, 2, 3))}) == 4
    first, second = (draw_pictures(generator(0, 1), 3, FULL, 64) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels) and first.scenes == second.scenes


def test_rows_hold_prompt_and_answer(encoder: RowEncoder) -> None:
    question = Question("refer", "refer", "the red circle", "{<5><10><40><60>}")
    (rows,) = build_rows(encoder, [(3, question, True)], buckets=1)
    before, after = encoder.prompt(question)
    answer = encoder.answer(question)
    text = encoder.tokenizer
    assert text.decode(before) == "<s>[INST] <Img>" and text.decode(after) == "</Img> [refer] the red circle [/INST]"
    assert rows.before.tolist() == before and rows.picture.tolist() == [3]
    assert rows.rest[0].tolist() == (after + answer)[:-1]
    assert rows.labels[0].tolist() == [IGNORE] * (len(after) - 1) + answer
    coordinates = [text.decode([i]) for i in rows.labels[0][rows.coordinate[0]].tolist()]
    assert coordinates == ["5", "10", "40", "60"]
    assert rows.weight[0, -1].item() == pytest.approx(len(answer) ** -0.5)


def test_counts_are_not_coordinates(encoder: RowEncoder) -> None:
    (rows,) = build_rows(encoder, [(0, Question("count", "vqa", "How many stars are there?", "2"), True)], buckets=1)
    assert not rows.coordinate.any()


def test_padding_is_not_learnt(encoder: RowEncoder) -> None:
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng) for _ in range(6)]
    asked = ask_about(rng, scenes, 5)
    buckets = build_rows(encoder, asked)
    assert sum(rows.rest.shape[0] for rows in buckets) == len(asked) == 30
    for rows in buckets:
        learnt = rows.labels != IGNORE
        assert torch.equal(learnt, rows.weight > 0)
        assert not rows.coordinate[~learnt].any()
        # One end symbol per row, and it is the last thing learnt.
        assert (rows.labels == encoder.end).sum(1).tolist() == [1] * rows.rest.shape[0]
        last = learnt.shape[1] - 1 - learnt.flip(1).int().argmax(1)
        assert all(rows.labels[i, last[i]] == encoder.end for i in range(rows.rest.shape[0]))


def test_untagged_questions_have_no_tag(encoder: RowEncoder) -> None:
    question = Question("colour", "vqa", "What colour is the star?", "red")
    assert (
        encoder.tokenizer.decode(encoder.prompt(question, tagged=False)[1]) == "</Img> What colour is the star? [/INST]"
    )
