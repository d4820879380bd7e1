"""The probability of a box is that of its tokens, of a coordinate that of its digits' tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.generate.box_probabilities import with_probabilities
from tinygptv_fast.processing.boxes import parse_boxes


@pytest.fixture(scope="module")
def demo() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return draw(arrange("red circle left of blue star", 5), 384)


def test_boxes_of_an_answer(demo: tgv.TinyGPTV, picture: Image.Image) -> None:
    answer = demo.describe(picture)
    assert answer.boxes
    words = [demo.tokenizer.decode([token]) for token in answer.token_ids]
    opened = [index for index, word in enumerate(words) if "{" in word]
    closed = [index for index, word in enumerate(words) if "}" in word]
    for box, first, last in zip(answer.boxes, opened, closed, strict=True):
        logprobs = answer.logprobs[first : last + 1]
        digits = [lp for lp, word in zip(logprobs, words[first : last + 1], strict=True) if word.strip().isdigit()]
        assert box.score == box.probability == pytest.approx(math.exp(sum(logprobs)))
        assert box.coordinate_probabilities == pytest.approx([math.exp(lp) for lp in digits])
    rows = json.loads(json.dumps(answer.to_dict()))["boxes"]
    assert rows[0]["score"] == answer.boxes[0].score and len(rows[0]["coordinate_probabilities"]) == 4
    assert demo.refer(picture, "the red circle").to_coco()["annotations"][0]["score"] > 0


def test_boxes_of_choices_and_of_beams(demo: tgv.TinyGPTV, picture: Image.Image) -> None:
    choices = ["{<19><41><38><56>}", "{<1><2><3><4>}", "no box"]
    ranked = demo.rank(picture, "[refer] give me the location of the red circle", choices)
    found = {answer.text: answer for answer in ranked}
    assert [len(found[choice].boxes) for choice in choices] == [1, 1, 0]
    for choice in choices[:2]:  # all of the answer but its end
        end = math.exp(found[choice].logprobs[-1])
        assert found[choice].boxes[0].probability == pytest.approx(found[choice].probability / end)
    beams = demo.generate(picture, "[refer] give me the location of the red circle", num_beams=2)
    assert 0 < beams.boxes[0].probability <= 1  # type: ignore[operator]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["{<1><2><3><4>}", "a cup", "{<50><2>}", " ", "{<7><8><99><100>}"]), max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_cut_into_tokens(parts: list[str], random: Random) -> None:
    """However the text falls into tokens: a box has the tokens that touch it."""
    text = "".join(parts)
    pieces, at = [], 0
    while at < len(text):
        size = random.randint(0, 4)
        pieces.append(text[at : at + size])
        at += size
    logprobs = [-(k + 1) / 8 for k in range(len(pieces))]
    shown, indent = text.strip(), len(text) - len(text.lstrip())
    boxes = with_probabilities(parse_boxes(shown, 100, 100), shown, indent, list(map(len, pieces)), logprobs)
    starts = [sum(map(len, pieces[:k])) for k in range(len(pieces))]
    found = 0
    for box in boxes:
        begin = indent + shown.index("{" + "".join(f"<{int(v)}>" for v in _bins(box)) + "}", found)
        end = text.index("}", begin) + 1
        found = end - indent
        touching = [
            lp for s, p, lp in zip(starts, pieces, logprobs, strict=True) if p and s < end and s + len(p) > begin
        ]
        assert box.score is not None and box.score <= math.exp(sum(touching)) * (1 + 1e-9)
        assert box.coordinate_probabilities is not None
        assert max(box.coordinate_probabilities) <= 1 and min(box.coordinate_probabilities) >= box.score * (1 - 1e-9)


def _bins(box: tgv.Box) -> list[int]:
    return [min(int(value), 100) if value < 100 else 100 for value in box.xyxy]
