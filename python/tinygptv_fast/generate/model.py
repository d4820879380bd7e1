"""``TinyGPTV``: load a directory, ask it about pictures."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.directory import ModelDirectory, open_directory
from ..errors import ClosedError, InvalidArgumentError, PromptError, UnsupportedError
from ..processing.boxes import Box, Boxes, format_box
from ..processing.image import ImageProcessor
from ..processing.prompt import default_question, encode_prompt, render, render_messages
from ..processing.templates import Template, get_template
from ..processing.tokenizer import Tokenizer
from .answer import Answer, Piece, Timings
from .decoding import Prepared, choose, decode, decode_pieces
from .image_state import ImageState
from .loading import check_settings, locate
from .reference_backend import ReferenceBackend
from .request import Request, eos_ids, resolve_options, stop_strings


class TinyGPTV:
    """A loaded model. Build one with ``from_pretrained``; any thread may call it; ``close`` frees it."""

    def __init__(self, directory: ModelDirectory, backend: ReferenceBackend, info: dict[str, Any]) -> None:
        self._directory = directory
        self._backend: ReferenceBackend | None = backend
        self._info = info
        self._tokenizer = Tokenizer.from_file(directory.tokenizer_file)
        self._images = ImageProcessor.from_dict(directory.preprocessor) if directory.preprocessor else None
        self._closing = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        quantization: str = "auto",
        kv_dtype: str = "auto",
        vision: bool = True,
        vision_dtype: str = "auto",
        load: str = "auto",
        threads: int | None = None,
        max_sequences: int = 8,
        kv_tokens: int | None = None,
        adapter: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        backend: str = "native",
    ) -> TinyGPTV:
        """Load a model directory (``tgv.convert`` makes one), the shipped 'demo', or a hub id.

        ``backend="reference"`` decodes in plain torch, exact and slow. The native engine is not part of this version
        yet: the default asks for it and raises UnsupportedError, so that nobody gets the slow path unasked.
        ``quantization`` other than "auto" must agree with the directory. Raises InvalidArgumentError (settings),
        CheckpointError (directory), UnsupportedError (valid but not available).
        """
        settings = check_settings(
            device=device,
            dtype=dtype,
            quantization=quantization,
            kv_dtype=kv_dtype,
            vision=vision,
            vision_dtype=vision_dtype,
            load=load,
            threads=threads,
            max_sequences=max_sequences,
            kv_tokens=kv_tokens,
            adapter=adapter,
            backend=backend,
        )
        path = locate(
            path_or_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        directory = open_directory(path)
        settings.check_directory(directory.config)
        if threads is not None:
            torch.set_num_threads(threads)
        with_vision = vision and directory.config.vision is not None
        reference = ReferenceBackend(directory, settings.dtype, vision=with_vision)
        info = settings.describe(path, directory, with_vision)
        return cls(directory, reference, info)

    # -- asking ----------------------------------------------------------------------------------------------------

    def generate(
        self, image: Any = None, prompt: str | None = None, *, logprobs: bool = True, **settings: Any
    ) -> Answer:
        """Answer ``prompt`` about ``image``.

        image: path | bytes | PIL | HWC RGB uint8 array (``color="bgr"`` for OpenCV) | ImageState | None (text only); a
        list is several pictures of one prompt, in order. Further settings are the fields of ``Request``: task,
        template, max_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, num_beams,
        length_penalty, num_return_sequences, min_length, eos_token_id, seed, stop, choices, box, deadline_ms,
        messages. Greedy unless ``do_sample=True`` or ``temperature > 0``. Raises InvalidArgumentError, ImageError,
        PromptError; ``logprobs`` is accepted for callers that name it, they are always returned.
        """
        del logprobs
        return self._run(Request.of({"image": image, "prompt": prompt, **settings}))

    def generate_batch(
        self, requests: Sequence[Request | Mapping[str, Any]], *, on_error: str = "raise"
    ) -> list[Answer | Exception]:
        """Answers in the order of ``requests``. ``on_error="return"`` puts the exception in its place instead."""
        if on_error not in ("raise", "return"):
            raise InvalidArgumentError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        out: list[Answer | Exception] = []
        for request in requests:
            try:
                out.append(self._run(Request.of(request)))
            except Exception as error:
                if on_error == "raise":
                    raise
                out.append(error)
        return out

    def stream(self, image: Any = None, prompt: str | None = None, **settings: Any) -> Iterator[Piece]:
        """The answer piece by piece; the last piece carries the whole ``Answer``. Closing the iterator cancels."""
        request = Request.of({"image": image, "prompt": prompt, **settings})
        if request.choices is not None or (request.num_beams or 1) > 1:
            raise InvalidArgumentError("stream takes neither choices nor num_beams, expected greedy or sampling")
        work = self._prepare(request)
        return decode_pieces(self._running(), self._tokenizer, work)

    def rank(self, image: Any, prompt: str, candidates: Sequence[str], **settings: Any) -> list[Answer]:
        """``candidates`` as answers, the one with the highest mean token log-probability first.

        Each candidate is scored with the template's end symbol; ``probability`` is that of the whole candidate.
        """
        if isinstance(candidates, str) or not candidates or not all(isinstance(c, str) and c for c in candidates):
            raise InvalidArgumentError(f"candidates is {str(candidates)[:60]!r}, expected a list of non-empty strings")
        work = self._prepare(Request.of({"image": image, "prompt": prompt, **settings}))
        end = work.template.stop[0] if work.template.stop else ""
        ids = [(text, self._tokenizer.encode(text + end)) for text in candidates]
        return choose(self._running(), work, ids)

    def caption(self, image: Any, **settings: Any) -> Answer:
        """A short caption."""
        return self.generate(image, default_question("caption"), **settings)

    def describe(self, image: Any, **settings: Any) -> Answer:
        """A description with boxes for its phrases (``[grounding]``)."""
        return self.generate(image, default_question("grounding"), **settings)

    def refer(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """Where ``phrase`` is: boxes labelled with it. ``ground`` is the same."""
        return self._run(
            Request.of({"image": image, "prompt": default_question("refer", phrase), **settings}), phrase
        ).boxes

    ground = refer

    def detect(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """All of ``phrase``: boxes labelled with it."""
        question = default_question("detection", phrase)
        return self._run(Request.of({"image": image, "prompt": question, **settings}), phrase).boxes

    def identify(self, image: Any, box: Box | Sequence[float], **settings: Any) -> Answer:
        """What is in ``box`` (pixels of the upright picture)."""
        return self.generate(image, None, box=box, task="identify", **settings)

    def encode_image(self, image: Any, *, color: str = "rgb") -> ImageState:
        """Run the vision side once; ask about the result as often as you like."""
        return self._encode(image, color, Timings())

    def logits(self, images: Any, prompt: str, template: str | Template = "raw") -> Tensor:
        """Float32 [T, V]: the logits at every position of the prompt, visual tokens included."""
        work = self._prepare(Request(image=images, prompt=prompt, template=template))
        return self._running().logits(work.inputs_embeds)

    # -- about -----------------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded and how: path, backend, device, dtypes, quantisation, sizes, content id."""
        return dict(self._info)

    @property
    def config(self) -> Any:
        """The directory's ``ModelConfig``."""
        return self._directory.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Copy the model directory to ``directory`` (new or empty), atomically."""
        target = Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidArgumentError(f"directory {target} exists and is not empty, expected a new one")
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            shutil.copytree(self._directory.path, partial)
            if target.exists():
                target.rmdir()
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Free the weights; every later call raises ClosedError. Closing twice is fine."""
        with self._closing:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> TinyGPTV:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _running(self) -> ReferenceBackend:
        backend = self._backend
        if backend is None:
            raise ClosedError("the model is closed")
        return backend

    def _run(self, request: Request, label: str | None = None) -> Answer:
        if request.choices is not None:
            settings = {k: v for k, v in vars(replace(request, choices=None)).items() if v is not None}
            image, prompt = settings.pop("image", None), settings.pop("prompt", "")
            best, *others = self.rank(image, prompt, request.choices, **settings)
            return replace(best, alternatives=others)
        work = self._prepare(request, label)
        return decode(self._running(), self._tokenizer, work)

    def _prepare(self, request: Request, label: str | None = None) -> Prepared:
        backend, started, timings = self._running(), time.perf_counter(), Timings()
        template = get_template(self._directory.template if request.template is None else request.template)
        prompt, images = self._prompt(request, template, timings)
        defaults, config = self._directory.generation_config, self._directory.config
        options = resolve_options(
            request,
            defaults,
            eos_ids=eos_ids(request, template, config.eos_token_id, defaults),
            bos_id=config.bos_token_id,
            pad_id=config.pad_token_id,
        )
        states = [self._encode(image, request.color, timings) for image in images]
        segments = encode_prompt(prompt, self._tokenizer)
        if not states and not any(segments):
            raise PromptError("prompt is empty and there is no image, expected at least one token")
        embeds = backend.embed(segments, [state.embeddings for state in states])
        room = config.text.max_positions - embeds.shape[0]
        if room < 1:
            raise PromptError(f"the prompt is {embeds.shape[0]} tokens, expected < {config.text.max_positions}")
        deadline = None if request.deadline_ms is None else started + _milliseconds(request.deadline_ms) / 1e3
        return Prepared(
            inputs_embeds=embeds,
            image_tokens=sum(state.embeddings.shape[0] for state in states),
            sizes=[(state.width, state.height) for state in states],
            options=replace(options, max_new_tokens=min(options.max_new_tokens, room)),
            template=template,
            stops=stop_strings(request, template, defaults),
            label=label,
            timings=timings,
            started=started,
            deadline=deadline,
        )

    def _prompt(self, request: Request, template: Template, timings: Timings) -> tuple[str, list[Any]]:
        """The prompt string and its pictures, in order."""
        given = request.image if isinstance(request.image, (list, tuple)) else [request.image]
        images = [image for image in given if image is not None]
        if request.messages is not None:
            if request.prompt is not None:
                raise PromptError("both prompt and messages are given, expected one of them")
            rendered, named = render_messages(request.messages, template=template, task=request.task)
            queue = iter(images)
            pictures = [next(queue, None) if image is None else image for image in named]
            if None in pictures or next(queue, None) is not None:
                raise PromptError(f"image has {len(images)} entries, expected one per image part that names no picture")
            return rendered, pictures
        prompt = request.prompt
        if request.box is not None:
            prompt = self._with_box(request, images, timings)
        if prompt is None:
            if request.task is None:
                raise PromptError("prompt is None, expected text (or messages, or a task with its own question)")
            prompt = ""
        return render(prompt, images=len(images), template=template, task=request.task), images

    def _with_box(self, request: Request, images: list[Any], timings: Timings) -> str:
        """The question with the box written into it; puts the encoded picture in ``images``, so it is opened once."""
        if request.task != "identify" or len(images) != 1:
            raise InvalidArgumentError("box is given, expected task='identify' and exactly one image with it")
        images[0] = state = self._encode(images[0], request.color, timings)
        written = format_box(request.box, state.width, state.height)
        question = request.prompt
        return default_question("identify", written) if question is None else f"{question} {written}"

    def _pictures(self) -> ImageProcessor:
        if self._images is None:
            raise UnsupportedError("this model is text-only: it takes no image")
        return self._images

    def _encode(self, image: Any, color: str, timings: Timings) -> ImageState:
        backend, began = self._running(), time.perf_counter()
        if isinstance(image, ImageState):
            self._check_state(image)
            return image
        pictures = self._pictures()
        picture = pictures.load(image, color)  # type: ignore[arg-type]
        pixels = pictures.pixels(picture)
        decoded = time.perf_counter()
        embeddings = backend.encode_image(pixels)
        timings.preprocess += 1e3 * (decoded - began)
        timings.vision += 1e3 * (time.perf_counter() - decoded)
        return ImageState(embeddings, *picture.size, model_id=self._info["model_id"])

    def _check_state(self, state: ImageState) -> None:
        if state.model_id != self._info["model_id"]:
            raise InvalidArgumentError(
                f"image is a state of model {state.model_id[:12]!r}, expected one of {self._info['model_id'][:12]!r}"
            )


def _milliseconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise InvalidArgumentError(f"deadline_ms is {value!r}, expected a number > 0")
    return float(value)
