"""Options that hold an answer to a form: boxes that parse, a JSON schema, a regular expression, a list of choices.

Checked here, before any model is loaded, in the words of the command line; ``generate/constraints.py`` has the rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InvalidArgumentError
from .options import check_exists

MAX_SCHEMA_BYTES = 1 << 20

Boxes = Annotated[
    Literal["constrained", "free"] | None,
    typer.Option(
        help="constrained: every box of the answer is whole and inside the picture (where a task asks for boxes that "
        "is so already); free: whatever the model writes."
    ),
]
JsonSchema = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Answer with json that fits the JSON schema in FILE. Give --max-new-tokens enough room: an answer cut off "
        "is no json. Needs the extra 'grammar'.",
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Answer with a text that this regular expression matches from end to end, such as '(none|[1-9][0-9]?)'. "
        "Needs the extra 'grammar'.",
    ),
]
Choice = Annotated[
    list[str] | None,
    typer.Option(
        help="Answer with one of these, the most likely first. Repeat the option. Nothing is generated: each is scored."
    ),
]
Choices = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="The same as --choice for each text between the commas.")
]


def constraints(
    *,
    boxes: str | None = None,
    json_schema: Path | None = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    choices: str | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings of ``generate`` that these options mean. ``sampling``: the other settings that say how to generate.

    Raises InvalidArgumentError for options that exclude each other, and for values that are none.
    """
    candidates = _candidates(choice, choices)
    given = {
        "--boxes constrained": boxes == "constrained",
        "--json-schema": json_schema is not None,
        "--regex": regex is not None,
        "--choices": candidates is not None,
    }
    asked = [name for name, is_given in given.items() if is_given]
    if len(asked) > 1:
        raise InvalidArgumentError(f"{asked[0]} and {asked[1]} are given, expected one of them")
    if candidates is not None:
        _check_scored(sampling or {})
    if regex == "":
        raise InvalidArgumentError("--regex is empty, expected a regular expression such as '[0-9]+'")
    settings = {
        "boxes": boxes,
        "json_schema": None if json_schema is None else _schema(json_schema),
        "regex": regex,
        "choices": candidates,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _candidates(choice: Sequence[str] | None, choices: str | None) -> list[str] | None:
    """All texts to choose from, None if none of the two options is given."""
    if not choice and choices is None:
        return None
    listed = [] if choices is None else [text.strip() for text in choices.split(",")]
    texts = [*(choice or []), *listed]
    if len(set(texts)) < 2 or len(set(texts)) < len(texts) or not all(texts):
        raise InvalidArgumentError(f"--choices is {texts}, expected two texts or more, all different and none empty")
    return texts


def _check_scored(sampling: Mapping[str, Any]) -> None:
    for name, value in sampling.items():
        if value is not None and not (name == "temperature" and value == 0):
            raise InvalidArgumentError(
                f"--{name.replace('_', '-')} is given with --choices, expected one of the two: choices are scored as "
                "they stand, nothing is generated"
            )


def _schema(path: Path) -> str:
    """The schema in file ``path`` as json on one line, its keys in their order: the order an answer has them in."""
    check_exists("--json-schema", path)
    with path.open("rb") as file:
        data = file.read(MAX_SCHEMA_BYTES + 1)
    if len(data) > MAX_SCHEMA_BYTES:
        raise InvalidArgumentError(f"--json-schema is {path}, expected at most {MAX_SCHEMA_BYTES} bytes")
    try:
        schema = json.loads(data)
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as error:  # not UTF-8, not json, a number beyond float64, or nested without end
        raise InvalidArgumentError(f"--json-schema is {path}, which is not json: {error}") from None
    if not isinstance(schema, dict):
        raise InvalidArgumentError(
            f"--json-schema is {path}, which holds {type(schema).__name__}, expected a JSON schema: an object"
        )
    return text
