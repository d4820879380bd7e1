"""What an answer is held to: boxes that parse, a JSON schema or a regular expression; and what cannot go together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from ..errors import InvalidArgumentError
from ..processing.prompt import asks_for_boxes
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from ..protocol import GenerationOptions, Grammar
from .request import Request

BOX_MODES = ("constrained", "free")
_BOX_ALPHABET = b"0123456789<>{}"
_SPACING = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}  # as json.dumps writes
# Settings that say how an answer is generated, which candidates are not.
_GENERATING = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "seed", "num_beams", "num_return_sequences",
    "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "speculate", "boxes", "json_schema",
    "regex",
)  # fmt: skip
_GREEDY: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "temperature": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "speculate": (False,),
    "boxes": ("free",),
}


class BoxWriting:
    """Whether a tokenizer has ids for what boxes are written with."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size

    @cached_property
    def missing(self) -> str:
        """The characters it has no id for; "" if none."""
        known = set(self._tokenizer.token_bytes(self._vocab_size))
        return "".join(chr(byte) for byte in _BOX_ALPHABET if bytes([byte]) not in known)


def choose_grammar(request: Request, template: Template, writing: BoxWriting) -> Grammar | None:
    """The grammar of ``request``, whose prompt was checked: the one asked for, or that of boxes where its task asks for
    boxes and the template is not verbatim. Raises InvalidArgumentError for values that are none, and for two grammars
    at once."""
    if request.boxes is not None and request.boxes not in BOX_MODES:
        raise InvalidArgumentError(f"boxes is {request.boxes!r}, expected 'constrained' or 'free'")
    asked = [name for name in ("json_schema", "regex") if getattr(request, name) is not None]
    if request.boxes == "constrained":
        asked.insert(0, "boxes='constrained'")
    if len(asked) > 1:
        raise InvalidArgumentError(f"{asked[0]} and {asked[1]} are given, expected one of them")
    if request.json_schema is not None:
        return Grammar("json_schema", _schema_text(request.json_schema))
    if request.regex is not None:
        if not isinstance(request.regex, str) or not request.regex:
            raise InvalidArgumentError(f"regex is {request.regex!r}, expected a regular expression")
        return Grammar("regex", request.regex)
    if request.boxes == "constrained":
        _check_writing(request, writing)
        return Grammar("boxes")
    wanted = request.boxes is None and not template.verbatim and _asks_for_boxes(request)
    return Grammar("boxes") if wanted and not writing.missing else None


def check_beams(options: GenerationOptions) -> None:
    """Raises InvalidArgumentError for beams under a grammar that they cannot follow."""
    if options.grammar is not None and options.grammar.kind != "boxes" and options.num_beams > 1:
        raise InvalidArgumentError(
            f"num_beams is {options.num_beams} with {options.grammar.kind}, expected 1: ask for greedy decoding or "
            "sampling"
        )


def check_choices(request: Request) -> None:
    """Raises InvalidArgumentError if ``request`` says how to generate what it gives to choose from."""
    for name in _GENERATING:
        value = getattr(request, name)
        if value is not None and value not in _GREEDY.get(name, ()):
            raise InvalidArgumentError(
                f"{name} is given with choices, expected one of the two: choices are scored as they stand, nothing is "
                "generated"
            )


def _asks_for_boxes(request: Request) -> bool:
    if request.task in ("refer", "detection", "grounding"):
        return True
    if request.messages is None:
        return isinstance(request.prompt, str) and asks_for_boxes(request.prompt)
    content = request.messages[-1]["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return bool(texts) and asks_for_boxes(texts[0])


def _check_writing(request: Request, writing: BoxWriting) -> None:
    if writing.missing:
        raise InvalidArgumentError(
            f"boxes is 'constrained', but the tokenizer has no token for {writing.missing[0]!r}, which boxes are "
            "written with; expected boxes='free'"
        )
    stops = [request.stop] if isinstance(request.stop, str) else list(request.stop or [])
    for stop in stops:
        if isinstance(stop, str) and stop and (set(stop.encode()) <= set(_BOX_ALPHABET) or "{" in stop):
            raise InvalidArgumentError(
                f"stop has {stop!r}, which would cut a box in two; expected another, or boxes='free'"
            )


def _schema_text(schema: Any) -> str:
    """The schema as json, with the spacing of its instances fixed unless it says so itself (``x-guidance``)."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise InvalidArgumentError(f"json_schema is not json ({error}), expected a JSON schema") from None
    if not isinstance(schema, Mapping):
        raise InvalidArgumentError(
            f"json_schema is {type(schema).__name__}, expected a JSON schema: a dict or its json"
        )
    try:
        return json.dumps({"x-guidance": _SPACING, **schema}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"json_schema cannot be written as json ({error}), expected a JSON schema") from None
