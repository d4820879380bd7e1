"""``TinyGPTV``: load a directory, ask it about pictures."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.directory import UNTRAINED, ModelDirectory, open_directory
from ..errors import CheckpointError, InvalidArgumentError
from ..processing.boxes import Box, Boxes
from ..processing.templates import Template
from .answer import Answer, Piece, Timings
from .batch import run_batch
from .chat import Chat, pictures_of
from .confidence import read_calibration
from .control import Control
from .decoding import Task, run
from .image_state import ImageState
from .loaded import LoadedModel
from .loading import check_settings, locate
from .names import check_names
from .opening import open_backend
from .questions import check_own, own_question, question_about
from .request import Request, check_color, check_flag
from .starting import check_candidates, check_streamable
from .transcript import Transcript

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TinyGPTV(LoadedModel):
    """A loaded model. Build one with ``from_pretrained``; any thread may call it; ``close`` frees it."""

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
        vision_device: str = "auto",
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
        docs/gpu_status.md). vision_device: "auto" encodes pictures where the text is computed; "offload" does so
        too, and keeps the vision side's weights in the host's memory but for the half block that computes; "cpu" keeps
        the GPU for text.
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
            vision_device=vision_device,
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
        check_flag("logprobs", logprobs)
        return run(self._begin(Request.of({"image": image, "prompt": prompt, **settings}), Control()))

    async def agenerate(
        self, image: Any = None, prompt: str | None = None, *, logprobs: bool = True, **settings: Any
    ) -> Answer:
        """``generate`` for coroutines: the event loop runs on, and cancelling the coroutine cancels the request."""
        check_flag("logprobs", logprobs)
        request, control = Request.of({"image": image, "prompt": prompt, **settings}), Control()
        return await self._bridge.call(lambda: run(self._begin(request, control)), control.cancel)

    def generate_batch(
        self, requests: Sequence[Request | Mapping[str, Any]], *, on_error: str = "raise"
    ) -> list[Answer | Exception]:
        """Answers in the order of ``requests``, which are decoded together.

        on_error: "raise" cancels the others and raises the first error; "return" puts it in its place instead.
        """
        if on_error not in ("raise", "return"):
            raise InvalidArgumentError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        if not isinstance(requests, Sequence) or isinstance(requests, (str, bytes)):
            raise InvalidArgumentError(f"requests is {type(requests).__name__}, expected a list of Requests or dicts")

        def begin(request: Request | Mapping[str, Any]) -> Task:
            return self._begin(Request.of(request), Control())

        return run_batch(begin, requests, self._running().parallel, raise_errors=on_error == "raise")

    def stream(self, image: Any = None, prompt: str | None = None, **settings: Any) -> Generator[Piece, None, None]:
        """The answer piece by piece; the last piece carries the whole ``Answer``. Closing the iterator cancels."""
        request = check_streamable(Request.of({"image": image, "prompt": prompt, **settings}))
        return self._starter.pieces(self._running(), request, Control())

    async def astream(
        self, image: Any = None, prompt: str | None = None, **settings: Any
    ) -> AsyncGenerator[Piece, None]:
        """``stream`` for coroutines. Leaving the loop early cancels the request."""
        request, control = check_streamable(Request.of({"image": image, "prompt": prompt, **settings})), Control()
        source = self._bridge.iterate(lambda: self._starter.pieces(self._running(), request, control), control.cancel)
        async with aclosing(source) as items:  # a generator left alone would end when the loop gets round to it
            async for piece in items:
                yield piece

    def rank(self, image: Any, prompt: str, candidates: Sequence[str], **settings: Any) -> list[Answer]:
        """``candidates`` as answers, the one with the highest mean token log-probability first.

        Each candidate is scored with the template's end symbol; ``probability`` is that of the whole candidate. After
        a deadline the one answer is empty: a choice among some of the candidates would be none.
        """
        choices = check_candidates("candidates", candidates)
        if settings.get("choices") is not None:
            raise InvalidArgumentError("choices is given to rank(), whose choices are its candidates, expected without")
        request = Request.of({"image": image, "prompt": prompt, **settings, "choices": choices})
        best = run(self._begin(request, Control()))
        return [replace(best, alternatives=[]), *best.alternatives]

    def caption(self, image: Any, **settings: Any) -> Answer:
        """A short caption."""
        question = own_question("caption", "caption", settings, self.default_template)
        return self.generate(image, question, **settings)

    def describe(self, image: Any, **settings: Any) -> Answer:
        """A description with boxes for its phrases (``[grounding]``)."""
        question = own_question("describe", "grounding", settings, self.default_template)
        return self.generate(image, question, **settings)

    def refer(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """Where ``phrase`` is: boxes labelled with it. ``ground`` is the same."""
        return self._find("refer", "refer", image, phrase, settings)

    ground = refer

    def detect(self, image: Any, phrase: str, **settings: Any) -> Boxes:
        """All of ``phrase``: boxes labelled with it."""
        return self._find("detect", "detection", image, phrase, settings)

    def identify(self, image: Any, box: Box | Sequence[float], **settings: Any) -> Answer:
        """What is in ``box`` (pixels of the upright picture)."""
        check_own("identify", settings, self.default_template)
        return self.generate(image, box=box, **settings, task="identify")

    def encode_image(
        self, image: Any, *, color: str = "rgb", pages: bool = False, template: str | Template | None = None
    ) -> ImageState:
        """Run the vision side once; ask about the result as often as you like.

        pages: with the keys and values of the whole pages (16 positions each) that a prompt of ``template`` (default:
        the model's) begins with when this picture comes first. Such a prompt does not compute them again, in another
        process either; any other prompt refuses the state, and so does a model with other weights, dtype or kv_dtype
        (``state.without_pages()`` is for those). An ImageState gets them too, without the vision side. Raises
        UnsupportedError for pages where there is no cache in memory (device="cuda", backend="reference").
        """
        return self._encode(image, color, pages, template, lambda: None)

    async def aencode_image(
        self, image: Any, *, color: str = "rgb", pages: bool = False, template: str | Template | None = None
    ) -> ImageState:
        """``encode_image`` for coroutines; cancelling the coroutine ends it between two half blocks."""
        control = Control()
        return await self._bridge.call(
            lambda: self._encode(image, color, pages, template, control.check), control.cancel
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
        check_color(color)
        states = tuple(self.encode_image(one, color=color) for one in pictures_of(image))
        return Chat(self, Transcript(states, system=system), template, settings)

    def load_chat(self, path: str | os.PathLike[str]) -> Chat:
        """The conversation that ``Chat.save`` wrote to ``path``. Raises CheckpointError, InvalidArgumentError."""
        return Chat.load(self, path)

    def logits(self, images: Any, prompt: str, template: str | Template = "raw") -> Tensor:
        """Float32 [T, V]: the logits at every position of the prompt, visual tokens included."""
        backend, request = self._running(), Request(image=images, prompt=prompt, template=template)
        return backend.logits(self._preparer.prepare(backend, request, Control(), Timings()).prompt)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _find(self, where: str, task: str, image: Any, phrase: str, settings: Mapping[str, Any]) -> Boxes:
        question = question_about(where, task, phrase, settings, self.default_template)
        request = Request.of({**settings, "image": image, "prompt": question})
        return run(self._begin(request, Control(), phrase)).boxes

    def _encode(
        self, image: Any, color: str, pages: bool, template: str | Template | None, check: Callable[[], None]
    ) -> ImageState:
        check_flag("pages", pages)
        if template is not None and not pages:
            raise InvalidArgumentError("template is given without pages=True, expected both: it says whose pages")
        backend = self._running()
        state = self._preparer.encode(backend, image, color, check, Timings())
        return self._preparer.add_pages(backend, state, template, check) if pages else state

    def _begin(self, request: Request, control: Control, label: str | None = None) -> Task:
        return self._starter.task(self._running(), request, control, label)


def _open_adapted(path: Path, adapter: str | os.PathLike[str]) -> ModelDirectory:
    """What lies under an adapter is computed, and that is torch's."""
    from ..checkpoint.adapter import open_adapted

    return open_adapted(path, adapter)
