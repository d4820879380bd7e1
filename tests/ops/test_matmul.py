"""Float products against float64, on every instruction set here; bit-identity; errors, torch.compile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import PackedFloat, matmul, pack_float

pytestmark = pytest.mark.native

HERE = _native.isas()
EPS = 2.0**-24  # half a unit in the last place of float32, relative
KINDS = (torch.float32, torch.bfloat16)


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(
    y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, gelu: bool = False
) -> None:
    """One rounding for every column and one for the bias, each at most half a unit of what the magnitudes of all
    products come to."""
    total, magnitude = x.double() @ w.double().t(), x.double().abs() @ w.double().abs().t()
    bound = w.shape[1] * EPS * magnitude + 2.0**-149
    if bias is not None:
        total = total + bias.double()
        bound = bound + EPS * (total.abs() + bound)
    if gelu:  # |gelu'| < 1.13; the rest as in test_int4_matmul
        bound = 1.13 * bound + 16 * EPS * total.abs().clamp_min(1.0)
        total = torch.nn.functional.gelu(total, approximate="tanh")
    assert y.shape == total.shape and y.dtype == torch.float32
    excess = ((y.double() - total).abs() / bound).nan_to_num(nan=float("inf"))
    worst = divmod(int(excess.argmax()), y.shape[1])
    assert excess[worst] <= 1, f"y{list(worst)} is {y[worst]}, expected {total[worst]} ± {bound[worst]}"


def on_every_isa(
    x: torch.Tensor, w: torch.Tensor, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> torch.Tensor:
    """The product, which must be the same bits on all instruction sets; ``out`` starts as NaN."""
    packed, results = pack_float(w, dtype=dtype), []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        out = torch.full((x.shape[0], w.shape[0]), torch.nan)
        results.append(matmul(x, packed, out=out, **options))
        assert torch.equal(results[0].nan_to_num(12345.0), results[-1].nan_to_num(12345.0)), isa
    return results[0]


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("rows", [*range(1, 18), 31, 32, 33, 47, 48, 49, 65])
def test_every_number_of_weight_rows(rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, bias = values(rows, 90).to(dtype), values(9, 90), values(rows)
    close(on_every_isa(x, w, dtype, monkeypatch, bias=bias), x, w, bias)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("columns", [*range(1, 9), 31, 32, 33, 255, 256, 257, 511, 512, 513, 2560])
def test_every_number_of_columns(columns: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = values(35, columns).to(dtype), values(9, columns)
    close(on_every_isa(x, w, dtype, monkeypatch), x, w)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("tokens", [0, *range(1, 18), 47, 48, 49, 95, 96, 97, 257])
def test_every_number_of_tokens(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = values(35, 100).to(dtype), values(tokens, 100)
    result = on_every_isa(x, w, dtype, monkeypatch)
    if tokens:
        close(result, x, w)
    assert result.shape == (tokens, 35)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 70), st.integers(1, 600), st.integers(1, 70), st.booleans(), st.sampled_from(KINDS),
    st.sampled_from(HERE), st.integers(1, 3), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_any_shape(
    tokens: int, columns: int, rows: int, gelu: bool, dtype: torch.dtype, isa: str, threads: int, seed: int
) -> None:
    w, x, bias = values(rows, columns, seed=seed).to(dtype), values(tokens, columns, seed=seed), values(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYGPTV_CPU_ISA", isa)
        packed = pack_float(w, dtype=dtype, threads=threads)
        y = matmul(x, packed, bias, activation="gelu_tanh" if gelu else None, threads=threads)
    close(y, x, w, bias, gelu)


def test_sums_that_round_to_nothing_or_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a fused operation is emulated: ties, cancellation, denormals, overflow, infinity and NaN. What the first
    product leaves is exact; the second and the sum are rounded once, as in exact arithmetic."""
    extremes = [0.0, -0.0, 1.0, 1 + 2.0**-23, 1 - 2.0**-24, 2.0**-126, 3 * 2.0**-149, 2.0**127, 1.5 * 2.0**127]
    extremes += [2.0**12 + 2.0**-11, 1 / 3, 2.0**-75, torch.inf, torch.nan]
    a = torch.tensor([sign * value for value in extremes for sign in (1, -1)])
    first, second = torch.meshgrid(a, a, indexing="ij")
    x = torch.stack([torch.ones_like(first).flatten(), first.flatten()], 1)  # 1·c, then first·w
    w = torch.stack([second[0], torch.tensor([1 + 2.0**-12]).expand(len(a))], 1)
    y = on_every_isa(x, w, torch.float32, monkeypatch)
    exact = (
        x[:, 1:].double() * w[:, 1].double() + w[:, 0].double()
    )  # 24 + 24 bits and an addend: mostly exact in double
    halves = exact.float().double()
    differs = (y.double() != halves) & ~(y.isnan() & halves.isnan())
    assert int(differs.sum()) <= 0.01 * y.numel()  # float64 itself rounds some, and then rounds again
    near = (y.double() - exact).abs() <= EPS * exact.abs() * (1 + 2.0**-20) + 2.0**-150 * (1 + 2.0**-20)
    assert bool((near | exact.isnan() | (exact.abs() > 3.4e38) | exact.isinf()).all())


