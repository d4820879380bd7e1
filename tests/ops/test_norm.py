"""The norms against float64, on every instruction set here; bit-identity; in place; errors; torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import add_branches, layer_norm, rms_norm
from tinygptv_fast.reference import phi

pytestmark = pytest.mark.native

HERE = _native.isas()
UNIT = 2.0**-24
WIDTHS = [*range(1, 18), 31, 32, 33, 47, 48, 49, 63, 64, 65, 80, 127, 128, 129, 192, 2559, 2560, 2561]


def rows(tokens: int, width: int, seed: int = 0, middle: float = 0.0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) + middle


def row(width: int, seed: int = 1) -> torch.Tensor:
    return rows(1, width, seed)[0]


def on_every_isa(call: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The result, which must be the same bits on all instruction sets."""
    results = []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        results.append(call())
        assert torch.equal(results[0].nan_to_num(12345.0), results[-1].nan_to_num(12345.0)), isa
    return results[0]


def close(y: torch.Tensor, truth: torch.Tensor, bound: torch.Tensor) -> None:
    excess = ((y.double() - truth).abs() / bound).nan_to_num(nan=float("inf"))
    at = divmod(int(excess.argmax()), y.shape[1])
    assert excess.max() <= 1, f"y{list(at)} is {y[at]}, expected {truth[at]} ± {bound[at]}"


def sum_units(width: int) -> float:
    """Relative error of a sum of magnitudes: csrc/kernels/cpu/norm.h, Numerics."""
    return (width / 64 + 10) * UNIT


