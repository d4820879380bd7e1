"""The demo model's tokenizer: a small byte-level BPE whose merges come from our own questions.

``###`` is a special token (the end of an answer), every integer 0..100 is one token (boxes are written in them), and
so is each template marker and task tag. The merges are found by ``bpe``.
"""

from __future__ import annotations

import functools

import numpy as np
from tokenizers import Tokenizer

from ..processing.prompt import render, split_images
from .bpe import make_tokenizer, to_json
from .questions import KINDS, ask
from .scenes import COLOURS, SHAPES, SceneSpec, scene_from_seed

VOCAB_SIZE = 640
TEMPLATE = "inst"


def corpus(scenes: int = 3000, seed: int = 1_000_003) -> list[str]:
    """Prompt segments and answers of every kind over ``scenes`` scenes."""
    texts: list[str] = []
    rng = np.random.Generator(np.random.PCG64(seed))
    for index in range(scenes):
        scene = scene_from_seed(seed + index, SceneSpec(pairs="train"))
        for kind in KINDS:
            question = ask(rng, scene, kind)
            if question is not None:
                prompt = render(question.prompt, images=1, template=TEMPLATE, task=question.task)
                texts += [*split_images(prompt), question.answer]
    # Both spellings of every name (first word of an answer, and after a space), whatever the draw was.
    for word in (*COLOURS, *SHAPES):
        texts += [word, f" {word}"] * (scenes // 10)
    return texts


def build_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """The tokenizer, from this package's code alone: at most ``vocab_size`` entries, ``###`` the first."""
    return make_tokenizer(corpus(), vocab_size)


@functools.cache
def tokenizer_json() -> str:
    """The text of the demo's ``tokenizer.json``."""
    return to_json(build_tokenizer())