@pytest.mark.parametrize("dtype", KINDS)
def test_nan_and_infinity_go_their_way(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = values(20, 7).to(dtype), values(5, 7)
    good = on_every_isa(x, w, dtype, monkeypatch)
    x[1, 6], x[3, 0] = torch.nan, torch.inf
    y = on_every_isa(x, w, dtype, monkeypatch)
    assert bool(y[1].isnan().all()) and bool(y[3].isinf().all())
    assert torch.equal(y[[0, 2, 4]], good[[0, 2, 4]])


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", KINDS)
def test_a_row_depends_on_nothing_else(dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    w, bias, x = pack_float(values(300, 333), dtype=dtype), values(300), values(100, 333)
    alone = torch.cat([matmul(row[None], w, bias, threads=1) for row in x])
    for tokens in [*range(1, 18), 48, 49, 100]:
        for threads in (1, 3):
            assert torch.equal(matmul(x[-tokens:], w, bias, threads=threads), alone[-tokens:])


def test_packing() -> None:
    w = values(20, 41)
    assert torch.equal(pack_float(w, threads=1).data, pack_float(w, threads=3).data)
    assert torch.equal(pack_float(w.bfloat16(), dtype=torch.bfloat16).data, pack_float(w, dtype=torch.bfloat16).data)
    assert pack_float(values(32, 64)).nbytes == 32 * 64 * 4
    assert pack_float(values(32, 64), dtype=torch.bfloat16).nbytes == 32 * 64 * 2


def test_torch_and_the_public_names() -> None:
    w, x, bias = values(40, 200), values(4, 200), values(40)
    y = tgv.ops.matmul(x, tgv.ops.pack_float(w), bias, activation="gelu_tanh")
    assert torch.allclose(y, tgv.reference.matmul(x, w, bias, activation="gelu_tanh"), rtol=1e-5, atol=1e-5)
    plain = torch.nn.functional.gelu(torch.nn.functional.linear(x, w, bias), approximate="tanh")
    assert torch.allclose(y, plain, rtol=1e-4, atol=1e-4)
    assert tgv.ops.matmul is matmul


@pytest.mark.parametrize("dtype", KINDS)
def test_opcheck(dtype: torch.dtype) -> None:
    w = pack_float(values(20, 70), dtype=dtype)
    for bias in (None, values(20)):
        arguments = (values(3, 70), w.data, bias, w.rows, w.columns, w.kind, "gelu_tanh", 1)
        torch.library.opcheck(torch.ops.tinygptv_fast.matmul, arguments)


def test_it_compiles_into_one_graph() -> None:
    w, bias = pack_float(values(20, 70)), values(20)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return matmul(x * 2, w, bias) + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 5):
        x = values(tokens, 70)
        assert torch.equal(compiled(x), layer(x))


X, OUT, PACKED = values(3, 40), torch.empty(3, 20), pack_float(values(20, 40))
BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("x", values(3, 41), r"x is \[3,41\] f32, expected \[M,K=40\] f32; K was set by w"),
    ("x", values(40), r"x is \[40\] f32, expected \[M,K=40\] f32"),
    ("x", X.double(), "float64"),
    ("x", torch.empty(3, 80)[:, ::2], "strided"),
    ("x", X.to("meta"), "on meta"),
    ("x", None, "x is NoneType"),
    ("w", values(20, 40), "w is Tensor, expected a PackedFloat"),
    ("w", PackedFloat(PACKED.data, 40, 40, "f32"), r"packed is \[\d+\] u8, expected \[\d+\] u8"),
    ("w", PackedFloat(PACKED.data, 20, 40, "bf16"), r"packed is \[\d+\] u8, expected \[\d+\] u8"),
    ("w", PackedFloat(PACKED.data, 20, 40, "f64"), "kind is 'f64'"),
    ("w", PackedFloat(PACKED.data, 0, 40, "f32"), "N and K are"),
    ("w", PackedFloat(PACKED.data, 20, 2**62, "f32"), "N and K are"),
    ("bias", values(21), r"bias is \[21\] f32, expected \[N=20\] f32; N was set by w"),
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
        matmul(**arguments)
    assert matmul(X, PACKED).isfinite().all()


def test_the_binding_checks_what_python_cannot() -> None:
    good = {"out": np.empty((3, 20), np.float32), "x": X.numpy(), "packed": PACKED.data.numpy(), "bias": None}
    sizes = {"rows": 20, "columns": 40, "kind": "f32"}
    _native.matmul(**good, **sizes)
    frozen = np.empty((3, 20), np.float32)
    frozen.flags.writeable = False
    shifted = torch.empty(PACKED.nbytes + 64, dtype=torch.uint8).numpy()[4 : PACKED.nbytes + 4]
    for name, value, message in (
        ("out", frozen, "read-only"),
        ("packed", shifted, "multiple of 64 bytes"),
        ("isa", "sse9", "isa is 'sse9'"),
        ("kind", "int8", "kind is 'int8'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            _native.matmul(**{**good, **sizes, name: value})


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (values(20, 40).double(), {}, "weight is .*float64"),
        (values(40), {}, r"weight is \[40\] torch.float32, expected \[N, K\]"),
        (torch.zeros(0, 40), {}, "N and K"),
        (values(20, 80)[:, ::2], {}, "strided"),
        (None, {}, "weight is NoneType"),
        (values(20, 40), {"dtype": torch.float16}, "dtype is torch.float16"),
        (values(20, 40), {"threads": 0}, "threads is 0"),
    ],
)
def test_packing_checks_its_arguments(weight: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        pack_float(weight, **options)


def test_there_is_no_gradient() -> None:
    with pytest.raises(UnsupportedError, match="x requires a gradient"):
        matmul(values(3, 40).requires_grad_(), PACKED)
