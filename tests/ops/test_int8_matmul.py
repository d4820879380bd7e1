"""int8 products against the twin, on every instruction set here; bit-identity; errors, torch.compile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import PackedInt8, int8_matmul, pack_int8
from tinygptv_fast.quantize.int8 import Int8Tensor, quantize_int8
from tinygptv_fast.reference.int4_matmul import round_activations
from tinygptv_fast.reference.int8_matmul import int8_matmul_parts

pytestmark = pytest.mark.native

HERE = _native.isas()
EPS = 2.0**-24  # half a unit in the last place of float32, relative


def matrix(rows: int, columns: int, seed: int = 0) -> Int8Tensor:
    """Random levels over their whole range, -128 included, and scales of both signs."""
    generator = torch.Generator().manual_seed(seed + rows * 1000 + columns)
    levels = torch.randint(-128, 128, (rows, columns), dtype=torch.int8, generator=generator)
    return Int8Tensor(levels, torch.randn(rows, generator=generator) * 0.01)


def vector(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def close(
    y: torch.Tensor, x: torch.Tensor, w: Int8Tensor, bias: torch.Tensor | None = None, gelu: bool = False
) -> None:
    """One rounding for every 32 columns, for the row's scale and for the bias, each at most half a unit of what the
    magnitudes of all partial products come to."""
    total, magnitude = int8_matmul_parts(x, w)
    bound = (-(-w.columns // 32) + 2) * EPS * magnitude + 2.0**-149
    if bias is not None:
        total = total + bias.double()
        bound = bound + EPS * total.abs()
    if gelu:  # |gelu'| < 1.13; the rest as in test_int4_matmul
        bound = 1.13 * bound + 16 * EPS * total.abs().clamp_min(1.0)
        total = torch.nn.functional.gelu(total, approximate="tanh")
    assert y.shape == total.shape and y.dtype == torch.float32
    excess = ((y.double() - total).abs() / bound).nan_to_num(nan=float("inf"))
    worst = divmod(int(excess.argmax()), y.shape[1])
    assert excess[worst] <= 1, f"y{list(worst)} is {y[worst]}, expected {total[worst]} ± {bound[worst]}"


def on_every_isa(x: torch.Tensor, w: Int8Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> torch.Tensor:
    """The product, which must be the same bits on all instruction sets; ``out`` starts as NaN."""
    packed, results = pack_int8(w), []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        out = torch.full((x.shape[0], w.rows), torch.nan)
        results.append(int8_matmul(x, packed, out=out, **options))
        assert torch.equal(results[0].nan_to_num(12345.0), results[-1].nan_to_num(12345.0)), isa
    return results[0]


@pytest.mark.parametrize("columns", [*range(1, 18), 31, 32])
def test_integer_parts_are_equal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 32 columns the result is one integer times two float32 scales: equal to the last bit."""
    w, x = matrix(19, columns), vector(9, columns)
    x[3] *= 1e-30
    x[4] = 0
    levels, scales = round_activations(x)
    dot = levels[:, 0, :columns].float() @ w.qweight.float().t()
    assert torch.equal(on_every_isa(x, w, monkeypatch), dot * scales * w.scales)


def test_the_largest_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """All products at their extreme: nothing saturates on the way."""
    for level in (-128, 127):
        for sign in (-1.0, 1.0):
            w = Int8Tensor(torch.full((16, 64), level, dtype=torch.int8), torch.ones(16))
            y = on_every_isa(torch.full((2, 64), sign * 127), w, monkeypatch)
            assert torch.equal(y, torch.full((2, 16), sign * 127 * level * 64.0))


@pytest.mark.parametrize("rows", [*range(1, 18), 31, 32, 33, 47, 48, 49, 65])
def test_every_number_of_weight_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, bias = matrix(rows, 90 + rows), vector(5, 90 + rows), vector(rows, seed=1)
    close(on_every_isa(x, w, monkeypatch, bias=bias), x, w, bias)


