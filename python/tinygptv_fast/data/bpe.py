"""A small byte-level BPE learnt from given texts, by this code alone: the same texts give the same file for ever.

Covers every byte, so any text can be asked. Every integer 0..100 is one token (boxes are written in them), and a merge
never crosses a word, a number, a task tag or a template mark.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from ..errors import InvalidArgumentError

END = "###"
NUMBERS = range(101)

# Numbers; the box punctuation; a bracketed tag; an angle-bracket mark; a word; one other character; white space.
PATTERN = r"\d{1,3}|\{<|><|>\}| ?\[/?\p{L}+\]| ?</?\p{L}+>| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+"
_DIGITS = re.compile(r"^\d+$")

Pair = tuple[str, str]


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
    pairs: Counter[Pair] = Counter()
    where: dict[Pair, set[str]] = {}

    def count(piece: str, sign: int) -> None:
        for pair in itertools.pairwise(words[piece]):
            pairs[pair] += sign * counts[piece]
            where.setdefault(pair, set()).add(piece)

    for piece in words:
        count(piece, 1)
    merges: list[Pair] = []
    while len(merges) < number:
        best = min(pairs, key=lambda p: (-pairs[p], p), default=None)
        if best is None or pairs[best] <= 0:
            break
        merges.append(best)
        for piece in where.pop(best):  # only these change; some may have lost the pair to an earlier merge
            count(piece, -1)
            words[piece] = _merge(words[piece], best)
            count(piece, 1)
        del pairs[best]
    return merges


def make_tokenizer(texts: Iterable[str], vocab_size: int, specials: Sequence[str] = (END,)) -> Tokenizer:
    """A tokenizer of at most ``vocab_size`` entries: ``specials`` (ids from 0), the bytes, the integers, the merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    number_merges = [(str(n)[:-1], str(n)[-1]) for n in NUMBERS if n >= 10]
    room = vocab_size - len(specials) - len(alphabet) - len(number_merges)
    if room < 0:
        raise InvalidArgumentError(f"vocab_size is {vocab_size}, expected at least {vocab_size - room}")
    merges = number_merges + learn_merges(_pieces(texts), room)
    entries = list(dict.fromkeys([*specials, *alphabet, *(a + b for a, b in merges)]))
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(entries)}, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials])
    return tokenizer


def to_json(tokenizer: Tokenizer) -> str:
    """The text of ``tokenizer.json``: compact, sorted by id as the library writes it."""
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n"
