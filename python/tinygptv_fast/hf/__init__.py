"""Hugging Face's API over the native core: ``accelerate(model)`` for a Phi of transformers, Auto classes and pipelines
for our model directories.

Needs the ``hf`` extra; transformers is imported when something here is used, not before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from .accelerating import accelerate

if TYPE_CHECKING:
    from .configuration import TinyGPTVConfig
    from .processing import TinyGPTVProcessor
    from .vision_language import TinyGPTVForConditionalGeneration

_CLASSES = {
    "TinyGPTVConfig": "configuration",
    "TinyGPTVForConditionalGeneration": "vision_language",
    "TinyGPTVProcessor": "processing",
}

__all__ = [
    "TinyGPTVConfig",
    "TinyGPTVForConditionalGeneration",
    "TinyGPTVProcessor",
    "accelerate",
    "register",
]


def register() -> None:
    """Make ``AutoConfig``, ``AutoProcessor``, ``AutoModelForImageTextToText`` and ``pipeline`` know our model
    directories, with no code from a hub. Using one of the classes here does it too.

    Importing this module does not: it would import transformers, which takes seconds, whenever ``accelerate`` is named,
    and change the tables of another library unasked. Raises UnsupportedError without transformers.
    """
    try:
        from .registering import register_all
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "transformers":
            raise
        raise UnsupportedError("tinygptv_fast.hf needs transformers: pip install 'tinygptv_fast[hf]'") from error
    register_all()


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return getattr(importlib.import_module(f".{_CLASSES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_CLASSES])
