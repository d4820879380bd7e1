"""The tokenizer and the image processor of a model directory as objects of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import CheckpointError, UnsupportedError
from ..processing.image import ImageProcessor
from ..processing.templates import PLACEHOLDER
from ..processing.tokenizer import Tokenizer
from .files import ModelFiles
from .layout import open_picture


class TinyGPTVTokenizer(PreTrainedTokenizerFast):
    """The directory's tokenizer with ``<ImageHere>`` as one more token, padding on the left. ``words``: our own over
    the same vocabulary."""

    def __init__(self, files: ModelFiles) -> None:
        self.words = Tokenizer.from_string(files.texts["tokenizer.json"], str(files.path / "tokenizer.json"))
        backend = tokenizers.Tokenizer.from_str(files.texts["tokenizer.json"])
        backend.add_special_tokens([AddedToken(PLACEHOLDER, normalized=False, special=True)])
        known = self.words.token_id(PLACEHOLDER)
        if backend.token_to_id(PLACEHOLDER) != (self.words.size if known is None else known):
            raise CheckpointError(
                f"{files.path / 'tokenizer.json'} has ids left out, expected 0..{self.words.size - 1}"
            )
        config = files.config
        names = {
            "bos_token": config.bos_token_id,
            "eos_token": config.eos_token_id,
            "pad_token": 0 if config.pad_token_id is None else config.pad_token_id,
        }
        special = {name: backend.id_to_token(index) for name, index in names.items() if index is not None}
        super().__init__(
            tokenizer_object=backend,
            padding_side="left",
            clean_up_tokenization_spaces=False,
            **{name: token for name, token in special.items() if token is not None},
        )
        self._files = files

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> tuple[str, ...]:  # type: ignore[override]
        """Write the directory's own ``tokenizer.json``, which has no ``<ImageHere>``."""
        if kwargs.get("push_to_hub"):
            raise UnsupportedError("push_to_hub is True, which cannot be done: upload the folder with huggingface_hub")
        return tuple(self._files.write(Path(save_directory), ("tokenizer.json",)))


class TinyGPTVImageProcessor(BaseImageProcessor):
    """Pixels as ``TinyGPTV`` computes them. ``processor``: our own."""

    model_input_names = ["pixel_values"]  # noqa: RUF012  # an instance's, says the base

    def __init__(self, files: ModelFiles) -> None:
        super().__init__()
        self.processor = ImageProcessor.from_dict(files.preprocessor)
        self.size = {"height": self.processor.image_size, "width": self.processor.image_size}
        self.image_mean, self.image_std = list(self.processor.mean), list(self.processor.std)
        self._files = files

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """pixel_values float32 [pictures, 3, S, S] of one picture or a list. kwargs: none; Raises ImageError."""
        if kwargs:
            raise UnsupportedError(f"{min(kwargs)} is given, which cannot be done: the model has one preprocessing")
        many = images if isinstance(images, (list, tuple)) else [images]
        pixels = np.stack([self.processor.pixels_array(open_picture(one)) for one in many])
        return BatchFeature(data={"pixel_values": pixels}, tensor_type=return_tensors)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:  # type: ignore[override]
        """As ``preprocess``."""
        return self.preprocess(images, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Write the directory's own ``preprocessor_config.json``."""
        if kwargs.get("push_to_hub"):
            raise UnsupportedError("push_to_hub is True, which cannot be done: upload the folder with huggingface_hub")
        return self._files.write(Path(save_directory), ("preprocessor_config.json",))
