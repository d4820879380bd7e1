"""Which numbers the vision side computes in: asked for by the caller, allowed by the device, given by what is stored.

Pure functions of their arguments; the table and the figures behind it are in docs/vision.md. Knows CPU feature names,
knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidArgumentError, UnsupportedError

KINDS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Arithmetic:
    """``matrices``: what products with weights are computed in; ``attention``: what q, k and v are rounded to.

    The residual stream, norms, softmax, biases and scales are float32 in all of them. ``on_gpu``: through torch's
    kernels for a GPU, where "int8" is how matrices are held; their products are bfloat16.
    """

    matrices: str
    attention: str
    on_gpu: bool = False

    def __str__(self) -> str:
        kinds = self.matrices if self.matrices == self.attention else f"{self.matrices}/{self.attention}"
        return f"{kinds} on a GPU" if self.on_gpu else kinds


EXACT = Arithmetic("float32", "float32")
"""Of what rounds nothing, on any device."""


def has_fast_int8(features: Mapping[str, bool]) -> bool:
    """Whether u8·s8 products are exact and fast: without VNNI they go through 16-bit sums, which saturate."""
    return any(features.get(name, False) for name in ("avx_vnni", "avx512_vnni", "amx_int8"))


def has_fast_bfloat16(features: Mapping[str, bool]) -> bool:
    """Whether bfloat16 products have instructions of their own; emulated they are slower than float32."""
    return why_not("bfloat16", features) is None and any(features.get(f, False) for f in ("avx512_bf16", "amx_bf16"))


def why_not(kind: str, features: Mapping[str, bool]) -> str | None:
    """None if this CPU computes ``kind`` as it is meant, else a sentence."""
    if kind == "int8" and not has_fast_int8(features):
        return "int8 needs a CPU with AVX-VNNI, AVX-512 VNNI or AMX: without them 16-bit sums saturate"
    if kind == "bfloat16" and not all(features.get(name, False) for name in ("avx512bw", "avx512vl", "avx512dq")):
        return "bfloat16 needs a CPU with AVX-512: torch has no such product below it"
    return None


def choose_arithmetic(requested: str, stored: str, features: Mapping[str, bool]) -> Arithmetic:
    """The arithmetic for weights ``stored`` as 'float32', 'bfloat16' or 'int8'.

    requested: 'auto' or one of the three. 'auto' is the fastest one that rounds weights no further than the directory
    does: int8 with VNNI, bfloat16 with bfloat16 instructions, float32 otherwise. bfloat16 asked for by name also
    runs, emulated, on AVX-512 without them. features: ``_native.cpu_features()``.
    Raises InvalidArgumentError for an unknown name, UnsupportedError for one that this CPU cannot.
    """
    _check_names(requested, stored)
    if requested == "auto":
        return Arithmetic(_fastest(stored, features), _attention(_fastest(stored, features), features))
    if (reason := why_not(requested, features)) is not None:
        raise UnsupportedError(f"vision dtype is {requested!r}: {reason}; 'auto' chooses what this CPU can")
    return Arithmetic(requested, _attention(requested, features))


def choose_on_gpu(requested: str, stored: str) -> Arithmetic:
    """As ``choose_arithmetic``, for a GPU: 'auto' is float32 for float32 weights and bfloat16 for all others, which
    rounds int8 weights once more (by 2^-9 of each) and is the fastest; 'int8' rounds nothing and holds half the bytes.
    float16 is not among them: trained towers have activations that it cannot hold."""
    _check_names(requested, stored)
    kind = ("float32" if stored == "float32" else "bfloat16") if requested == "auto" else requested
    return Arithmetic(kind, "float32" if kind == "float32" else "bfloat16", on_gpu=True)


def _check_names(requested: str, stored: str) -> None:
    if requested not in ("auto", *KINDS):
        raise InvalidArgumentError(f"vision dtype is {requested!r}, expected one of {['auto', *KINDS]}")
    if stored not in KINDS:
        raise InvalidArgumentError(f"stored is {stored!r}, expected one of {list(KINDS)}")


def _fastest(stored: str, features: Mapping[str, bool]) -> str:
    if stored == "int8" and has_fast_int8(features):
        return "int8"
    if stored in ("int8", "bfloat16") and has_fast_bfloat16(features):
        return "bfloat16"
    return "float32"


def _attention(matrices: str, features: Mapping[str, bool]) -> str:
    if matrices == "int8":
        return "bfloat16" if has_fast_bfloat16(features) else "float32"
    return matrices
