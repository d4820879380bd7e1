"""From a request to what a backend takes: the prompt's ids, encoded pictures, options, stop strings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checkpoint.directory import ModelDirectory
from ..errors import InvalidArgumentError, PromptError, UnsupportedError
from ..processing.boxes import format_box
from ..processing.image import ImageProcessor
from ..processing.prompt import default_question, encode_prompt, render, render_messages
from ..processing.templates import Template, get_template
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend, Prompt
from .answer import Timings
from .confidence import Calibration
from .constraints import BoxWriting, check_beams, choose_grammar
from .control import Control
from .decoding import Prepared
from .image_pages import check_place, opening_ids, opening_of, whole_pages
from .image_state import ImageState
from .request import Request, check_color, eos_ids, resolve_options, stop_strings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .. import _native


class Preparer:
    """Makes requests of one model directory ready. ``model_id`` is what image states must carry."""

    def __init__(
        self, directory: ModelDirectory, tokenizer: Tokenizer, model_id: str, calibration: Calibration | None = None
    ) -> None:
        self._directory = directory
        self._tokenizer = tokenizer
        self._model_id = model_id
        self._calibration = calibration
        self._writing = BoxWriting(tokenizer, directory.config.text.vocab_size)
        self.images = ImageProcessor.from_dict(directory.preprocessor) if directory.preprocessor else None

    def prepare(
        self, backend: Backend, request: Request, control: Control, timings: Timings, label: str | None = None
    ) -> Prepared:
        """Everything checked and every picture encoded. Raises Interrupted, InvalidArgumentError, ImageError, ..."""
        control.set_deadline(request.deadline_ms)
        check_color(request.color)
        template = get_template(self._directory.template if request.template is None else request.template)

        def encode(image: Any) -> ImageState:
            return self.encode(backend, image, request.color, control.check, timings)

        prompt, images = _prompt(request, template, encode)
        grammar = choose_grammar(request, template, self._writing)
        defaults, config = self._directory.generation_config, self._directory.config
        options = resolve_options(
            request,
            defaults,
            eos_ids=eos_ids(request, template, config.eos_token_id, defaults, config.text.vocab_size),
            bos_id=config.bos_token_id,
            pad_id=config.pad_token_id,
            grammar=grammar,
        )
        check_beams(options)
        stops = stop_strings(request, template, defaults)
        states = [encode(image) for image in images]
        segments = encode_prompt(prompt, self._tokenizer)
        if not states and not any(segments):
            raise PromptError("prompt is empty and there is no image, expected at least one token")
        pages = self._pages(states, segments[0])
        made = Prompt.of(segments, [state.embeddings.numpy() for state in states], pages)
        room = config.text.max_positions - len(made)
        if room < 1:
            raise PromptError(f"the prompt is {len(made)} tokens, expected < {config.text.max_positions}")
        control.check()
        return Prepared(
            prompt=made,
            image_tokens=sum(state.embeddings.shape[0] for state in states),
            sizes=[(state.width, state.height) for state in states],
            options=replace(options, max_new_tokens=min(options.max_new_tokens, room)),
            template=template,
            stops=stops,
            label=label,
            timings=timings,
            control=control,
            calibration=self._calibration,
        )

    def encode(
        self, backend: Backend, image: Any, color: str, check: Callable[[], None], timings: Timings
    ) -> ImageState:
        """``image`` through the vision side; an ImageState of this model as it is."""
        if isinstance(image, ImageState):
            check_color(color)
            self._check_state(backend, image)
            return image
        if self.images is None:
            raise UnsupportedError("this model is text-only: it takes no image")
        began = time.perf_counter()
        picture = _Picture(self.images.load(image, color), self.images)  # type: ignore[arg-type]
        opened = time.perf_counter()
        embeddings = backend.encode_image(picture, check)
        encoded = time.perf_counter()
        timings.preprocess += 1e3 * (opened - began + picture.seconds)
        timings.vision += 1e3 * (encoded - opened - picture.seconds)
        return ImageState(embeddings, *picture.image.size, model_id=self._model_id)

    def add_pages(
        self, backend: Backend, state: ImageState, template: str | Template | None, check: Callable[[], None]
    ) -> ImageState:
        """``state`` with the pages of ``template`` (None: the directory's), which are computed unless it has them."""
        chosen = get_template(self._directory.template if template is None else template)
        opening = opening_ids(chosen, self._tokenizer)
        if state.pages is not None and opening_of(state.pages) == opening:
            return state
        prompt = whole_pages(opening, state.embeddings.numpy())
        return replace(state, pages=backend.read_pages(prompt, check))

    def _pages(self, states: Sequence[ImageState], before: Sequence[int]) -> _native.PrefixPages | None:
        """The pages that a prompt with these pictures, and the ids ``before`` the first, begins with."""
        for index, state in enumerate(states):
            if state.pages is not None:
                check_place(state.pages, index, before, self._tokenizer)
        return states[0].pages if states else None

    def _check_state(self, backend: Backend, state: ImageState) -> None:
        if state.model_id != self._model_id:
            raise InvalidArgumentError(
                f"image is a state of model {state.model_id[:12]!r}, expected one of {self._model_id[:12]!r}"
            )
        width = self._directory.config.text.width
        if state.embeddings.shape[1] != width:
            raise InvalidArgumentError(f"image is a state of width {state.embeddings.shape[1]}, expected C={width}")
        if state.pages is not None:
            backend.check_pages(state.pages)


class _Picture:
    """An opened picture whose pixels are computed when asked for; ``seconds`` is what that took."""

    def __init__(self, image: Image, processor: ImageProcessor) -> None:
        self.image = image
        self.seconds = 0.0
        self._processor = processor

    def pixels(self) -> Tensor:
        """float32 [3, S, S]."""
        began = time.perf_counter()
        out = self._processor.pixels(self.image)
        self.seconds += time.perf_counter() - began
        return out


def _prompt(request: Request, template: Template, encode: Callable[[Any], ImageState]) -> tuple[str, list[Any]]:
    """The prompt string and its pictures, in order."""
    given = request.image if isinstance(request.image, (list, tuple)) else [request.image]
    images = [image for image in given if image is not None]
    if request.messages is not None:
        if request.prompt is not None:
            raise PromptError("both prompt and messages are given, expected one of them")
        if request.box is not None:
            raise InvalidArgumentError("both box and messages are given, expected box with task='identify' and image")
        rendered, named = render_messages(request.messages, template=template, task=request.task)
        queue = iter(images)
        pictures = [next(queue, None) if image is None else image for image in named]
        if None in pictures or next(queue, None) is not None:
            raise PromptError(f"image has {len(images)} entries, expected one per image part that names no picture")
        return rendered, pictures
    prompt = request.prompt
    if request.box is not None:
        prompt = _with_box(request, images, encode)
    if prompt is None:
        if request.task is None:
            raise PromptError("prompt is None, expected text (or messages, or a task with its own question)")
        prompt = ""
    return render(prompt, images=len(images), template=template, task=request.task), images


def _with_box(request: Request, images: list[Any], encode: Callable[[Any], ImageState]) -> str:
    """The question with the box written into it; puts the encoded picture in ``images``, so it is opened once."""
    if request.task != "identify" or len(images) != 1:
        raise InvalidArgumentError("box is given, expected task='identify' and exactly one image with it")
    images[0] = state = encode(images[0])
    written = format_box(request.box, state.width, state.height)
    question = request.prompt
    return default_question("identify", written) if question is None else f"{question} {written}"
