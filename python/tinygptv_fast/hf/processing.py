"""``TinyGPTVProcessor``: pictures and messages to what the model takes, in transformers' API.

Prompts are rendered and tokenised by the code that ``TinyGPTV`` uses: texts on either side of a picture apart, pictures
opened and scaled by its ``ImageProcessor``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from ..errors import InvalidArgumentError, PromptError, UnsupportedError
from ..generate.names import check_names
from ..processing.image import ImageProcessor
from ..processing.prompt import check_image_count, encode_prompt, read_messages
from ..processing.templates import PLACEHOLDER, TEMPLATES, Template
from ..processing.tokenizer import Tokenizer
from .directories import check_load, fetch_directory
from .files import ModelFiles, read_files
from .layout import open_picture, pad_rows, pictures_of
from .tokenizer import TinyGPTVImageProcessor, TinyGPTVTokenizer

_CALL = ("padding", "padding_side", "return_tensors", "add_special_tokens", "truncation", "max_length")
_MODEL_SETTINGS = (
    *("threads", "max_sequences", "kv_tokens", "kv_dtype", "quantization", "vision_dtype", "load", "adapter"),
    *("dtype", "torch_dtype", "device_map", "attn_implementation"),
)  # a pipeline gives its processor the model's settings too


def image_token_id(tokenizer: Tokenizer) -> int:
    """The id that stands for a visual token in ``input_ids``: of ``<ImageHere>``, or the first that is no token's."""
    known = tokenizer.token_id(PLACEHOLDER)
    return tokenizer.size if known is None else known


