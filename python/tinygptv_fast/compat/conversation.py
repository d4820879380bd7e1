"""The original's conversation object: how pictures and questions pile up into a prompt (conversation.py).

``processing.templates`` is the tidy form. This one keeps what that one refuses: a message of the wrong role, a second
picture right after the first, and an empty message that is rendered as if it were still to come.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..processing.templates import IMAGE_MARKUP, PLACEHOLDER, TEMPLATES


@dataclass
class Conversation:
    """Messages of one chat. ``sep2`` set is the original's style TWO: it ends every second message."""

    system: str
    roles: tuple[str, str]
    sep: str
    sep2: str | None = None
    messages: list[list[Any]] = field(default_factory=list)  # [role, text], text None while it is still to come

    def add_image(self) -> None:
        """A picture: a user message of its own, which the next question joins."""
        self.messages.append([self.roles[0], IMAGE_MARKUP])

    def ask(self, text: str) -> None:
        """A question: joined by one space to a user message that ends in a picture, else a message of its own."""
        role, last = self.messages[-1] if self.messages else ("", None)
        if role == self.roles[0] and last and last.endswith("</Img>"):
            self.messages[-1] = [role, f"{last} {text}"]
        else:
            self.messages.append([self.roles[0], text])

    def begin_answer(self) -> None:
        """The assistant's turn begins: its prefix ends the prompt."""
        self.messages.append([self.roles[1], None])

    def finish_answer(self, text: str) -> None:
        """Fills in the answer begun last."""
        self.messages[-1] = [self.messages[-1][0], text]

    def prompt(self) -> str:
        """Everything so far as one string. An empty message counts as one still to come, and gets no separator."""
        ends = (self.sep, self.sep if self.sep2 is None else self.sep2)
        pieces = [self.system, self.sep]
        for index, (role, text) in enumerate(self.messages):
            pieces += [role, text, ends[index % 2]] if text else [role]
        return "".join(pieces)

    def append_message(self, role: str, message: str | None) -> None:
        """The original's name for what ``add_image``, ``ask`` and ``begin_answer`` do."""
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """``prompt`` under the original's name."""
        return self.prompt()

    def copy(self) -> Conversation:
        """A conversation of its own that has said the same."""
        return replace(self, messages=[list(message) for message in self.messages])

    def without_oldest_turn(self) -> Conversation:
        """A copy without its first question and answer, whose pictures go to the next question instead. The last
        question stays: then the copy is equal to this one."""
        answers = [index for index, (role, _) in enumerate(self.messages) if role == self.roles[1]]
        short = self.copy()
        if len(answers) < 2:
            return short
        gone, short.messages = short.messages[: answers[0] + 1], short.messages[answers[0] + 1 :]
        pictures = sum((text or "").count(PLACEHOLDER) for _, text in gone)
        if pictures:
            role, text = short.messages[0]
            short.messages[0] = [role, " ".join([IMAGE_MARKUP] * pictures + [text])]
        return short


_SYSTEM = TEMPLATES["vicuna"].system
_ROLES = ("Human: ", "Assistant: ")
_FORMS: dict[str, tuple[str, tuple[str, str], str]] = {
    "vicuna0": (_SYSTEM, _ROLES, "###"),
    "llama2": (_SYSTEM, _ROLES, "###"),
    "minigptv2": ("", _ROLES, "###"),
    "inst": ("", ("<s>[INST] ", " [/INST]"), ""),
}
CONVERSATIONS = MappingProxyType(_FORMS)
"""(system, roles, sep) of the original's CONV_VISION_Vicuna0, _LLama2, _minigptv2 and demo_v2.py's CONV_VISION."""


def new_conversation(name: str) -> Conversation:
    """An empty conversation of ``CONVERSATIONS[name]``."""
    system, roles, sep = CONVERSATIONS[name]
    return Conversation(system, roles, sep)


CONV_VISION_Vicuna0 = new_conversation("vicuna0")
CONV_VISION_LLama2 = new_conversation("llama2")
CONV_VISION_minigptv2 = new_conversation("minigptv2")
CONV_VISION = new_conversation("inst")
"""The original's conversations under its names; ``copy()`` one to begin a chat."""
