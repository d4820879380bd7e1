"""From what a user says (text, task, pictures, messages) to one prompt string, and its pieces around the pictures.

Knows templates and task tags; knows nothing of token ids beyond calling a tokenizer, and never opens a picture.

The text on either side of ``<ImageHere>`` must be tokenised separately: joining first gives other ids than the model
was trained on (original: minigpt4/models/minigpt_base.py, get_context_emb).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ..errors import PromptError
from .templates import IMAGE_MARKUP, PLACEHOLDER, Template, get_template


@dataclass(frozen=True)
class Task:
    """One task identifier and the wordings the original uses with it.

    ``default``: the wording when a method like ``caption()`` builds the whole question; ``{}`` takes the argument.
    ``evaluation`` and ``training``: the original's pools, for reproducing its scores and for fine-tuning.
    ``writes_boxes``: whether its answers say where things are.
    """

    name: str
    tag: str
    default: str
    evaluation: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    writes_boxes: bool = False

    @property
    def needs_text(self) -> bool:
        """Whether the default wording has a place for an argument."""
        return "{}" in self.default


_SHORT_ANSWER = "Based on the image, respond to this question with a short answer: {}"

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(
                "vqa",
                "[vqa]",
                "{}",
                evaluation=(
                    _SHORT_ANSWER,
                    "The question is '{}' Based on the image, answer the question with a single word or phrase. "
                    "and reply 'unanswerable' when the provided information is insufficient",
                    "Based on the image, is this statement true or false? {}",
                ),
                training=("{}", _SHORT_ANSWER),
            ),
            Task(
                "caption",
                "[caption]",
                "please describe this image?",
                evaluation=("please describe this image?",),
                training=("A short image caption:",),
            ),
            Task(
                "refer",
                "[refer]",
                "give me the location of {}",
                evaluation=("give me the location of {}",),
                training=(
                    "{}",
                    "give me the location of {}",
                    "where is {} ?",
                    "from this image, tell me the location of {}",
                    "the location of {} is",
                    "could you tell me the location for {} ?",
                    "where can I locate the {} ?",
                ),
                writes_boxes=True,
            ),
            Task(
                "identify",
                "[identify]",
                "what object is in this location {}",
                training=(
                    "{}",
                    "what object is in this location {}",
                    "identify the object present at this location {}",
                    "what is it in {}",
                    "describe this object in {}",
                    "this {} is",
                    "the object in {} is",
                ),
            ),
            Task(
                "grounding",
                "[grounding]",
                "please describe this image in details",
                training=(
                    "please describe this image in details",
                    "describe this image as detailed as possible",
                    "summarize this image in details",
                    "give a thorough description of what you see in this image",
                ),
                writes_boxes=True,
            ),
            Task("detection", "[detection]", "{}", training=("{}",), writes_boxes=True),
        )
    }
)
"""The six task identifiers of the paper (appendix A), by name. Wordings are without the tag."""

HATEFUL_MEMES = "This is an image writting '{}'. Is this image hateful? Answer yes or no. Answer:"
"""The one evaluation wording of the original that carries no tag (its spelling is the original's)."""


class Encoder(Protocol):
    """What ``encode_prompt`` needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...


def get_task(task: str) -> Task:
    """The named task. Raises ``PromptError`` listing the names."""
    if not isinstance(task, str) or task not in TASKS:
        raise PromptError(f"task is {task!r}, expected None or one of {', '.join(map(repr, TASKS))}")
    return TASKS[task]


def task_text(task: str | None, text: str) -> str:
    """``text`` with the tag of ``task`` in front ("[vqa] what is it?"); the tag is not doubled if it is there already.

    Raises ``PromptError`` if ``text`` begins with the tag of another task, or is blank where the task needs an
    argument; blank text takes the default wording where that is a whole question (caption, grounding).
    """
    if task is None:
        return text
    chosen = get_task(task)
    body = text.strip()
    for other in TASKS.values():
        if body.startswith(other.tag):
            if other is not chosen:
                raise PromptError(f"prompt begins with {other.tag} but task is {task!r}, expected one of the two")
            return text
    if body:
        return f"{chosen.tag} {text}"
    if chosen.needs_text:
        raise PromptError(f"prompt is blank, expected text: task {task!r} has no question of its own")
    return f"{chosen.tag} {chosen.default}"


def asks_for_boxes(text: str) -> bool:
    """Whether ``text`` begins with the tag of a task whose answers have boxes."""
    return text.lstrip().startswith(tuple(task.tag for task in TASKS.values() if task.writes_boxes))


def default_question(task: str, argument: str = "") -> str:
    """The tagged default wording of ``task`` about ``argument``: ``[refer] give me the location of the cup``."""
    chosen = get_task(task)
    if chosen.needs_text and not argument.strip():
        raise PromptError(f"the argument of task {task!r} is blank, expected text")
    return f"{chosen.tag} {chosen.default.replace('{}', argument)}"


def render(prompt: str, *, images: int = 0, template: str | Template, task: str | None = None) -> str:
    """One single-turn prompt, ready for ``split_images``.

    Outside "raw" the pictures stand in front of the question, in order, each as ``<Img><ImageHere></Img>`` followed
    by a space. In "raw" ``prompt`` is used to the letter and must hold one ``<ImageHere>`` per picture.

    Raises ``PromptError``: not a string; a placeholder, ``###`` or template marker in the text (outside "raw"); a
    ``task`` together with "raw"; placeholders and pictures that differ in number.
    """
    chosen = get_template(template)
    if not isinstance(prompt, str):
        raise PromptError(f"prompt is {type(prompt).__name__}, expected a string")
    if chosen.verbatim:
        if task is not None:
            raise PromptError(f"task is {task!r} with template {chosen.name!r}, which adds no tags; expected task=None")
        check_image_count(prompt, images)
        return prompt
    check_text(prompt, chosen, "prompt")
    return chosen.render([("user", " ".join([IMAGE_MARKUP] * images + [task_text(task, prompt)]))])


def render_messages(
    messages: Sequence[Mapping[str, Any]], *, template: str | Template, task: str | None = None
) -> tuple[str, list[Any]]:
    """A prompt from ``[{"role": "user", "content": "text" | [{"type": "image", ...}, {"type": "text", ...}]}, ...]``.

    Parts of one message are joined by single spaces. ``task`` tags the last message. Returns the prompt and the
    pictures in the order of their placeholders (the value under ``image``, ``path``, ``url`` or ``bytes`` of each
    image part, unopened; None for an image part that names no picture, to be supplied by the caller).

    Raises ``PromptError`` for a malformed message, a conversation that does not end with the user, and all that
    ``render`` refuses.
    """
    chosen = get_template(template)
    turns, pictures = read_messages(messages, chosen, task)
    if turns[-1][0] != "user":
        raise PromptError(f"messages ends with role {turns[-1][0]!r}, expected 'user'")
    text = chosen.render(turns)
    check_image_count(text, len(pictures))
    return text, pictures


def read_messages(
    messages: Sequence[Mapping[str, Any]], template: Template, task: str | None = None
) -> tuple[list[tuple[str, str]], list[Any]]:
    """The turns of ``messages`` for ``template.render``, whoever has the last word, and their pictures. ``task`` and
    errors as of ``render_messages``."""
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise PromptError(f"messages is {_short(messages)}, expected a non-empty list of {{'role', 'content'}}")
    pictures: list[Any] = []
    turns: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        last = index == len(messages) - 1
        turns.append(_turn(message, f"messages[{index}]", template, task if last else None, pictures))
    return turns, pictures


def split_images(prompt: str) -> list[str]:
    """The text before, between and after the ``<ImageHere>`` placeholders: always one more than there are pictures.

    Segments may be empty; an empty segment is no token at all.
    """
    return prompt.split(PLACEHOLDER)


def check_image_count(prompt: str, images: int) -> None:
    """Raises ``PromptError`` naming both numbers unless ``prompt`` has one placeholder per picture."""
    found = prompt.count(PLACEHOLDER)
    if found != images:
        raise PromptError(
            f"prompt has {found} {PLACEHOLDER} placeholder{'s' * (found != 1)} but {images} "
            f"image{'s were' if images != 1 else ' was'} given, expected as many"
        )


def encode_prompt(prompt: str, tokenizer: Encoder) -> list[list[int]]:
    """Token ids of each segment of ``split_images(prompt)``, tokenised apart. No BOS is ever added."""
    return [tokenizer.encode(segment) if segment else [] for segment in split_images(prompt)]


def check_text(text: str, template: Template, where: str) -> None:
    """Raises ``PromptError`` unless the user's own ``text`` (the argument ``where``) is a string without marks of
    ``template``."""
    if not isinstance(text, str):
        raise PromptError(f"{where} is {type(text).__name__}, expected a string")
    mark = template.reserved_in(text)
    if mark is not None:
        raise PromptError(
            f"{where} contains {mark!r}, which template {template.name!r} uses itself; expected text without it "
            f"(template='raw' takes a prompt to the letter)"
        )


def _turn(message: Any, where: str, template: Template, task: str | None, pictures: list[Any]) -> tuple[str, str]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise PromptError(f"{where} is {_short(message)}, expected a dict with 'role' and 'content'")
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise PromptError(f"{where}.role is {_short(role)}, expected 'system', 'user' or 'assistant'")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or isinstance(parts, (str, bytes)):
        raise PromptError(f"{where}.content is {_short(content)}, expected text or a list of parts")
    words: list[str] = []
    for number, part in enumerate(parts):
        words.append(_part(part, f"{where}.content[{number}]", role, template, pictures))
    if task is not None:
        _tag_last(words, parts, task, template)
    return role, ("" if template.verbatim else " ").join(words)


def _part(part: Any, where: str, role: str, template: Template, pictures: list[Any]) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        check_text(part["text"], template, where)
        return part["text"]
    if kind == "image" and role == "user":
        pictures.append(next((part[key] for key in ("image", "path", "url", "bytes") if key in part), None))
        return "" if template.verbatim else IMAGE_MARKUP
    if kind == "image":
        raise PromptError(f"{where} is an image in a {role} message, expected images in user messages only")
    raise PromptError(
        f"{where} is {_short(part)}, expected {{'type': 'text', 'text': ...}} or {{'type': 'image', ...}}"
    )


def _tag_last(words: list[str], parts: Sequence[Mapping[str, Any]], task: str, template: Template) -> None:
    """Puts the tag before the first text of the last message; a message of pictures alone gets the default wording."""
    if template.verbatim:
        raise PromptError(f"task is {task!r} with template {template.name!r}, which adds no tags; expected task=None")
    for index, part in enumerate(parts):
        if part["type"] == "text":
            words[index] = task_text(task, words[index])
            return
    words.append(task_text(task, ""))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
