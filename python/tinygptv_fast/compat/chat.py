"""The original's ``Chat`` (minigpt4/conversation/conversation.py): ``upload_img``, ``encode_img``, ``ask``, ``answer``.

For code written for it. State lies where it lies in the original, in the conversation and the list of pictures that the
caller holds; ``TinyGPTV.chat`` is the tidy form.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, PromptError
from ..generate.image_state import ImageState
from ..processing.prompt import encode_prompt
from .conversation import Conversation
from .original import HIDDEN_TOP_K, SEPARATOR, Sampling
from .pictures import encode

if TYPE_CHECKING:
    import numpy as np

    from ..generate.answer import Answer, Piece
    from ..generate.model import TinyGPTV

RECEIVED = "Received."
_LOG = logging.getLogger("tinygptv_fast")


class Chat:
    """Asks ``model`` (a ``TinyGPTV`` or an ``OriginalModel``) what a conversation says.

    ``vis_processor``, ``device`` and ``stopping_criteria`` are accepted and have no effect: the model has its own.
    quirks: keep what the original does wrong. Only the token "###" ends an answer, not the text; text is decoded with
    the slow tokenizer's spaces; ids come with the BOS in front that was never fed. Fixed either way: pictures of any
    mode are taken, every picture is encoded once however many there are, a failed answer leaves no empty message, a
    stream whose model fails raises, and a conversation that is too long loses its oldest turns, where the original
    cuts embeddings off the front, through a picture if it must.
    """

    def __init__(
        self,
        model: Any,
        vis_processor: Any = None,
        device: Any = None,
        stopping_criteria: Any = None,
        *,
        quirks: bool = False,
    ) -> None:
        del vis_processor, device, stopping_criteria
        self.model: TinyGPTV = getattr(model, "model", model)
        self.quirks = quirks

    def upload_img(self, image: Any, conv: Conversation, img_list: list[Any]) -> str:
        """Put a picture (path, bytes, PIL, array, pixels [3, S, S], ImageState) into the conversation."""
        conv.add_image()
        img_list.append(image)
        return RECEIVED

    def encode_img(self, img_list: list[Any]) -> None:
        """Replace every picture in the list by its visual tokens; those that are tokens already stay."""
        img_list[:] = [encode(self.model, image) for image in img_list]

    def ask(self, text: str, conv: Conversation) -> None:
        """Add a question; it joins a picture uploaded right before it."""
        if not isinstance(text, str):
            raise PromptError(f"text is {type(text).__name__}, expected a string")
        conv.ask(text)

    def answer(
        self,
        conv: Conversation,
        img_list: list[Any],
        max_new_tokens: int = 300,
        num_beams: int = 1,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.05,
        length_penalty: float = 1,
        temperature: float = 1.0,
        max_length: int = 2000,
        *,
        do_sample: bool = True,
        top_k: int | None = HIDDEN_TOP_K,
        seed: int | None = None,
    ) -> tuple[str, np.ndarray]:
        """The answer and its ids, int64 [T]; the conversation takes the answer in.

        max_length: of prompt and answer together; older turns are left out above it. ``do_sample``, ``top_k`` (the
        original's hidden default) and ``seed`` are ours. Raises what ``TinyGPTV.generate`` raises.
        """
        import numpy as np

        sampling = Sampling(
            num_beams, max_new_tokens, min_length, top_p, repetition_penalty, length_penalty, temperature, do_sample,
            top_k, seed,
        )  # fmt: skip
        request = self._prepare(conv, img_list, sampling, max_length)
        answer = self.model.generate(**request)
        text = self._text(answer)
        conv.append_message(conv.roles[1], text)
        bos = [self.model.config.bos_token_id] if self.quirks and self.model.config.bos_token_id is not None else []
        return text, np.array([*bos, *answer.token_ids], dtype=np.int64)

    def stream_answer(
        self,
        conv: Conversation,
        img_list: list[Any],
        max_new_tokens: int = 300,
        num_beams: int = 1,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.05,
        length_penalty: float = 1,
        temperature: float = 1.0,
        max_length: int = 2000,
        *,
        do_sample: bool = True,
        top_k: int | None = HIDDEN_TOP_K,
        seed: int | None = None,
    ) -> Generator[str, None, None]:
        """``answer`` piece by piece. The conversation gets its new message with the first piece, and the text in it
        with the last, unless the caller has written one; an error or an early close takes the message out again."""
        sampling = Sampling(
            num_beams, max_new_tokens, min_length, top_p, repetition_penalty, length_penalty, temperature, do_sample,
            top_k, seed,
        )  # fmt: skip
        pieces = self.model.stream(**self._prepare(conv, img_list, sampling, max_length))
        return self._told(conv, pieces)

    def _told(self, conv: Conversation, pieces: Generator[Piece, None, None]) -> Generator[str, None, None]:
        message: list[Any] = [conv.roles[1], None]
        conv.messages.append(message)
        whole = False
        try:
            for piece in pieces:
                if piece.answer is not None:
                    whole = True
                    if message[1] is None:  # else the caller has written it already
                        message[1] = self._text(piece.answer)
                if piece.text:
                    yield piece.text
        finally:
            pieces.close()
            if not whole:
                conv.messages[:] = [one for one in conv.messages if one is not message]

    def _prepare(self, conv: Conversation, img_list: list[Any], sampling: Sampling, max_length: int) -> dict[str, Any]:
        """Arguments of ``TinyGPTV.generate`` for the next answer of ``conv``, which stays as it is."""
        if not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 2:
            raise InvalidArgumentError(f"max_length is {max_length!r}, expected an integer >= 2")
        asked = conv.copy()
        asked.begin_answer()
        pictures = [self._seen(image) for image in img_list]
        room = min(max_length, self.model.prompt_room)
        prompt, dropped = asked.prompt(), 0
        while self._tokens(prompt, pictures) + min(sampling.max_new_tokens, room - 1) > room:
            shorter = asked.without_oldest_turn()
            if len(shorter.messages) == len(asked.messages):
                break  # one turn is left: what does not fit now is an error of generate's
            asked, dropped = shorter, dropped + 1
            prompt = asked.prompt()
        if dropped:
            _LOG.warning("the conversation is too long for max_length=%d: left out %d old turns", room, dropped)
        ends = {"eos_token_id": self._separator_ids()} | ({} if self.quirks else {"stop": [SEPARATOR]})
        return {"image": pictures, "prompt": prompt, **sampling.settings(), **ends}

    def _seen(self, image: Any) -> ImageState:
        if not isinstance(image, ImageState):
            raise InvalidArgumentError(
                f"img_list holds {type(image).__name__}, expected pictures encoded by encode_img(img_list)"
            )
        return image

    def _tokens(self, prompt: str, pictures: list[ImageState]) -> int:
        words = sum(map(len, encode_prompt(prompt, self.model.tokenizer)))
        return words + sum(len(picture.embeddings) for picture in pictures)

    def _separator_ids(self) -> list[int]:
        """The one token of "###", if it is one, and outside ``quirks`` the model's own end."""
        ids = self.model.tokenizer.encode(SEPARATOR)
        own = self.model.config.eos_token_id
        return [*(ids if len(ids) == 1 else []), *([] if self.quirks or own is None else [own])]

    def _text(self, answer: Answer) -> str:
        text = self.model.tokenizer.decode_slow(answer.token_ids) if self.quirks else answer.text
        return text.split(SEPARATOR)[0].split("Assistant:")[-1].strip()
