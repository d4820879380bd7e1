"""TinyGPT-V, fast and dependable: a small vision-language model that answers questions and says where things are.

Names are imported on first use, so that ``import tinygptv_fast`` and the command line's ``--help`` never load torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import TinyGPTVError

if TYPE_CHECKING:
    from .conversion.convert import convert
    from .generate import Answer, TinyGPTV
    from .hf import accelerate
    from .processing.boxes import Box, Boxes

__version__ = "0.1.0"

_LAZY = {
    "Answer": "generate",
    "Box": "processing.boxes",
    "Boxes": "processing.boxes",
    "Chat": "generate",
    "ImageState": "generate",
    "Request": "generate",
    "TinyGPTV": "generate",
    "accelerate": "hf",
    "convert": "conversion",
}
_MODULES = (
    "checkpoint",
    "compat",
    "config",
    "conversion",
    "generate",
    "hf",
    "ops",
    "processing",
    "quantize",
    "reference",
)

__all__ = ["Answer", "Box", "Boxes", "TinyGPTV", "TinyGPTVError", "accelerate", "convert", "errors"]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_MODULES])
