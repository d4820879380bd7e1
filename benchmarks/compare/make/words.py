"""Writes words.json: tokens that prompts are made of, words of letters and marks that stand between them.

Tokenising never joins a letter with a digit or a punctuation mark, so a word and a mark in turn spell a text that is
tokenised to exactly these tokens.

    python words.py CHECKPOINT OUT.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tinygptv_fast.processing.tokenizer import Tokenizer

MARKS = "0123456789!#$%&()*+,-./:;=?@[]^_{|}~"


def main() -> None:
    tokenizer = Tokenizer.from_file(Path(sys.argv[1]) / "tokenizer.json")
    texts = ((index, tokenizer.decode([index])) for index in range(tokenizer.size))
    words = [(index, text) for index, text in texts if text.isascii() and text.isalpha()]
    words = [(index, text) for index, text in words if tokenizer.encode(f"1{text}2")[1:-1] == [index]]
    marks = [(ids[0], mark) for mark in MARKS if len(ids := tokenizer.encode(mark)) == 1]
    if len(words) < 1000 or len(marks) < 10:
        raise SystemExit(f"{sys.argv[1]}: {len(words)} words and {len(marks)} marks are usable, expected thousands, 10")
    Path(sys.argv[2]).write_text(json.dumps({"words": words, "marks": marks}), encoding="utf-8")


if __name__ == "__main__":
    main()
