"""The table of docs/vision.md, on CPUs this machine need not be."""

from __future__ import annotations

import pytest

from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.vision import choose_arithmetic

AVX512 = {"avx2": True, "avx512f": True, "avx512bw": True, "avx512vl": True, "avx512dq": True}
CPUS = {
    "old": {"avx2": True, "avx_vnni": False},
    "laptop": {"avx2": True, "avx_vnni": True},
    "avx512": {**AVX512, "avx512_vnni": False},
    "vnni": {**AVX512, "avx512_vnni": True},
    "bf16": {**AVX512, "avx512_vnni": True, "avx512_bf16": True},
    "amx": {**AVX512, "avx512_vnni": True, "avx512_bf16": True, "amx_int8": True, "amx_bf16": True},
    "unknown": {},
}


@pytest.mark.parametrize(
    "cpu,stored,expected",
    [
        ("old", "int8", "float32"),
        ("old", "bfloat16", "float32"),
        ("avx512", "int8", "float32"),
        ("unknown", "int8", "float32"),
        ("laptop", "int8", "int8/float32"),
        ("vnni", "int8", "int8/float32"),
        ("vnni", "bfloat16", "float32"),
        ("bf16", "int8", "int8/bfloat16"),
        ("bf16", "bfloat16", "bfloat16"),
        ("amx", "int8", "int8/bfloat16"),
        ("amx", "bfloat16", "bfloat16"),
        ("amx", "float32", "float32"),  # exactness was chosen at conversion
    ],
)
def test_auto(cpu: str, stored: str, expected: str) -> None:
    assert str(choose_arithmetic("auto", stored, CPUS[cpu])) == expected


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "int8"])
def test_asked_for_by_name(stored: str) -> None:
    assert str(choose_arithmetic("float32", stored, CPUS["amx"])) == "float32"
    assert str(choose_arithmetic("bfloat16", stored, CPUS["avx512"])) == "bfloat16"
    assert str(choose_arithmetic("int8", stored, CPUS["laptop"])) == "int8/float32"
    for cpu in ("old", "avx512", "unknown"):
        with pytest.raises(UnsupportedError, match="'int8': int8 needs a CPU with AVX-VNNI"):
            choose_arithmetic("int8", stored, CPUS[cpu])
    for cpu in ("old", "laptop", "unknown"):
        with pytest.raises(UnsupportedError, match="'bfloat16': bfloat16 needs a CPU with AVX-512"):
            choose_arithmetic("bfloat16", stored, CPUS[cpu])


def test_unknown_names() -> None:
    with pytest.raises(InvalidArgumentError, match="vision dtype is 'float16', expected one of"):
        choose_arithmetic("float16", "int8", CPUS["amx"])
    with pytest.raises(InvalidArgumentError, match="stored is 'int4', expected one of"):
        choose_arithmetic("auto", "int4", CPUS["amx"])
