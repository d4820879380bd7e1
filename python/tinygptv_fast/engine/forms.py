"""In which forms the engine holds a model: decided from what the directory stores and what the caller asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..checkpoint.directory import ModelDirectory
from ..errors import InvalidArgumentError

LAYOUT = 1
"""Version of the packed layout. Raise it whenever the bytes that csrc/model writes for the same weights change."""

KV_KINDS = {"int8": "int8", "float16": "f16", "bfloat16": "bf16", "float32": "f32"}
"""Names of KV types here and in the native core."""

_FLOAT_FORMS = {"float32": "f32", "bfloat16": "bf16"}
_KV_OF_FORM = {"int4": "int8", "int8": "int8", "f16": "float16", "bf16": "bfloat16", "f32": "float32"}
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Matrix:
    """kind: int4, int8, bf16 or f32, on a GPU also f16; the other two speak of int4 alone."""

    kind: str
    group_size: int
    symmetric: bool

    def native(self) -> tuple[str, int, bool]:
        return self.kind, self.group_size, self.symmetric


@dataclass(frozen=True)
class Forms:
    """body: every matrix of the layers; head; embedding: int8, bf16 or f32, on a GPU also f16."""

    body: Matrix
    head: Matrix
    embedding: str

    def native(self) -> dict[str, object]:
        """As ``_native.Weights`` and ``CudaWeights`` take it."""
        return {"body": self.body.native(), "head": self.head.native(), "embedding": self.embedding}

    @property
    def dtype(self) -> str:
        """What the model computes in, for people: the form of the layers' matrices."""
        return _DTYPES.get(self.body.kind, self.body.kind)

    def kv_dtype(self, asked: str) -> str:
        """``asked``, or for "auto" the KV type that goes with these weights: float weights keep their own."""
        return _KV_OF_FORM[self.body.kind] if asked == "auto" else asked

    def key(self, content_hash: str) -> str:
        """64 hex digits that name the packed form of these weights: content, forms and layout. The layout is one for
        all instruction sets, so none is in it."""
        return hashlib.sha256(f"{content_hash} {self.native()} {LAYOUT}".encode()).hexdigest()


def choose_forms(directory: ModelDirectory, dtype: str) -> Forms:
    """``dtype`` "auto": as stored, where float16 becomes float32 (nothing is rounded). "float32" and "bfloat16" hold
    every matrix in that type, dequantised if need be: the exact mode is "float32"."""
    quantization, config = directory.config.quantization, directory.config
    if dtype == "auto" and quantization.text == "none":
        dtype = "bfloat16" if config.dtype == "bfloat16" else "float32"
    if dtype != "auto":
        if dtype not in _FLOAT_FORMS:
            raise InvalidArgumentError(f"dtype is {dtype!r}, expected 'auto', 'float32' or 'bfloat16'")
        kind = _FLOAT_FORMS[dtype]
        matrix = Matrix(kind, quantization.group_size, True)
        return Forms(matrix, matrix, kind)
    symmetric = quantization.symmetric
    body = Matrix(quantization.text, quantization.group_size, symmetric)
    head = Matrix(directory.kind("text.head.weight"), quantization.group_size, symmetric)
    return Forms(body, head, directory.kind("text.embed.weight"))
