"""The shipped demo model on the native engine, beside the reference: int8 activations and KV change next to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tinygptv_fast as tgv
from tinygptv_fast.data.demo_scene import demo_scene, draw_demo_scene
from tinygptv_fast.data.scoring import is_right
from tinygptv_fast.generate.answer import Timings
from tinygptv_fast.generate.control import Control
from tinygptv_fast.generate.request import Request
from tinygptv_fast.protocol import Prompt

SEEDS = range(12)


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
        image, questions = draw_demo_scene(seed)
        state = reference.encode_image(image)
        for question, task, _ in questions:
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
    assert positions > 500
    assert same / positions >= 0.99, (same, positions)
    assert divergence / positions <= 0.01, divergence / positions


def test_answers_from_pixels_are_as_right(native: tgv.TinyGPTV) -> None:
    """Everything native, vision too. The bound is the one that the reference's own test holds it to."""
    marks = []
    for seed in range(4):
        image, _ = draw_demo_scene(seed)
        for question in demo_scene(seed)[1]:
            if question.kind not in ("caption", "grounding"):
                marks.append(is_right(question, native.generate(image, question.prompt, task=question.task).text))
    assert len(marks) == 16 and sum(marks) >= 14, marks