@pytest.mark.parametrize("columns", [33, 63, 64, 65, 80, 127, 128, 129, 300, 5000])
def test_every_number_of_columns(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(18, columns), vector(6, columns)
    close(on_every_isa(x, w, monkeypatch), x, w)


@pytest.mark.parametrize("tokens", [0, *range(1, 18), 47, 48, 49, 95, 96, 97, 255, 256, 257])
def test_every_number_of_tokens(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(35, 100), vector(tokens, 100)
    result = on_every_isa(x, w, monkeypatch)
    if tokens:
        close(result, x, w)
    assert result.shape == (tokens, 35)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 70), st.integers(1, 300), st.integers(1, 70), st.booleans(), st.sampled_from(HERE),
    st.integers(1, 3), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_any_shape(tokens: int, columns: int, rows: int, gelu: bool, isa: str, threads: int, seed: int) -> None:
    w, x, bias = matrix(rows, columns, seed), vector(tokens, columns, seed=seed), vector(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYGPTV_CPU_ISA", isa)
        packed = pack_int8(w, threads=threads)
        y = int8_matmul(x, packed, bias, activation="gelu_tanh" if gelu else None, threads=threads)
    close(y, x, w, bias, gelu)


@pytest.mark.parametrize("isa", HERE)
def test_a_row_depends_on_nothing_else(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    w, bias, x = pack_int8(matrix(700, 330)), vector(700), vector(260, 330)
    alone = torch.cat([int8_matmul(row[None], w, bias, threads=1) for row in x])
    for tokens in [*range(1, 18), 48, 49, 257]:
        for threads in (1, 3):
            assert torch.equal(int8_matmul(x[-tokens:], w, bias, threads=threads), alone[-tokens:])


def test_a_bad_row_spoils_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(33, 100), vector(70, 100)
    good = on_every_isa(x, w, monkeypatch)
    x[1, 99], x[2, 0], x[69, 50] = torch.nan, torch.inf, -torch.inf
    result = on_every_isa(x, w, monkeypatch)
    bad = torch.zeros(70, dtype=torch.bool)
    bad[[1, 2, 69]] = True
    assert bool(result[bad].isnan().all()) and torch.equal(result[~bad], good[~bad])


def test_a_quantised_matrix_and_the_public_names() -> None:
    weight, x = vector(40, 200) * 0.01, vector(4, 200)
    w = quantize_int8(weight)
    y = tgv.ops.int8_matmul(x, tgv.ops.pack_int8(w), activation="gelu_tanh")
    assert torch.allclose(y, tgv.reference.int8_matmul(x, w, activation="gelu_tanh"), rtol=1e-5, atol=1e-5)
    exact = torch.nn.functional.gelu(x @ weight.t(), approximate="tanh")
    assert (y - exact).norm() / exact.norm() < 0.02  # two roundings to 8 bits: about 1 %
    assert tgv.ops.int8_matmul is int8_matmul


def test_opcheck() -> None:
    w = pack_int8(matrix(20, 70))
    for bias in (None, vector(20)):
        arguments = (vector(3, 70), w.data, bias, w.rows, w.columns, "gelu_tanh", 1)
        torch.library.opcheck(torch.ops.tinygptv_fast.int8_matmul, arguments)


def test_it_compiles_into_one_graph() -> None:
    w, bias = pack_int8(matrix(20, 70)), vector(20)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return int8_matmul(x * 2, w, bias) + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 5):
        x = vector(tokens, 70)
        assert torch.equal(compiled(x), layer(x))


X, OUT, PACKED = vector(3, 40), torch.empty(3, 20), pack_int8(matrix(20, 40))
BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("x", vector(3, 41), r"x is \[3,41\] f32, expected \[M,K=40\] f32; K was set by w"),
    ("x", vector(40), r"x is \[40\] f32, expected \[M,K=40\] f32"),
    ("x", X.double(), "float64"),
    ("x", torch.empty(3, 80)[:, ::2], "strided"),
    ("x", X.to("meta"), "on meta"),
    ("x", None, "x is NoneType"),
    ("w", matrix(20, 40), "w is Int8Tensor, expected a PackedInt8"),
    ("w", PackedInt8(PACKED.data, 40, 40), r"packed is \[\d+\] u8, expected \[\d+\] u8"),
    ("w", PackedInt8(PACKED.data, 0, 40), "N and K are"),
    ("w", PackedInt8(PACKED.data, 20, 2**62), "N and K are"),
    ("bias", vector(21), r"bias is \[21\] f32, expected \[N=20\] f32; N was set by w"),
    ("bias", 3, "bias is int"),
    ("out", torch.empty(2, 20), "M was set by x"),
    ("out", OUT.double(), "float64"),
    ("out", X.view(-1)[:60].view(3, 20), "must not overlap"),
    ("activation", "relu", "activation is 'relu'"),
    ("threads", 0, "threads is 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "w": PACKED, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        int8_matmul(**arguments)
    assert int8_matmul(X, PACKED).isfinite().all()


def test_the_binding_checks_what_python_cannot() -> None:
    good = {"out": np.empty((3, 20), np.float32), "x": X.numpy(), "packed": PACKED.data.numpy(), "bias": None}
    _native.int8_matmul(**good, rows=20, columns=40)
    frozen = np.empty((3, 20), np.float32)
    frozen.flags.writeable = False
    shifted = torch.empty(PACKED.nbytes + 64, dtype=torch.uint8).numpy()[1 : PACKED.nbytes + 1]
    for name, value, message in (
        ("out", frozen, "read-only"),
        ("packed", shifted, "multiple of 64 bytes"),
        ("isa", "sse9", "isa is 'sse9'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            _native.int8_matmul(**{**good, "rows": 20, "columns": 40, name: value})


class Parts:
    """An int8 matrix whose parts nobody has checked."""

    def __init__(self, **changes: Any) -> None:
        good = matrix(20, 40)
        self.qweight, self.scales = good.qweight, good.scales
        self.__dict__.update(changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"qweight": torch.zeros(20, 21, dtype=torch.uint8)}, InvalidArgumentError, "uint8"),
        ({"qweight": torch.zeros(400, dtype=torch.int8)}, InvalidArgumentError, r"qweight is \[400\] int8"),
        ({"qweight": torch.zeros(0, 40, dtype=torch.int8), "scales": torch.zeros(0)}, InvalidArgumentError, "N and K"),
        ({"scales": torch.zeros(19)}, InvalidArgumentError, "N was set by qweight"),
        ({"scales": torch.zeros(20).half()}, InvalidArgumentError, "float16"),
        ({"scales": torch.full((20,), torch.nan)}, CheckpointError, "scales"),
    ],
)
def test_packing_checks_its_parts(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    pack_int8(Parts())
    with pytest.raises(error, match=message):
        pack_int8(Parts(**changes))


def test_packing_wants_a_matrix_and_there_is_no_gradient() -> None:
    with pytest.raises(InvalidArgumentError, match="matrix is Tensor"):
        pack_int8(torch.zeros(3, 4))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="x requires a gradient"):
        int8_matmul(vector(3, 40).requires_grad_(), PACKED)
