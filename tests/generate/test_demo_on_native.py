"""The shipped demo model on the native engine, beside the reference: int8 activations and KV change next to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.scoring import is_right
from tinygptv_fast.data.world.showcase import SHOWCASE_SIDE, showcase
from tinygptv_fast.generate.answer import Timings
from tinygptv_fast.generate.control import Control
from tinygptv_fast.generate.request import Request
from tinygptv_fast.protocol import Prompt

SEEDS = range(20)


@pytest.fixture(scope="module")
def native() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo") as model:
        yield model


@pytest.fixture(scope="module")
def reference() -> Iterator[tgv.TinyGPTV]:
    with tgv.TinyGPTV.from_pretrained("demo", backend="reference") as model:
        yield model


def test_teacher_forced_agreement_and_divergence(native: tgv.TinyGPTV, reference: tgv.TinyGPTV) -> None:
    """The reference's answer is fed to both, from the same visual tokens: argmax and KL at each of its positions."""
    same, positions, divergence = 0, 0, 0.0
    for seed in SEEDS:
        example = showcase(seed)
        state = reference.encode_image(draw(example.scene, SHOWCASE_SIDE))
        asked = [(one.prompt, one.task) for one in example.questions]
        for question, task in [*asked, ("Describe this image in detail.", "grounding")]:
            answer = reference.generate(state, question, task=task)
            request = Request(image=state, prompt=question, task=task)
            backends = [model._backend for model in (native, reference)]
            assert all(backends)
            prompt = reference._preparer.prepare(backends[1], request, Control(), Timings()).prompt  # type: ignore[arg-type]
            told = Prompt(np.concatenate([prompt.ids, np.int32(answer.token_ids[:-1])]), prompt.embeddings)
            fast, slow = (backend.logits(told)[len(prompt) - 1 :].log_softmax(-1) for backend in backends)  # type: ignore[union-attr]
            same += int((fast.argmax(-1) == slow.argmax(-1)).sum())
            positions += len(slow)
            divergence += float((slow.exp() * (slow - fast)).sum())
    assert positions > 800
    assert same / positions >= 0.98, (same, positions)  # coordinates included, whose neighbours are nearly equal
    assert divergence / positions <= 0.01, divergence / positions


def test_answers_from_pixels_are_right(native: tgv.TinyGPTV) -> None:
    """Everything native, vision too: the questions of ``tinygptv demo``."""
    marks = []
    for seed in SEEDS:
        example = showcase(seed)
        picture = draw(example.scene, SHOWCASE_SIDE)
        for question in example.questions:
            marks.append(is_right(question, native.generate(picture, question.prompt, task=question.task).text))
    assert len(marks) == 6 * len(SEEDS) and sum(marks) >= 0.8 * len(marks), marks
