"""Readers for the data sets that TinyGPT-V is trained on, in the formats they come in, and the mixture of them.

A reader turns files into records; a bad record is counted with file and place, never passed over in silence. A ``Mix``
draws examples from several data sets in fixed ratios. Knows files, pictures and the original's wordings; knows no model
and no token. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import SetConfig, read_sets
    from .faults import BadRecord, Faults, Reason
    from .formats import FORMATS
    from .mix import DataSet, Mix, Share
    from .opening import open_mix, open_set

_LAZY = {
    "FORMATS": "formats",
    "BadRecord": "faults",
    "DataSet": "mix",
    "Faults": "faults",
    "Mix": "mix",
    "Reason": "faults",
    "SetConfig": "config",
    "Share": "mix",
    "open_mix": "opening",
    "open_set": "opening",
    "read_sets": "config",
}

__all__ = [
    "FORMATS",
    "BadRecord",
    "DataSet",
    "Faults",
    "Mix",
    "Reason",
    "SetConfig",
    "Share",
    "open_mix",
    "open_set",
    "read_sets",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
