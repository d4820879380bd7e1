"""``TinyGPTV``: load a directory, ask it about pictures."""

from __future__ import annotations

import inspect
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.directory import UNTRAINED, ModelDirectory, open_directory
from ..errors import CheckpointError, ClosedError, InvalidArgumentError
from ..processing.boxes import Box, Boxes
from ..processing.image import ImageProcessor
from ..processing.prompt import default_question
from ..processing.templates import Template
from ..processing.tokenizer import Tokenizer
from ..protocol import Backend
from .answer import Answer, Piece, Timings
from .batch import run_batch
from .bridge import Bridge
from .chat import Chat, pictures_of
from .confidence import Calibration, read_calibration
from .constraints import check_choices
from .control import Control, Interrupted
from .decoding import ChoiceTask, EndedTask, Task, pieces, run, start
from .image_state import ImageState
from .loading import check_settings, locate
from .opening import open_backend
from .preparing import Preparer
from .request import Request, check_names
from .transcript import Transcript

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TinyGPTV:
    """A loaded model. Build one with ``from_pretrained``; any thread may call it; ``close`` frees it."""

    def __init__(
        self,
        directory: ModelDirectory,
        tokenizer: Tokenizer,
        backend: Backend,
        info: dict[str, Any],
        calibration: Calibration | None = None,
    ) -> None:
        self._directory = directory
        self._backend: Backend | None = backend
        self._info = info
        self._tokenizer = tokenizer
        self._preparer = Preparer(directory, tokenizer, info["model_id"], calibration)
        self._bridge = Bridge()
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
        **unknown: Any,
    ) -> TinyGPTV:
        """Load a model directory (``tgv.convert`` makes one), the shipped 'demo', or a hub id.

        ``backend="native"`` is the engine of this package; "reference" decodes in plain torch, exact and slow, and is
        what the engine is tested against.

        device: "auto" and "cpu" are this machine's CPU; "cuda" is its first GPU (no GPU has run it yet:
        docs/gpu_status.md), where int4 and float weights compute; pictures are encoded on the CPU either way.
        dtype: "auto" computes with the weights as they are stored; "float32" dequantises them, which is the exact mode
        of the native engine; "bfloat16" holds them in that type. quantization: other than "auto" it must agree with
        the directory. kv_dtype: "auto" is int8 for quantised weights and the weights' own type for float ones; else
        "int8", "float16", "bfloat16" or "float32". kv_tokens: positions that the KV cache can hold, all requests
        together (default: ``max_sequences`` full contexts, bounded by free memory). max_sequences: sequences decoded
        together; more requests wait. adapter: a directory in PEFT's layout, as ``tinygptv finetune`` writes it, added
        to the weights while they load and rounded as these are stored (dtype="float32": not rounded). threads: of the
        engine (default: TINYGPTV_THREADS, else physical cores). load: "mmap" shares one copy of the packed weights
        between processes. vision=False loads no vision tower: pictures come as ImageState.

        Packed weights are kept under the user's cache directory (docs/loading.md). Raises InvalidArgumentError
        (settings), CheckpointError (directory), CapacityError (memory), UnsupportedError (valid but not available).
        """
        check_names("from_pretrained", unknown, list(inspect.signature(cls.from_pretrained).parameters)[1:-1])
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
        directory = open_directory(path) if adapter is None else _open_adapted(path, adapter)
        settings.check_directory(directory.config)
        if adapter is None and directory.report.get(UNTRAINED):
            raise CheckpointError(f"{path} is where training starts, not a trained model; expected adapter= with it")
        with_vision = vision and directory.config.vision is not None
        if threads is not None and backend == "reference":
            import torch

            torch.set_num_threads(threads)
        # An adapter makes other answers, for which the directory's calibration says nothing.
        calibration = None if adapter is not None else read_calibration(path, directory.content_hash)
        tokenizer, opened = open_backend(directory, settings, with_vision)
        info = settings.describe(path, directory, with_vision) | opened.describe()
        info["adapter"] = None if adapter is None else str(adapter)
        info["calibration"] = calibration and dict(calibration.fitted)
        return cls(directory, tokenizer, opened, info, calibration)

    # -- asking ----------------------------------------------------------------------------------------------------

    def generate(
        self, image: Any = None, prompt: str | None = None, *, logprobs: bool = True, **settings: Any
    ) -> Answer:
        """Answer ``prompt`` about ``image``.

        image: path | bytes | PIL | HWC RGB uint8 array (``color="bgr"`` for OpenCV) | ImageState | None (text only); a
        list is several pictures of one prompt, in order. Further settings are the fields of ``Request``: task,
        template, max_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
        frequency_penalty, logit_bias, num_beams, length_penalty, num_return_sequences, min_length, eos_token_id, seed,
        stop, choices, box, deadline_ms (vision counts), speculate, messages, boxes, json_schema, regex. Greedy unless
        ``do_sample=True`` or ``temperature > 0``.

        boxes: "constrained" (every box of the answer parses and lies inside the picture; the default where a task asks
        for boxes) or "free". json_schema: a dict or its json text; regex: in Rust's syntax; the answer is one that
        matches, ``Answer.json`` what the former says. They need the extra ``grammar``.

        Calls from several threads are decoded together. Raises InvalidArgumentError, ImageError,
        PromptError, CapacityError; ``logprobs`` is accepted for callers that name it, they are always returned.
        """
        del logprobs
        return run(self._start(Request.of({"image": image, "prompt": prompt, **settings}), Control()))

    async def agenerate(
        self, image: Any = None, prompt: str | None = None, *, logprobs: bool = True, **settings: Any
    ) -> Answer:
        """``generate`` for coroutines: the event loop runs on, and cancelling the coroutine cancels the request."""
        del logprobs
        request, control = Request.of({"image": image, "prompt": prompt, **settings}), Control()
        return await self._bridge.call(lambda: run(self._start(request, control)), control.cancel)

    def generate_batch(
        self, requests: Sequence[Request | Mapping[str, Any]], *, on_error: str = "raise"
    ) -> list[Answer | Exception]:
        """Answers in the order of ``requests``, which are decoded together.

        on_error: "raise" cancels the others and raises the first error; "return" puts it in its place instead.
        """
        if on_error not in ("raise", "return"):
            raise InvalidArgumentError(f"on_error is {on_error!r}, expected 'raise' or 'return'")

        def begin(request: Request | Mapping[str, Any]) -> Task:
            return self._start(Request.of(request), Control())

        return run_batch(begin, requests, self._running().parallel, raise_errors=on_error == "raise")

    def stream(self, image: Any = None, prompt: str | None = None, **settings: Any) -> Generator[Piece, None, None]:
        """The answer piece by piece; the last piece carries the whole ``Answer``. Closing the iterator cancels."""
        request = _streamable(Request.of({"image": image, "prompt": prompt, **settings}))
        return self._stream(request, Control())

    async def astream(
        self, image: Any = None, prompt: str | None = None, **settings: Any
    ) -> AsyncGenerator[Piece, None]:
        """``stream`` for coroutines. Leaving the loop early cancels the request."""
        request, control = _streamable(Request.of({"image": image, "prompt": prompt, **settings})), Control()
        source = self._bridge.iterate(lambda: self._stream(request, control), control.cancel)
        async with aclosing(source) as items:  # a generator left alone would end when the loop gets round to it
            async for piece in items:
                yield piece

    def rank(self, image: Any, prompt: str, candidates: Sequence[str], **settings: Any) -> list[Answer]:
        """``candidates`` as answers, the one with the highest mean token log-probability first.

        Each candidate is scored with the template's end symbol; ``probability`` is that of the whole candidate. After
        a deadline the one answer is empty: a choice among some of the candidates would be none.
        """
        choices = self._candidates(candidates)
        request = Request.of({"image": image, "prompt": prompt, **settings, "choices": choices})
        best = run(self._start(request, Control()))
        return [replace(best, alternatives=[]), *best.alternatives]

    def caption(self, image: Any, **settings: Any) -> Answer:
        """A short caption."""
        return self.generate(image, default_question("caption"), **settings)

    def describe(self, image: Any, **settings: Any) -> Answer:
        """A description with boxes for its phrases (``[grounding]``)."""
        return self.generate(image, default_question("grounding"), **settings)

    def refer(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """Where ``phrase`` is: boxes labelled with it. ``ground`` is the same."""
        return self._find(image, default_question("refer", phrase), phrase, settings)

    ground = refer

    def detect(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """All of ``phrase``: boxes labelled with it."""
        return self._find(image, default_question("detection", phrase), phrase, settings)

    def identify(self, image: Any, box: Box | Sequence[float], **settings: Any) -> Answer:
        """What is in ``box`` (pixels of the upright picture)."""
        return self.generate(image, None, box=box, task="identify", **settings)

    def encode_image(self, image: Any, *, color: str = "rgb") -> ImageState:
        """Run the vision side once; ask about the result as often as you like."""
        return self._preparer.encode(self._running(), image, color, lambda: None, Timings())

    async def aencode_image(self, image: Any, *, color: str = "rgb") -> ImageState:
        """``encode_image`` for coroutines; cancelling the coroutine ends it between two half blocks."""
        control = Control()
        return await self._bridge.call(
            lambda: self._preparer.encode(self._running(), image, color, control.check, Timings()), control.cancel
        )

    def chat(
        self,
        image: Any = None,
        *,
        template: str | Template | None = None,
        system: str | None = None,
        color: str = "rgb",
        **settings: Any,
    ) -> Chat:
        """A conversation about ``image`` (or a list of pictures, or None), which is encoded here, once.

        ``system``: a system message, where the template has a place for one. ``settings``: those of ``generate``, for
        every turn. Raises PromptError, ImageError, InvalidArgumentError.
        """
        self._running()
        states = tuple(self.encode_image(one, color=color) for one in pictures_of(image))
        return Chat(self, Transcript(states, system=system), template, settings)

    def load_chat(self, path: str | os.PathLike[str]) -> Chat:
        """The conversation that ``Chat.save`` wrote to ``path``. Raises CheckpointError, InvalidArgumentError."""
        return Chat.load(self, path)

    def logits(self, images: Any, prompt: str, template: str | Template = "raw") -> Tensor:
        """Float32 [T, V]: the logits at every position of the prompt, visual tokens included."""
        backend, request = self._running(), Request(image=images, prompt=prompt, template=template)
        return backend.logits(self._preparer.prepare(backend, request, Control(), Timings()).prompt)

    # -- about -----------------------------------------------------------------------------------------------------

    @property
    def info(self) -> dict[str, Any]:
        """What is loaded and how: path, backend, device, dtypes, quantisation, sizes, content id; of the native
        engine its instruction set, threads, KV cache and where its weights came from."""
        return dict(self._info)

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of the engine now: requests, tokens, KV pages, busy time. Empty for "reference"."""
        return self._running().stats()

    @property
    def config(self) -> Any:
        """The directory's ``ModelConfig``."""
        return self._directory.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    @property
    def image_processor(self) -> ImageProcessor | None:
        """What makes pixels of pictures; None for a model of text alone."""
        return self._preparer.images

    @property
    def default_template(self) -> Template:
        """The directory's prompt template."""
        return self._directory.template

    @property
    def prompt_room(self) -> int:
        """Positions that one request can have, prompt and answer together."""
        return min(self._directory.config.text.max_positions, self._info.get("kv_tokens") or 1 << 30)

    def default_setting(self, name: str, fallback: Any) -> Any:
        """What the directory's ``generation_config.json`` says of ``name``, else ``fallback``."""
        value = self._directory.generation_config.get(name)
        return fallback if value is None else value

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Copy the model directory to ``directory`` (new or empty), atomically; an adapter is merged into it."""
        target = Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidArgumentError(f"directory {target} exists and is not empty, expected a new one")
        if self._info.get("adapter") is not None:
            _merge(self._directory, target)
            return
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            shutil.copytree(self._directory.path, partial)
            if target.exists():
                target.rmdir()
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Free the weights; every later call raises ClosedError. Requests under way end as cancelled. Closing twice is
        fine."""
        with self._closing:
            backend, self._backend = self._backend, None
        self._bridge.close()
        if backend is not None:
            backend.close()

    def __enter__(self) -> TinyGPTV:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _running(self) -> Backend:
        backend = self._backend
        if backend is None:
            raise ClosedError("the model is closed")
        return backend

    def _find(self, image: Any, question: str, phrase: str, settings: Mapping[str, Any]) -> Boxes:
        request = Request.of({"image": image, "prompt": question, **settings})
        return run(self._start(request, Control(), phrase)).boxes

    def _start(self, request: Request, control: Control, label: str | None = None) -> Task:
        """The request under way; one that its deadline or a cancel has ended already comes back ended."""
        backend, timings = self._running(), Timings()
        candidates = None if request.choices is None else self._candidates(request.choices)
        if candidates is not None:
            check_choices(request)
        try:
            work = self._preparer.prepare(backend, request, control, timings, label)
        except Interrupted as interrupted:
            return EndedTask(interrupted.reason, timings, control)
        if candidates is None:
            return start(backend, self._tokenizer, work)
        end = work.template.stop[0] if work.template.stop else ""
        ids = [(text, self._tokenizer.encode(text + end)) for text in candidates]
        return ChoiceTask(backend, self._tokenizer, work, ids)

    @staticmethod
    def _candidates(choices: Any) -> list[str]:
        if isinstance(choices, str) or not choices or not all(isinstance(c, str) and c for c in choices):
            raise InvalidArgumentError(f"candidates is {str(choices)[:60]!r}, expected a list of non-empty strings")
        return list(choices)

    def _stream(self, request: Request, control: Control) -> Generator[Piece, None, None]:
        """Prepares at once, so that bad input raises here; submits with the first piece asked for."""
        backend, timings = self._running(), Timings()
        try:
            work = self._preparer.prepare(backend, request, control, timings)
        except Interrupted as interrupted:
            ended = EndedTask(interrupted.reason, timings, control)
            return pieces(lambda: ended)
        return pieces(lambda: start(backend, self._tokenizer, work))


def _open_adapted(path: Path, adapter: str | os.PathLike[str]) -> ModelDirectory:
    """What lies under an adapter is computed, and that is torch's."""
    from ..checkpoint.adapter import open_adapted

    return open_adapted(path, adapter)


def _merge(directory: ModelDirectory, target: Path) -> None:
    from ..checkpoint.adapter import AdaptedDirectory
    from ..conversion import merge_directory

    assert isinstance(directory, AdaptedDirectory)  # for the type checker: _open_adapted has made it
    merge_directory(directory, target, overwrite=target.exists())


def _streamable(request: Request) -> Request:
    if request.choices is not None or (request.num_beams or 1) > 1:
        raise InvalidArgumentError("stream takes neither choices nor num_beams, expected greedy or sampling")
    return request
