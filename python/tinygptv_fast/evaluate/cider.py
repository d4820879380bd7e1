"""CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) by the COCO caption evaluation's own code (package pycocoevalcap).

Its tokenizer is Stanford's, in Java. Here the Penn Treebank tokenizer of NLTK stands for it, with the same lower case
and the same punctuation left out, so that no Java is needed: docs/evaluation.md says what that changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UnsupportedError

# What the COCO evaluation removes. It means brackets, too, but looks for -LRB- in text that is lower case: -lrb- stays.
_REMOVED = frozenset("'' ' `` ` . ? ! , : - -- ... ;".split())


def check_available() -> None:
    """Raise UnsupportedError unless the packages are there: before anything is asked."""
    _packages()


def tokens(caption: str) -> str:
    """The caption's words in lower case, joined by single spaces, without punctuation."""
    tokenizer, _ = _packages()
    return _tokens(tokenizer, caption)


def cider(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr-D of each candidate against the references of the same key; the corpus is all references given.

    The scale is the original's 0..10, of which papers print a hundred times the tenth (CIDEr 1.0 is "100"). Raises
    UnsupportedError without the extra ``eval``.
    """
    tokenizer, scorer = _packages()
    given = {key: [_tokens(tokenizer, text)] for key, text in candidates.items()}
    truths = {key: [_tokens(tokenizer, text) for text in references[key]] for key in candidates}
    _, scores = scorer.compute_score(truths, given)
    return {key: float(score) for key, score in zip(candidates, scores, strict=True)}


def _tokens(tokenizer: Any, caption: str) -> str:
    words = (word.lower() for word in tokenizer.tokenize(caption, convert_parentheses=True))
    return " ".join(word for word in words if word not in _REMOVED)


def _packages() -> tuple[Any, Any]:
    try:
        from nltk.tokenize.treebank import TreebankWordTokenizer
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise UnsupportedError(f"CIDEr needs pip install 'tinygptv_fast[eval]' ({error})") from None
    return TreebankWordTokenizer(), Cider()
