"""The tokenizer of the demo model that learns the world of ``data.world``: a byte-level BPE learnt from its questions,
answers and scenes in words, with ``###`` and ``<|endoftext|>``.

Drawn words are left out of what it learns from. They stay spelled in short pieces, so that reading one is spelling it,
and a word that was never drawn in training can be read as well.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from ..processing.prompt import render_messages, split_images
from .bpe import END, make_tokenizer, to_json
from .colours import COLOURS
from .randomness import generator
from .world.lexicon import SHAPES, SIZES, TEXTURES, TRAIN_WORDS
from .world.sampler import training
from .world.text import scene_text

VOCAB_SIZE = 1024
END_OF_TEXT = "<|endoftext|>"
TEMPLATE = "train-stage4"  # prompts are written in training as they will be when answering, dialogues included
_WORDS = re.compile(r"\b(" + "|".join(TRAIN_WORDS) + r")\b")


def corpus(scenes: int = 600, seed: int = 1_000_003) -> Iterator[str]:
    """Prompt segments, answers and scene texts of ``scenes`` pictures of the last stage."""
    for index in range(scenes):
        example = training(seed, "vocabulary", 0, index)
        yield scene_text(example.scene, generator(seed, index))
        for question in example.questions:
            prompt, _ = render_messages(question.messages(), template=TEMPLATE)
            yield from split_images(prompt)
            yield question.answer
    # Both spellings of every name (first word of an answer, and after a space), whatever the draw was.
    for word in (*COLOURS, *SHAPES, *SIZES, *TEXTURES):
        yield from (word, f" {word}") * (scenes // 10)


@functools.cache
def tokenizer_json() -> str:
    """The text of ``tokenizer.json``: at most ``VOCAB_SIZE`` entries, ``###`` and ``<|endoftext|>`` first."""
    texts = (_WORDS.sub("", text) for text in corpus())
    return to_json(make_tokenizer(texts, VOCAB_SIZE, (END, END_OF_TEXT)))