class TinyGPTVProcessor(ProcessorMixin):
    """Image processor, tokenizer and prompt template of a model directory. Safe to use from several threads.

    ``tokenizer`` is a fast tokenizer of transformers over the same vocabulary, with ``<ImageHere>`` as a token of its
    own; ``image_processor`` is None for a model of text.
    """

    attributes: ClassVar[list[str]] = ["image_processor", "tokenizer"]
    image_processor_class = "TinyGPTVImageProcessor"
    tokenizer_class = "TinyGPTVTokenizer"

    def __init__(
        self,
        image_processor: TinyGPTVImageProcessor | None = None,
        tokenizer: TinyGPTVTokenizer | None = None,
        files: ModelFiles | None = None,
        **unknown: Any,
    ) -> None:
        check_names("TinyGPTVProcessor", unknown, ("image_processor", "tokenizer", "files"))
        if not isinstance(files, ModelFiles) or not isinstance(tokenizer, TinyGPTVTokenizer):
            raise InvalidArgumentError("a TinyGPTVProcessor is made by from_pretrained, expected files and a tokenizer")
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.chat_template = files.texts["chat_template.jinja"]
        self.image_token = PLACEHOLDER
        self.template = files.template
        self._files = files
        self._words = tokenizer.words
        self._pictures: ImageProcessor | None = None if image_processor is None else image_processor.processor
        self.image_token_id = image_token_id(self._words)

    # --- files -----------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> TinyGPTVProcessor:  # type: ignore[override]
        """Of a model directory, "demo", a hub id, or what ``save_pretrained`` wrote; no weights are read.

        kwargs: the hub's. The model's settings are accepted, because pipelines give them to both. Raises
        CheckpointError, ConfigError, InvalidArgumentError for a name that nothing has.
        """
        kept = check_load("from_pretrained", kwargs, _MODEL_SETTINGS)
        files = read_files(fetch_directory(pretrained_model_name_or_path, kept))
        pictures = None if files.preprocessor is None else TinyGPTVImageProcessor(files)
        return cls(pictures, TinyGPTVTokenizer(files), files)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Write the directory's small files, byte for byte: alone they make a processor, beside the weights a model
        directory. Returns their paths."""
        check_names("save_pretrained", kwargs, ("token", "save_jinja_files", "legacy_serialization"))
        if push_to_hub:
            raise UnsupportedError("push_to_hub is True, which cannot be done: upload the folder with huggingface_hub")
        return self._files.write(Path(save_directory))

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What it is, for printing."""
        return {
            "processor_class": type(self).__name__,
            "template": self.template.name,
            "image_token_id": self.image_token_id,
            "queries": self._files.queries,
            "image_processor": self._files.preprocessor,
        }

    def __repr__(self) -> str:
        return f"TinyGPTVProcessor({self._files.path}, template={self.template.name!r})"

    @property
    def model_input_names(self) -> list[str]:
        """Of what a call returns."""
        return ["input_ids", "attention_mask", *(["pixel_values"] if self._pictures is not None else [])]

    # --- prompts ---------------------------------------------------------------------------------------------------
    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | Template | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        task: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A conversation ``[{"role": ..., "content": "text" | [{"type": "image", ...}, {"type": "text", ...}]}, ...]``
        as a prompt, or a list of them as a list of prompts.

        chat_template: the name of one of ours, the directory's by default. task: tags the last message ("vqa",
        "refer", ...). With ``tokenize=True`` the pictures of the parts are opened: input_ids as a list, or with
        ``return_dict=True`` everything the model takes. Further arguments are those of a call. Raises PromptError,
        ImageError, InvalidArgumentError, UnsupportedError for jinja.
        """
        check_names("apply_chat_template", kwargs, (*_CALL, "tools", "documents", "task"))
        for name in ("tools", "documents"):
            if kwargs.pop(name, None):
                raise UnsupportedError(f"{name} is given, which no template of TinyGPT-V has a place for")
        template = self._template(chat_template)
        single = not _is_batch(conversation)
        rendered = [
            self._render(messages, template, add_generation_prompt, continue_final_message, task)
            for messages in ([conversation] if single else conversation)
        ]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts[0] if single else texts
        pictures = [found for _, found in rendered]
        for found in pictures:
            if any(one is None for one in found):
                raise PromptError("an image part names no picture, expected 'image', 'path', 'url' or 'bytes' in it")
        calls = {**kwargs, **(processor_kwargs or {})}
        made = self(images=pictures, text=texts, **{"return_tensors": return_tensors, **calls})
        if return_dict:
            return made
        return made["input_ids"][0] if single and return_tensors is None else made["input_ids"]

    def _template(self, given: str | Template | None) -> Template:
        if given is None or given == self.chat_template:
            return self.template
        if isinstance(given, Template):
            return given
        if isinstance(given, str) and given in TEMPLATES:
            return TEMPLATES[given]
        names = ", ".join(map(repr, TEMPLATES))
        raise UnsupportedError(f"chat_template is {str(given)[:40]!r}, which is not rendered; expected one of {names}")

    @staticmethod
    def _render(
        messages: Any, template: Template, prompt: bool, goes_on: bool, task: str | None
    ) -> tuple[str, list[Any]]:
        if prompt and goes_on:
            raise PromptError("add_generation_prompt and continue_final_message are True, expected one of them")
        turns, pictures = read_messages(messages, template, task)
        text = template.render(turns, add_generation_prompt=prompt)
        check_image_count(text, len(pictures))
        if goes_on:
            if turns[-1][0] != "assistant":
                raise PromptError(f"messages ends with role {turns[-1][0]!r}, expected 'assistant' to continue")
            text = text[: len(text) - len(template.assistant_end)]
        return text, pictures

    # --- what the model takes --------------------------------------------------------------------------------------
    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool | str = True,
        padding_side: str = "left",
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prompts with one ``<ImageHere>`` for each picture, as ``apply_chat_template`` writes them.

        text: one prompt or a list. images: one picture, a list in the order of their places, or a list for each
        prompt; paths, bytes, PIL images, uint8 arrays [height, width, 3], URLs. padding: to the longest row, on the
        left; False for lists of different lengths. Returns input_ids and attention_mask [B, T], pixel_values float32
        [pictures, 3, S, S] if there are pictures: torch or numpy for return_tensors "pt" or "np", else lists and numpy
        pixels.

        Raises PromptError where places and pictures differ in number, ImageError, InvalidArgumentError.
        """
        check_names("TinyGPTVProcessor", kwargs, (*_CALL, "images", "text"))
        if kwargs.get("truncation") or kwargs.get("max_length") is not None:
            raise UnsupportedError("truncation is asked for, which would cut pictures: give a shorter text")
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(one, str) for one in texts):
            raise InvalidArgumentError(f"text is {_describe(text)}, expected a prompt or a list of prompts")
        pictures = pictures_of(images, texts)
        ids = [self._ids(one) for one in texts]
        for row, one in enumerate(ids):
            if not one:
                raise PromptError(f"text[{row}] is empty, expected at least one token or picture")
        pad = self.tokenizer.pad_token_id
        made = pad_rows(ids, pad_id=pad, padding=padding, side=padding_side, tensors=return_tensors)
        if pictures:
            pixels = self._pixels(pictures)
            made["pixel_values"] = pixels
        return BatchFeature(data=made, tensor_type=return_tensors)

    def _ids(self, text: str) -> list[int]:
        """Segments around pictures tokenised apart, as ``TinyGPTV`` does."""
        visual = [self.image_token_id] * self._files.queries
        first, *others = encode_prompt(text, self._words)
        return [*first, *(token for segment in others for token in (*visual, *segment))]

    def _pixels(self, pictures: Sequence[Any]) -> np.ndarray:
        if self._pictures is None:
            raise InvalidArgumentError("images is given, expected None: the model is text-only")
        return np.stack([self._pictures.pixels_array(open_picture(one)) for one in pictures])

    # --- text ------------------------------------------------------------------------------------------------------
    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """As of the tokenizer."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """As of the tokenizer."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of ids [B, T], prompts included; behind the last beginning of an answer, the text of ``Answer``: up to
        the template's stop string and without white space around it."""
        kwargs.pop("clean_up_tokenization_spaces", None)  # texts are exact
        texts = self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
        return [self._tidied(text) for text in texts]

    def _tidied(self, text: str) -> str:
        mark = self.template.assistant
        at = text.rfind(mark) + len(mark) if mark else -1
        return text[:at] + self.template.cut(text[at:]) if mark and at >= len(mark) else text


def _is_batch(conversation: Any) -> bool:
    return isinstance(conversation, (list, tuple)) and bool(conversation) and not isinstance(conversation[0], Mapping)


def _describe(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a list of {type(value[0]).__name__}" if value else "an empty list"
    return type(value).__name__
