"""Grammars of one vocabulary, compiled once and kept. JSON schemas and regular expressions are the library
llguidance's, found when the first is asked for; boxes are ours.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from ..protocol import Grammar

if TYPE_CHECKING:
    from .. import _native

_KEPT = 32  # compiled grammars; the one used longest ago goes first


class Grammars:
    """token_bytes: the text of each id, b"" for those that have none. Every method may be called from any thread."""

    def __init__(self, token_bytes: list[bytes]) -> None:
        self._token_bytes = token_bytes
        self._kept: OrderedDict[Grammar, _native.Grammar] = OrderedDict()
        self._guidance: _native.Guidance | None = None
        self._lock, self._opening = threading.Lock(), threading.Lock()

    def get(self, grammar: Grammar | None) -> _native.Grammar | None:
        """``grammar`` as the engine takes it. Raises InvalidArgumentError with the reason if it cannot be used,
        UnsupportedError without llguidance."""
        if grammar is None:
            return None
        with self._lock:
            made = self._kept.get(grammar)
        if made is None:
            made = self._compile(grammar)  # nobody waits for another's schema
        with self._lock:
            self._kept[grammar] = made
            self._kept.move_to_end(grammar)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made

    def _compile(self, grammar: Grammar) -> _native.Grammar:
        from .. import _native

        if grammar.kind == "boxes":
            return _native.box_grammar(self._token_bytes)
        with self._opening:
            if self._guidance is None:
                self._guidance = _native.Guidance(find_library(grammar.kind), self._token_bytes)
        return self._guidance.compile(grammar.kind, grammar.text)


def find_library(asked: str) -> str:
    """The path of llguidance's shared library. ``asked``: the argument that needs it, for the error."""
    try:
        return str(importlib.import_module("llguidance._lib").__file__)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == "llguidance"
        why = "" if missing else f" ({error})"
        raise UnsupportedError(
            f"{asked} needs the package llguidance: pip install 'tinygptv_fast[grammar]'{why}"
        ) from None
