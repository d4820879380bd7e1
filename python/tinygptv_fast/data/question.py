"""A question about a drawn picture with its true answer, and what a scorer needs besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One earlier question of a dialogue, with its task and true answer."""

    task: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Question:
    """``prompt`` is the text after the picture, without its task tag; ``task`` is the tag's word.

    ``history``: the earlier turns of a dialogue, which the prompt may lean on ("And its colour?").
    ``refusal``: the true answer says that what is asked about is not there or not known.
    ``wording``: the prompt with its slots unfilled, as ``world.wordings`` lists it; "" where it has none.
    """

    kind: str
    task: str
    prompt: str
    answer: str
    history: tuple[Turn, ...] = ()
    refusal: bool = False
    wording: str = ""

    def messages(self) -> list[dict[str, Any]]:
        """The dialogue for ``generate(messages=...)``, every turn tagged; the picture is still to be filled in."""
        out: list[dict[str, Any]] = []
        for turn in self.history:
            out.append({"role": "user", "content": [{"type": "text", "text": f"[{turn.task}] {turn.prompt}"}]})
            out.append({"role": "assistant", "content": turn.answer})
        out.append({"role": "user", "content": [{"type": "text", "text": f"[{self.task}] {self.prompt}"}]})
        out[0]["content"].insert(0, {"type": "image"})
        return out
