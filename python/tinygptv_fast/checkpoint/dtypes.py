"""Element types by the codes that safetensors files use ("F32", "BF16", ...), and what others call them.

Knows no file. torch is imported only where a dtype of torch's is asked for: headers are read, and weights packed for
the engine, without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""What torch calls them; numpy too, which has no bfloat16."""

CODES = {name: code for code, name in NAMES.items()}
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1
}  # fmt: skip
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def torch_dtype(code: str) -> torch.dtype:
    """torch's dtype for ``code``."""
    import torch

    dtype: torch.dtype = getattr(torch, NAMES[code])
    return dtype


def code_of(dtype: torch.dtype) -> str:
    """The code for torch's ``dtype``; KeyError for one that no file of ours holds."""
    return CODES[str(dtype).removeprefix("torch.")]


def numpy_dtype(code: str) -> np.dtype[np.generic]:
    """numpy's dtype for ``code``; uint16, the bits, for bfloat16."""
    return np.dtype("uint16" if code == "BF16" else NAMES[code])