def rms_truth(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 and its bound: half the error of the sum, one rounding of 1/sqrt and one per product."""
    truth = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()
    return truth, (5 * UNIT + sum_units(x.shape[1])) * truth.abs() + 2.0**-149


@pytest.mark.parametrize("middle", [0.0, 300.0])
@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm(width: int, middle: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, eps = rows(3, width, middle=middle), row(width), row(width, 2), 1e-5
    y = on_every_isa(lambda: layer_norm(x, weight, bias, eps), monkeypatch)
    d = x.double() - x.double().mean(-1, keepdim=True)
    variance = d.square().mean(-1, keepdim=True) + eps
    truth = d / variance.sqrt() * weight.double() + bias.double()
    # The mean is off by the error of its sum and one rounding; that enters d at once and the variance squared.
    mean_error = sum_units(width) * x.double().abs().mean(-1, keepdim=True) + UNIT * abs(middle)
    relative = 5 * UNIT + sum_units(width) + mean_error.square() / variance
    bound = weight.double().abs() / variance.sqrt() * (mean_error + d.abs() * relative)
    close(y, truth, 1.01 * bound + UNIT * truth.abs())
    assert torch.allclose(tgv.reference.layer_norm(x, weight, bias, eps).double(), truth, rtol=1e-7, atol=1e-30)


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = rows(3, width), row(width)
    close(on_every_isa(lambda: rms_norm(x, weight, 1e-6), monkeypatch), *rms_truth(x, weight, 1e-6))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
def test_add_branches(width: int, normed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, attention, mlp, weight = rows(3, width), rows(3, width, 1), rows(3, width, 2), row(width) if normed else None
    y = on_every_isa(lambda: add_branches(x, attention, mlp, weight, 1e-6), monkeypatch)
    branch, bound = attention.double(), torch.zeros(3, width, dtype=torch.float64)
    if weight is not None:
        branch, bound = rms_truth(attention, weight, 1e-6)
    inner = branch + mlp.double()
    truth = x.double() + inner
    close(y, truth, 1.01 * (bound + UNIT * (inner.abs() + truth.abs())) + 2.0**-149)
    twin = tgv.reference.add_branches(x, attention, mlp, weight, 1e-6)
    assert torch.allclose(twin.double(), truth, rtol=1e-7, atol=1e-30)


def test_they_are_the_norms_of_the_model() -> None:
    """torch's LayerNorm and the model's RMSNorm, within what float32 costs both."""
    x, norm, rms = rows(5, 2560), torch.nn.LayerNorm(2560), phi.RMSNorm(2560, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(row(2560)), norm.bias.copy_(row(2560, 2)), rms.weight.copy_(row(2560, 3))
        assert torch.allclose(layer_norm(x, norm.weight, norm.bias, norm.eps), norm(x), rtol=1e-5, atol=1e-5)
        assert torch.allclose(rms_norm(x, rms.weight, 1e-6), rms(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", HERE)
def test_a_row_depends_on_itself(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    x, other, weight, bias = rows(9, 333), rows(9, 333, 1), row(333), row(333, 2)
    whole = layer_norm(x, weight, bias), rms_norm(x, weight), add_branches(x, other, x, weight)
    for t in range(9):
        r, o = x[t : t + 1], other[t : t + 1]
        alone = layer_norm(r, weight, bias), rms_norm(r, weight), add_branches(r, o, r, weight)
        assert all(torch.equal(a[0], w[t]) for a, w in zip(alone, whole, strict=True))


@pytest.mark.parametrize("isa", HERE)
def test_a_bad_row_spoils_itself_alone(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    x, weight, bias = rows(4, 100), row(100), row(100, 2)
    good = layer_norm(x, weight, bias), rms_norm(x, weight)
    x[1, 99], x[2, 0] = torch.nan, torch.inf
    for y, before in zip((layer_norm(x, weight, bias), rms_norm(x, weight)), good, strict=True):
        assert bool(y[1].isnan().all()) and bool(y[2].isnan().any())
        assert torch.equal(y[[0, 3]], before[[0, 3]])


@pytest.mark.parametrize("isa", HERE)
def test_only_the_output_is_written_and_nothing_else_read(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs end where NaN begins, and guards around the output stay as they are."""
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)

    def guarded(tensor: torch.Tensor) -> torch.Tensor:
        around = torch.full((tensor.numel() + 32,), torch.nan)
        return around[: tensor.numel()].view(tensor.shape).copy_(tensor)

    for width in (1, 15, 33, 65):
        x, weight, bias = rows(3, width), row(width), row(width, 2)
        around = torch.full((3 * width + 64,), 7.0)
        out = around[32:-32].view(3, width)
        layer_norm(guarded(x), guarded(weight), guarded(bias), out=out)
        assert torch.equal(out, layer_norm(x, weight, bias))
        add_branches(guarded(x), guarded(x), guarded(x), guarded(weight), out=out)
        assert torch.equal(out, add_branches(x, x, x, weight))
        rms_norm(guarded(x), guarded(weight), out=out)
        assert torch.equal(out, rms_norm(x, weight))
        assert bool((around[:32] == 7).all()) and bool((around[-32:] == 7).all())


def test_in_place() -> None:
    x, other, weight, bias = rows(4, 70), rows(4, 70, 1), row(70), row(70, 2)
    for call in (
        lambda a, **out: layer_norm(a, weight, bias, **out),
        lambda a, **out: rms_norm(a, weight, **out),
        lambda a, **out: add_branches(a, other, other, weight, **out),
    ):
        copy, fresh = x.clone(), torch.full_like(x, torch.nan)
        expected = call(x)
        assert call(copy, out=copy) is copy and torch.equal(copy, expected)
        assert call(x, out=fresh) is fresh and torch.equal(fresh, expected)


def test_no_rows() -> None:
    empty, weight = torch.empty(0, 8), row(8)
    assert layer_norm(empty, weight, weight).shape == (0, 8) and rms_norm(empty, weight).shape == (0, 8)
    assert add_branches(empty, empty, empty).shape == (0, 8)


def test_opcheck_and_one_graph() -> None:
    x, weight, bias = rows(3, 20), row(20), row(20, 2)
    torch.library.opcheck(torch.ops.tinygptv_fast.layer_norm, (x, weight, bias, 1e-5))
    torch.library.opcheck(torch.ops.tinygptv_fast.rms_norm, (x, weight, 1e-5))
    for given in (weight, None):
        torch.library.opcheck(torch.ops.tinygptv_fast.add_branches, (x, x, x, given, 1e-5))

    def layer(x: torch.Tensor) -> torch.Tensor:
        h = layer_norm(x * 2, weight, bias)
        return add_branches(x, rms_norm(h, weight), h, weight)

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 5):
        assert torch.equal(compiled(rows(tokens, 20)), layer(rows(tokens, 20)))


