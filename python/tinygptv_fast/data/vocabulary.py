"""The demo model's tokenizer: a small byte-level BPE whose merges come from our own questions.

Covers every byte, so any text can be asked. ``###`` is a special token (the end of an answer), every integer 0..100 is
one token (boxes are written in them), and so is each template marker and task tag. The merges are found here rather
than by a library so that the same corpus gives the same file for ever.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ..errors import InvalidArgumentError
from ..processing.prompt import render, split_images
from .questions import KINDS, ask
from .scenes import COLOURS, SHAPES, SceneSpec, scene_from_seed

END = "###"
NUMBERS = range(101)
VOCAB_SIZE = 640
TEMPLATE = "inst"

# Numbers; the box punctuation; a bracketed tag; an angle-bracket mark; a word; one other character; white space.
PATTERN = r"\d{1,3}|\{<|><|>\}| ?\[/?\p{L}+\]| ?</?\p{L}+>| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+"
_DIGITS = re.compile(r"^\d+$")

Pair = tuple[str, str]


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


def _pre_tokenizer() -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _pieces(texts: Iterable[str]) -> Counter[str]:
    split = _pre_tokenizer()
    counts: Counter[str] = Counter()
    for text, times in Counter(texts).items():
        for piece, _ in split.pre_tokenize_str(text):
            counts[piece] += times
    return counts


def _merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            out.append(pair[0] + pair[1])
            index += 2
        else:
            out.append(word[index])
            index += 1
    return tuple(out)


def learn_merges(counts: Counter[str], number: int) -> list[Pair]:
    """The ``number`` most frequent pairs, found one after another; ties go to the pair that sorts first."""
    words = {piece: tuple(piece) for piece in counts if not _DIGITS.match(piece)}
    merges: list[Pair] = []
    while len(merges) < number:
        pairs: Counter[Pair] = Counter()
        for piece, word in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += counts[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        words = {piece: _merge(word, best) for piece, word in words.items()}
    return merges


def build_tokenizer(vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """The tokenizer, from this package's code alone: at most ``vocab_size`` entries, ``###`` the first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    number_merges = [(str(n)[:-1], str(n)[-1]) for n in NUMBERS if n >= 10]
    room = vocab_size - 1 - len(alphabet) - len(number_merges)
    if room < 0:
        raise InvalidArgumentError(f"vocab_size is {vocab_size}, expected at least {vocab_size - room}")
    merges = number_merges + learn_merges(_pieces(corpus()), room)
    entries = list(dict.fromkeys([END, *alphabet, *(a + b for a, b in merges)]))
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(entries)}, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, normalized=False, special=True)])
    return tokenizer


@functools.cache
def tokenizer_json() -> str:
    """The text of the demo's ``tokenizer.json``: compact, sorted by id as the library writes it."""
    return json.dumps(json.loads(build_tokenizer().to_str()), ensure_ascii=False, separators=(",", ":")) + "\n"
