"""The questions that ``caption describe refer detect identify`` ask by themselves, and what then has no place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgumentError, PromptError
from ..processing.prompt import default_question
from ..processing.templates import Template, get_template

_QUESTION = ("image", "prompt", "messages", "task", "box")
_FORMS = ("choices", "json_schema", "regex")


def own_question(where: str, task: str, settings: Mapping[str, Any], default: Template) -> str:
    """The whole question of ``task``, asked by the method ``where``. default: the directory's template.

    Raises InvalidArgumentError for settings that would ask another question, PromptError for a verbatim template.
    """
    check_own(where, settings, default)
    return default_question(task)


def question_about(where: str, task: str, phrase: Any, settings: Mapping[str, Any], default: Template) -> str:
    """The question of ``task`` where ``phrase`` is, for a method that answers with boxes alone. Raises as
    ``own_question``, and for answers in a form that has no boxes."""
    if not isinstance(phrase, str) or not phrase.strip():
        what = "blank" if isinstance(phrase, str) else type(phrase).__name__
        raise PromptError(f"phrase is {what}, expected what to find, as text")
    for name in _FORMS:
        if settings.get(name) is not None:
            raise InvalidArgumentError(
                f"{name} is given to {where}(), whose answer is boxes, expected generate() for answers in that form"
            )
    check_own(where, settings, default)
    return default_question(task, phrase)


def check_own(where: str, settings: Mapping[str, Any], default: Template) -> None:
    """Raises as ``own_question``."""
    for name in _QUESTION:
        if settings.get(name) is not None:
            raise InvalidArgumentError(
                f"{name} is given to {where}(), which asks its own question, expected generate() for another"
            )
    template = get_template(default if settings.get("template") is None else settings["template"])
    if template.verbatim:
        raise PromptError(
            f"template is {template.name!r}, in which {where}() cannot write its question, expected another, or "
            "generate() with the prompt to the letter"
        )
