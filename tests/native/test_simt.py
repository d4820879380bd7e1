"""The emulation's own half, bfloat16 and fp8 against torch: every code, and both sides of every rounding boundary."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

FORMATS = {
    "half": (torch.float16, 16),
    "bfloat16": (torch.bfloat16, 16),
    "e4m3": (torch.float8_e4m3fn, 8),
    "e5m2": (torch.float8_e5m2, 8),
}


def convert(build: Path, folder: Path, verb: str, name: str, values: np.ndarray) -> np.ndarray:
    """Runs csrc/tests/simt_numbers on an array of uint16 codes (decode) or float32 (encode)."""
    source, target = folder / "in", folder / "out"
    values.tofile(source)
    subprocess.run([build / "csrc" / "tests" / "simt_numbers", verb, name, source, target], check=True)
    return np.fromfile(target, np.float32 if verb == "decode" else np.uint16)


def torch_decode(name: str) -> np.ndarray:
    dtype, bits = FORMATS[name]
    integers = torch.arange(2**bits, dtype=torch.int32).to(torch.int16 if bits == 16 else torch.uint8)
    return integers.view(dtype).to(torch.float32).numpy()


def torch_encode(name: str, values: np.ndarray) -> np.ndarray:
    dtype, bits = FORMATS[name]
    codes = torch.from_numpy(values).to(dtype).view(torch.int16 if bits == 16 else torch.uint8)
    return codes.numpy().astype(np.uint16)


@pytest.mark.parametrize("name", FORMATS)
def test_every_code_decodes_as_torch_does(cpp_build: Path, tmp_path: Path, name: str) -> None:
    expected = torch_decode(name)
    got = convert(cpp_build, tmp_path, "decode", name, np.arange(expected.size, dtype=np.uint16))
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got[~nan].view(np.uint32), expected[~nan].view(np.uint32))  # signs of zeros as well


def boundaries(name: str) -> np.ndarray:
    """Every finite value, every midpoint between neighbours, and the floats next to each, of both signs."""
    positive = torch_decode(name)[: 2 ** (FORMATS[name][1] - 1)]
    values = np.unique(positive[np.isfinite(positive)].astype(np.float64))
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
    near = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))]
    out = np.concatenate(near)
    out = out[out <= values[-1]].astype(np.float32)
    return np.concatenate([out, -out])


@pytest.mark.parametrize("name", FORMATS)
def test_every_boundary_rounds_as_torch_does(cpp_build: Path, tmp_path: Path, name: str) -> None:
    values = boundaries(name)
    got = convert(cpp_build, tmp_path, "encode", name, values)
    wrong = np.flatnonzero(got != torch_encode(name, values))
    assert wrong.size == 0, f"{values[wrong[0]]!r} -> {got[wrong[0]]:#x}, {wrong.size} wrong"


@pytest.mark.parametrize("name", ["half", "bfloat16"])
def test_random_bit_patterns_round_as_torch_does(cpp_build: Path, tmp_path: Path, name: str) -> None:
    """Infinities, NaN and what overflows included."""
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    got = convert(cpp_build, tmp_path, "encode", name, values)
    expected = torch_encode(name, values)
    nan = np.isnan(values)
    assert nan.any() and np.isnan(convert(cpp_build, tmp_path, "decode", name, got[nan])).all()
    assert np.array_equal(got[~nan], expected[~nan])


@pytest.mark.parametrize(("name", "largest"), [("e4m3", 448.0), ("e5m2", 57344.0)])
def test_fp8_saturates(cpp_build: Path, tmp_path: Path, name: str, largest: float) -> None:
    """As the hardware's satfinite conversion, and unlike torch, which gives NaN or infinity."""
    values = np.array([largest * 1.5, np.inf, -1e30, np.nan], np.float32)
    codes = convert(cpp_build, tmp_path, "encode", name, values)
    back = convert(cpp_build, tmp_path, "decode", name, codes)
    assert back[:3].tolist() == [largest, largest, -largest]
    assert np.isnan(back[3])