def test_there_is_no_gradient() -> None:
    x, weight = rows(3, 20).requires_grad_(), row(20)
    with pytest.raises(UnsupportedError, match="x requires a gradient"):
        rms_norm(x, weight)


X, W = rows(3, 40), row(40)
WIDE = torch.zeros(3, 80)
BAD: list[tuple[str, Any, str]] = [
    ("x", rows(3, 41), r"weight is \[40\] f32, expected \[C=41\] f32; C was set by x"),
    ("x", row(40), r"x is \[40\] f32, expected \[T,C\] f32"),
    ("x", X.double(), "float64"),
    ("x", X.half(), "float16"),
    ("x", WIDE[:, ::2], "strided"),
    ("x", X.to("meta"), "on meta"),
    ("x", X.numpy(), "x is ndarray"),
    ("x", torch.empty(3, 0), "C"),
    ("weight", row(39), r"weight is \[39\] f32, expected \[C=40\] f32; C was set by x"),
    ("weight", rows(1, 40), r"weight is \[1,40\] f32"),
    ("weight", torch.zeros(80)[::2], "strided"),
    ("weight", W.double(), "float64"),
    ("weight", 1.0, "weight is float"),
    ("bias", row(41), r"bias is \[41\] f32"),
    ("bias", None, "bias is NoneType"),
    ("eps", 0.0, "eps is 0"),
    ("eps", -1e-5, "eps is -"),
    ("eps", float("nan"), "eps is nan"),
    ("eps", float("inf"), "eps is inf"),
    ("eps", "1e-5", "eps is '1e-5', expected a number"),
    ("out", torch.empty(3, 41), r"out is \[3,41\] f32, expected \[T=3,C=40\] f32"),
    ("out", torch.empty(2, 40), "T=3"),
    ("out", torch.empty(3, 40, dtype=torch.float64), "float64"),
    ("out", WIDE[:, :40], "strided"),
    ("out", "x", "out is str"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_bad_arguments_of_layer_norm(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "weight": W, "bias": W, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        layer_norm(**arguments)
    assert layer_norm(X, W, W).isfinite().all()


@pytest.mark.parametrize(("name", "value", "message"), [case for case in BAD if case[0] != "bias"])
def test_bad_arguments_of_rms_norm(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "weight": W, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        rms_norm(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("attention", rows(2, 40), r"attention is \[2,40\] f32, expected \[T=3,C=40\] f32; T was set by x"),
        ("attention", X.double(), "float64"),
        ("mlp", rows(3, 39), r"mlp is \[3,39\] f32, expected \[T=3,C=40\] f32"),
        ("mlp", None, "mlp is NoneType"),
        ("mlp", WIDE[:, ::2], "strided"),
        ("x", X.double(), "float64"),
        ("x", row(40), "x is"),
        ("weight", row(41), r"weight is \[41\] f32, expected \[C=40\] f32"),
        ("eps", 0, "eps is 0"),
        ("out", rows(2, 40), r"out is \[2, 40\], expected \[3, 40\]"),
    ],
)
def test_bad_arguments_of_add_branches(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "attention": X, "mlp": X, "weight": W, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        add_branches(**arguments)


def test_outputs_share_no_memory_with_other_inputs() -> None:
    memory = torch.zeros(200)
    x, shifted, weight = memory[:120].view(3, 40), memory[40:160].view(3, 40), memory[120:160]
    for call in (
        lambda: layer_norm(x, W, W, out=shifted),
        lambda: rms_norm(x, W, out=shifted),
        lambda: rms_norm(X, weight, out=shifted),
        lambda: layer_norm(X, W, weight, out=shifted),
        lambda: add_branches(x, shifted, X, out=x),
        lambda: add_branches(x, X, x, out=x),
    ):
        with pytest.raises(InvalidArgumentError, match="shares memory"):
            call()
