"""``Chat``: a conversation about pictures. Each is encoded once; old turns give way when the context is full."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, PromptError, TinyGPTVError
from ..processing.prompt import check_text, encode_prompt, render_messages, task_text
from ..processing.templates import Template, get_template
from .answer import Answer, Piece
from .image_state import ImageState
from .names import check_names, check_path
from .request import DEFAULT_MAX_NEW_TOKENS, Request
from .transcript import Transcript, Turn, load_transcript, said, save_transcript

if TYPE_CHECKING:
    from .model import TinyGPTV

_OURS = ("image", "prompt", "messages", "template", "color", "box", "task")
"""Fields of a Request that a chat fills in itself, or that have no meaning in one."""
SETTINGS = tuple(field.name for field in dataclasses.fields(Request) if field.name not in _OURS)


class Chat:
    """A conversation with a model. Made by ``TinyGPTV.chat``; ask with ``ask``, ``stream``, ``aask`` or ``astream``.

    A turn enters the history when its answer is whole; one that raises, or whose stream is closed early, leaves no
    trace. When the prompt no longer fits, the oldest turns are left out, each with the pictures that came with it;
    ``Answer.dropped_turns`` says how many. The pictures the chat was made with always stay. One turn at a time: a
    second one begun meanwhile raises TinyGPTVError.
    """

    def __init__(
        self,
        model: TinyGPTV,
        transcript: Transcript,
        template: str | Template | None,
        settings: Mapping[str, Any],
    ) -> None:
        check_names("chat", settings, SETTINGS)
        self._model = model
        self._given = None if template is None else get_template(template)
        self._template = model.default_template if self._given is None else self._given
        if self._template.verbatim:
            raise PromptError(f"template is {self._template.name!r}, which has no turns; expected another for a chat")
        if transcript.system is not None:
            if not self._template.accepts_system:
                raise PromptError(f"system is given, which template {self._template.name!r} has no place for")
            check_text(transcript.system, self._template, "system")
        self._settings = dict(settings)
        self._transcript = transcript
        self._first = 0  # the oldest turn that is still in the prompt
        self._busy = threading.Lock()

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(
        self, text: str, *, image: Any = None, color: str = "rgb", task: str | None = None, **settings: Any
    ) -> Answer:
        """The answer to ``text``, which may refer to anything said or shown before.

        image: a picture (or a list of them) that comes with this question. ``settings``: those of ``generate``, over
        the ones given to ``TinyGPTV.chat``. Raises PromptError for text that cannot fit, and all that ``generate``
        raises.
        """
        with self._turn():
            turn = self._question(text, task, self._encode(image, color))
            first, request = self._request(turn, settings)
            return self._keep(turn, first, self._model.generate(**request))

    def stream(
        self, text: str, *, image: Any = None, color: str = "rgb", task: str | None = None, **settings: Any
    ) -> Generator[Piece, None, None]:
        """``ask`` piece by piece; the last piece carries the whole ``Answer``. Closing the iterator cancels."""
        with self._turn():
            turn = self._question(text, task, self._encode(image, color))
            first, request = self._request(turn, settings)
            pieces = self._model.stream(**request)
            try:
                for piece in pieces:
                    yield self._kept(turn, first, piece)
            finally:
                pieces.close()

    async def aask(
        self, text: str, *, image: Any = None, color: str = "rgb", task: str | None = None, **settings: Any
    ) -> Answer:
        """``ask`` for coroutines; cancelling the coroutine cancels the request."""
        with self._turn():
            turn = self._question(text, task, await self._aencode(image, color))
            first, request = self._request(turn, settings)
            return self._keep(turn, first, await self._model.agenerate(**request))

    async def astream(
        self, text: str, *, image: Any = None, color: str = "rgb", task: str | None = None, **settings: Any
    ) -> AsyncGenerator[Piece, None]:
        """``stream`` for coroutines. Leaving the loop early cancels the request."""
        with self._turn():
            turn = self._question(text, task, await self._aencode(image, color))
            first, request = self._request(turn, settings)
            async with aclosing(self._model.astream(**request)) as pieces:
                async for piece in pieces:
                    yield self._kept(turn, first, piece)

    # -- what was said ---------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All turns in the form of ``generate(messages=...)``, those left out of the prompt too."""
        return self._transcript.messages()

    @property
    def images(self) -> tuple[ImageState, ...]:
        """Every picture of the chat, in order."""
        later = [picture for turn in self._transcript.turns for picture in turn.pictures]
        return (*self._transcript.pictures, *later)

    @property
    def dropped_turns(self) -> int:
        """How many of the oldest turns the model no longer sees."""
        return self._first

    def __len__(self) -> int:
        return len(self._transcript.turns)

    def __repr__(self) -> str:
        return f"Chat({len(self)} turns, {len(self.images)} pictures, template {self._template.name!r})"

    def reset(self) -> None:
        """Forget all turns; the pictures the chat was made with stay."""
        with self._turn():
            self._transcript = replace(self._transcript, turns=())
            self._first = 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the chat as json, its pictures as visual tokens; ``TinyGPTV.load_chat`` goes on with it.

        Raises InvalidArgumentError for settings that json cannot hold, OSError if ``path`` cannot be written.
        """
        target = check_path("path", path)
        try:
            save_transcript(target, self._transcript, self._given, self._settings)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"a setting of the chat cannot be written as json ({error})") from None

    @classmethod
    def load(cls, model: TinyGPTV, path: str | os.PathLike[str]) -> Chat:
        """The chat that ``save`` wrote, with the same model. Raises CheckpointError, or InvalidArgumentError if its
        pictures were encoded by another model."""
        transcript, template, settings = load_transcript(check_path("path", path))
        chat = cls(model, transcript, template, settings)
        for state in chat.images:
            model.encode_image(state)  # checks whose it is
        return chat

    # -- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise TinyGPTVError("the chat has a turn under way: expected it to end, or its stream to be closed, first")
        try:
            yield
        finally:
            self._busy.release()

    def _encode(self, image: Any, color: str) -> tuple[ImageState, ...]:
        return tuple(self._model.encode_image(one, color=color) for one in pictures_of(image))

    async def _aencode(self, image: Any, color: str) -> tuple[ImageState, ...]:
        return tuple([await self._model.aencode_image(one, color=color) for one in pictures_of(image)])

    def _question(self, text: Any, task: str | None, pictures: tuple[ImageState, ...]) -> Turn:
        if not isinstance(text, str):
            raise PromptError(f"text is {type(text).__name__}, expected a string")
        check_text(text, self._template, "text")
        tagged = task_text(task, text)
        if not tagged.strip():
            raise PromptError("text is blank, expected a question")
        return Turn(tagged, None, pictures)

    def _request(self, turn: Turn, settings: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The first turn of the prompt, and the arguments of ``generate`` that ask ``turn`` after all from there on."""
        check_names("ask", settings, (*SETTINGS, "image", "color", "task"))
        chosen = {**self._settings, **settings}
        asked = replace(self._transcript, turns=(*self._transcript.turns, turn))
        reserve = chosen.get("max_new_tokens") or self._model.default_setting("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
        room = self._model.prompt_room
        whole = reserve if isinstance(reserve, int) else 1  # generate says what is wrong with it
        first = asked.first_that_fits(self._first, room, min(whole, room - 1), self._count)
        return first, {"messages": asked.messages(first), "template": self._given, **chosen}

    def _count(self, transcript: Transcript, first: int) -> int:
        """Tokens of the prompt with the turns from ``first`` on."""
        prompt, pictures = render_messages(transcript.messages(first), template=self._template)
        words = sum(map(len, encode_prompt(prompt, self._model.tokenizer)))
        return words + sum(len(picture.embeddings) for picture in pictures)

    def _keep(self, turn: Turn, first: int, answer: Answer) -> Answer:
        """Note the turn, unless nothing was said before a deadline or a cancel."""
        if answer.text or answer.finish_reason in ("stop", "length"):
            done = replace(turn, answer=said(answer.text, self._template))
            self._transcript = replace(self._transcript, turns=(*self._transcript.turns, done))
            self._first = first
        return replace(answer, dropped_turns=first)

    def _kept(self, turn: Turn, first: int, piece: Piece) -> Piece:
        return piece if piece.answer is None else replace(piece, answer=self._keep(turn, first, piece.answer))


def pictures_of(image: Any) -> Sequence[Any]:
    """One picture, several, or none, as a list."""
    if isinstance(image, (list, tuple)):
        return [one for one in image if one is not None]
    return [] if image is None else [image]
