"""What was said in a chat: turns, the messages they make, how many fit a prompt, and the whole as json.

Knows turns and templates; decodes nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, PromptError
from ..processing.templates import TEMPLATES, Template
from .image_state import ImageState

KIND, SCHEMA_VERSION = "tinygptv_chat", 1
MAX_FILE_BYTES = 1 << 30
_PLAIN = Template("plain")  # for the types of a template's fields


@dataclass(frozen=True)
class Turn:
    """One question and its answer. ``pictures`` came with this question."""

    question: str
    answer: str | None = None  # None: the question being asked
    pictures: tuple[ImageState, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """``pictures`` are what the chat is about: they stay when old turns are left out. ``turns``: oldest first."""

    pictures: tuple[ImageState, ...] = ()
    turns: tuple[Turn, ...] = ()
    system: str | None = None

    def messages(self, first: int = 0) -> list[dict[str, Any]]:
        """Turns from ``first`` on in the form of ``generate(messages=)``; the chat's pictures come with the first."""
        out: list[dict[str, Any]] = []
        if self.system is not None:
            out.append({"role": "system", "content": self.system})
        for index, turn in enumerate(self.turns[first:]):
            pictures = turn.pictures if index else self.pictures + turn.pictures
            parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
            out.append({"role": "user", "content": [*parts, {"type": "text", "text": turn.question}]})
            if turn.answer is not None:
                out.append({"role": "assistant", "content": turn.answer})
        return out

    def first_that_fits(self, first: int, room: int, reserve: int, count: Callable[[Transcript, int], int]) -> int:
        """The first turn from ``first`` on with which the prompt leaves ``reserve`` of ``room`` positions: whole turns
        go, the oldest first, never the last. ``count(self, first)`` is a prompt's length in tokens.

        Raises PromptError if the last turn alone leaves no room for any answer.
        """
        last = len(self.turns) - 1
        while (size := count(self, first)) + reserve > room and first < last:
            first += 1
        if size >= room:
            pictures = len(self.pictures) + len(self.turns[last].pictures)
            raise PromptError(
                f"text makes a prompt of {size} tokens with {pictures} picture{'s' * (pictures != 1)}, expected < "
                f"{room}: shorten it, or begin a new chat with fewer pictures"
            )
        return first


def said(answer: str, template: Template) -> str:
    """``answer`` as history: marks by which it could open a picture or a turn of its own are taken out."""
    while (mark := template.reserved_in(answer)) is not None:
        answer = answer.replace(mark, "")
    return answer


def save_transcript(
    path: str | os.PathLike[str], transcript: Transcript, template: Template | None, settings: Mapping[str, Any]
) -> None:
    """Write json, pictures as their visual tokens; a reader sees the old file or the whole new one."""
    pictures: list[dict[str, Any]] = []

    def numbers(states: Sequence[ImageState]) -> list[int]:
        pictures.extend(_picture_to_json(state) for state in states)
        return list(range(len(pictures) - len(states), len(pictures)))

    data = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "template": _template_to_json(template),
        "system": transcript.system,
        "settings": dict(settings),
        "about": numbers(transcript.pictures),
        "turns": [
            {"question": turn.question, "answer": turn.answer, "pictures": numbers(turn.pictures)}
            for turn in transcript.turns
        ],
        "pictures": pictures,
    }
    text = json.dumps(data, ensure_ascii=False, indent=1)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_transcript(path: str | os.PathLike[str]) -> tuple[Transcript, Template | str | None, dict[str, Any]]:
    """What ``save_transcript`` wrote: transcript, template, settings. Raises CheckpointError for anything else."""
    data = _read(Path(path))
    try:
        states = [_picture_from_json(picture) for picture in data["pictures"]]

        def named(numbers: Any) -> tuple[ImageState, ...]:
            if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < len(states) for n in numbers):
                raise ValueError(f"pictures {numbers!r} of {len(states)}")
            return tuple(states[number] for number in numbers)

        turns = tuple(
            Turn(_text(turn["question"]), _text(turn["answer"]), named(turn["pictures"])) for turn in data["turns"]
        )
        system = None if data["system"] is None else _text(data["system"])
        template, settings = data["template"], data["settings"]
        if isinstance(template, dict):
            template = _template_from_json(template)
        if not isinstance(settings, dict) or not (template is None or isinstance(template, (str, Template))):
            raise ValueError("template or settings")
        return Transcript(named(data["about"]), turns, system), template, settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is a damaged chat file ({type(error).__name__}: {error})") from None


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES} bytes, expected a chat file")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("kind") != KIND or data.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(f"{path} is not a chat file of version {SCHEMA_VERSION}, which Chat.save writes")
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text was expected")
    return value


def _template_to_json(template: Template | None) -> Any:
    if template is None or TEMPLATES.get(template.name) == template:
        return None if template is None else template.name
    return dataclasses.asdict(template)


def _template_from_json(data: Mapping[str, Any]) -> Template:
    kinds: dict[str, type] = {field.name: type(getattr(_PLAIN, field.name)) for field in dataclasses.fields(Template)}
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    for key, value in values.items():
        texts = value if isinstance(value, tuple) else ()
        if type(value) is not kinds[key] or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"template.{key} is {value!r}")
    return Template(**values)


def _picture_to_json(state: ImageState) -> dict[str, Any]:
    rows = state.embeddings.contiguous().numpy().astype("<f4", copy=False)
    return {
        "width": state.width,
        "height": state.height,
        "model_id": state.model_id,
        "shape": list(rows.shape),
        "embeddings": base64.b64encode(rows.tobytes()).decode("ascii"),
    }


def _picture_from_json(data: Mapping[str, Any]) -> ImageState:
    import numpy as np
    import torch

    rows = np.frombuffer(base64.b64decode(_text(data["embeddings"]), validate=True), "<f4")
    shape = data["shape"]
    width, height = data["width"], data["height"]
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ValueError(f"a picture of {width!r}x{height!r} pixels")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"embeddings of shape {shape!r}")
    embeddings = torch.from_numpy(rows.astype(np.float32).reshape(shape))
    return ImageState(embeddings, width, height, _text(data["model_id"]))
