"""The original's interface and quirks under their own names: for code written for it, and for reproducing its numbers.

``Chat`` and ``OriginalModel`` take the place of the original's objects on top of a loaded ``TinyGPTV``; the other
modules compute what its scripts compute, bugs included. New code wants ``TinyGPTV`` and ``processing`` instead. Names
are imported on first use: scorers need no model.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import Chat
    from .conversation import CONV_VISION, CONV_VISION_LLama2, CONV_VISION_minigptv2, CONV_VISION_Vicuna0, Conversation
    from .original import OriginalModel

_LAZY = {
    "CONV_VISION": "conversation",
    "CONV_VISION_LLama2": "conversation",
    "CONV_VISION_Vicuna0": "conversation",
    "CONV_VISION_minigptv2": "conversation",
    "Chat": "chat",
    "Conversation": "conversation",
    "OriginalModel": "original",
}

__all__ = [
    "CONV_VISION",
    "CONV_VISION_LLama2",
    "CONV_VISION_Vicuna0",
    "CONV_VISION_minigptv2",
    "Chat",
    "Conversation",
    "OriginalModel",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
