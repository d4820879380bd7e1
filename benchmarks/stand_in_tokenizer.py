"""A byte-level BPE tokenizer of Phi-2's shape (50,295 tokens, '###' is 21017) with made-up merges of letters.

It stands in for the real one where only sizes and speed matter; its tokens mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_PINNED = {2235: ("#", "#"), 21017: ("##", "#")}  # their ids in GPT-2's vocabulary, which Phi-2 uses
_SPACE = "Ġ"  # how byte-level BPE spells a space
END_OF_TEXT = "<|endoftext|>"


def tokenizer_json(merges: int = 50_000) -> str:
    """The text of ``tokenizer.json``: 256 bytes, ``merges`` merged tokens, end of text, 38 runs of spaces and tabs."""
    rules = _merges(merges)
    vocab = {token: index for index, token in enumerate(_byte_alphabet())}
    for left, right in rules:
        vocab[left + right] = len(vocab)
    vocab[END_OF_TEXT] = len(vocab)
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    added = [_added(vocab[END_OF_TEXT], END_OF_TEXT, special=True)]
    added += [_added(len(vocab) + index, text, special=False) for index, text in enumerate(runs)]
    level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **level},
        "post_processor": {"type": "ByteLevel", **level},
        "decoder": {"type": "ByteLevel", **level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": [f"{left} {right}" for left, right in rules],
        },
    }
    return json.dumps(value, ensure_ascii=False)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = [256 + index for index in range(256 - len(printable))]
    return [chr(code) for code in printable + spare]


def _merges(count: int) -> list[tuple[str, str]]:
    words = _words()
    rules: list[tuple[str, str]] = []
    while len(rules) < count:
        rules.append(_PINNED.get(256 + len(rules)) or next(words))
    return rules


def _words() -> Iterator[tuple[str, str]]:
    """Merges of ever longer letter strings, with and without a leading space; each uses earlier ones only."""
    level = [""]
    for _ in range(4):
        longer = []
        for stem in level:
            for letter in _LETTERS:
                longer.append(stem + letter)
                if stem:
                    yield stem, letter
        for word in longer:
            yield _SPACE, word
        level = longer


def _added(index: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": index, "content": content, **flags}
