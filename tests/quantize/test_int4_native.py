"""The native search equals its torch twin bit for bit, on every instruction set and any number of threads."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tinygptv_fast import _native
from tinygptv_fast.env import CPU_ISAS
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.quantize.int4 import GROUP_SIZES, Int4Tensor, quantize_int4

pytestmark = pytest.mark.native

HERE = _native.isas()


def weights(kind: str, rows: int, columns: int) -> torch.Tensor:
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 1000 + columns))
    if kind == "outliers":
        w[:, ::13] *= 100
    elif kind == "denormal scales":
        w *= 1e-6
    elif kind == "vanishing":
        w *= 1e-20
    elif kind == "largest scales":
        w *= 65504.0 * 7 / w.abs().max()
    elif kind == "levels and ties":  # many exact half-way points and equal errors
        w = (w * 2).round() / 4
    elif kind == "one sign":
        w = w.abs() + 1
    elif kind == "zeros":
        w *= (w > 1.5).float()
    return w


def same(a: Int4Tensor, b: Int4Tensor) -> None:
    assert torch.equal(a.qweight, b.qweight)
    assert torch.equal(a.scales.view(torch.int16), b.scales.view(torch.int16))
    assert (a.zeros is None) == (b.zeros is None)
    assert a.zeros is None or b.zeros is None or torch.equal(a.zeros, b.zeros)
    assert a.error is not None and b.error is not None
    assert a.error.max_abs == b.error.max_abs and a.error.elements == b.error.elements
    # Per group the sums are the same float32 numbers; only the float64 total over groups is grouped differently.
    assert a.error.squared_error == pytest.approx(b.error.squared_error, rel=1e-12)
    assert a.error.squared_norm == pytest.approx(b.error.squared_norm, rel=1e-12)


def check_every_isa(w: torch.Tensor, group: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = quantize_int4(w, group, symmetric, backend="torch")
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        same(quantize_int4(w, group, symmetric), expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["normal", "outliers", "denormal scales", "vanishing", "largest scales", "levels and ties", "one sign", "zeros"],
)
def test_equal_to_the_torch_twin(kind: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w = weights(kind, 33, 515)
    for group in GROUP_SIZES:
        check_every_isa(w, group, symmetric, monkeypatch)


@pytest.mark.parametrize("columns", [*range(1, 18), 31, 32, 33, 63, 64, 65, 80, 127, 128, 129, 257])
def test_every_size(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 17):
        check_every_isa(weights("normal", rows, columns), 32, (rows + columns) % 3 > 0, monkeypatch)


@pytest.mark.parametrize("symmetric", [True, False])
def test_threads_change_nothing(symmetric: bool) -> None:
    w = weights("outliers", 301, 260)
    alone = quantize_int4(w, 32, symmetric, threads=1)
    for threads in (2, 3, 7):
        same(quantize_int4(w, 32, symmetric, threads=threads), alone)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("symmetric", [True, False])
def test_errors_name_the_first_place(isa: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    w = weights("normal", 3000, 70)
    w[2999, 3] = w[1234, 69] = float("nan")
    with pytest.raises(CheckpointError, match=r"^fc2 holds NaN or infinity in row 1234"):
        quantize_int4(w, 32, symmetric, name="fc2", threads=3)
    w[2999, 3] = w[1234, 69] = -float("inf")
    with pytest.raises(CheckpointError, match="row 1234"):
        quantize_int4(w, 32, symmetric, threads=2)
    w[2999, 3] = w[1234, 69] = 1e30
    with pytest.raises(CheckpointError, match="row 1234, group 2"):
        quantize_int4(w, 32, symmetric, threads=2)


def test_unknown_and_missing_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", "sse9")
    with pytest.raises(ConfigError, match="TINYGPTV_CPU_ISA"):
        quantize_int4(torch.zeros(1, 4))
    missing = [isa for isa in CPU_ISAS if isa not in HERE]
    for isa in missing:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        with pytest.raises(UnsupportedError, match=isa):
            quantize_int4(torch.zeros(1, 4))


def test_without_the_native_module_there_is_no_silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    import tinygptv_fast

    monkeypatch.setitem(sys.modules, "tinygptv_fast._native", None)
    monkeypatch.delattr(tinygptv_fast, "_native", raising=False)
    with pytest.raises(UnsupportedError, match="backend='torch'"):
        quantize_int4(torch.zeros(1, 4))
    assert quantize_int4(torch.zeros(1, 4), backend="torch").qweight.tolist() == [[0x88, 0x88]]
    with pytest.raises(InvalidArgumentError, match="backend"):
        quantize_int4(torch.zeros(1, 4), backend="numpy")


def binding_arguments() -> dict[str, object]:
    f32 = {name: np.empty((2, 2), np.float32) for name in ("error", "norm", "worst")}
    return {
        "qweight": np.empty((2, 20), np.uint8), "scales": np.empty((2, 2), np.float16), "zeros": None, **f32,
        "weight": np.zeros((2, 40), np.float32), "group_size": 32, "threads": 1, "isa": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("qweight", np.empty((2, 21), np.uint8)),
        ("qweight", np.empty((2, 20), np.int8)),
        ("qweight", np.empty((2, 40), np.uint8)[:, ::2]),
        ("qweight", bytes(40)),
        ("scales", np.empty((2, 2), np.float32)),
        ("scales", np.empty((1, 2), np.float16)),
        ("zeros", np.empty((2, 1), np.uint8)),
        ("error", np.empty((2, 3), np.float32)),
        ("norm", np.empty((2, 2), np.float64)),
        ("worst", np.empty((4,), np.float32)),
        ("weight", np.zeros((2, 41), np.float32)),
        ("weight", np.zeros((2, 40), np.float16)),
        ("weight", np.zeros((0, 40), np.float32)),
        ("weight", np.zeros((80,), np.float32)),
        ("group_size", 0),
        ("group_size", -32),
        ("group_size", 48),
        ("threads", 0),
        ("isa", "sse9"),
    ],
)
def test_the_binding_checks_every_argument(name: str, value: object) -> None:
    assert _native.quantize_int4(**binding_arguments()) == (-1, -1)
    with pytest.raises(InvalidArgumentError):
        _native.quantize_int4(**{**binding_arguments(), name: value})
