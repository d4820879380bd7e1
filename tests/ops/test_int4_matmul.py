"""int4 products against the twin, on every instruction set here; bit-identity; padding, errors, torch.compile."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.env import CPU_ISAS
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import PackedInt4, int4_matmul, pack_int4
from tinygptv_fast.quantize.int4 import GROUP_SIZES, Int4Tensor, dequantize_int4
from tinygptv_fast.quantize.packing import pack_nibbles
from tinygptv_fast.reference.int4_matmul import int4_matmul_parts, round_activations

pytestmark = pytest.mark.native

HERE = _native.isas()
EPS = 2.0**-24  # half a unit in the last place of float32, relative


def matrix(rows: int, columns: int, group: int = 32, symmetric: bool = True, seed: int = 0) -> Int4Tensor:
    """Random levels, scales of both signs when symmetric, and zeros over their whole range."""
    generator = torch.Generator().manual_seed(seed + rows * 1000 + columns)
    draw = lambda top, *shape: torch.randint(0, top, shape, dtype=torch.uint8, generator=generator)  # noqa: E731
    groups = -(-columns // group)
    scales = torch.randn(rows, groups, generator=generator).half() * 0.02
    if not symmetric:
        scales = scales.abs()
    zeros = None if symmetric else pack_nibbles(draw(16, rows, groups))
    return Int4Tensor(pack_nibbles(draw(16, rows, columns), pad=15), scales, zeros, columns, group)


def vector(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def expected(
    x: torch.Tensor, w: Int4Tensor, bias: torch.Tensor | None, activation: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 result of the twin, and how far float32 may be from it."""
    total, magnitude = int4_matmul_parts(x, w)
    bound = 4 * max(1.0, w.columns / w.group_size) ** 0.5 * EPS * magnitude + 2.0**-149
    if bias is not None:
        total = total + bias.double()
        bound = bound + EPS * total.abs()  # one addition
    if activation == "gelu_tanh":
        # |gelu'| < 1.13; some ten roundings of about one unit each, of the argument of exp (at most 2|u| units, where
        # |u|·|gelu| < 1 for negative arguments) and of the result.
        bound = 1.13 * bound + 16 * EPS * total.abs().clamp_min(1.0)
        total = torch.nn.functional.gelu(total, approximate="tanh")
    return total, bound


def close(y: torch.Tensor, truth: tuple[torch.Tensor, torch.Tensor], what: str = "") -> None:
    value, bound = truth
    assert y.shape == value.shape and y.dtype == torch.float32
    excess = ((y.double() - value).abs() / bound).nan_to_num(nan=float("inf"))
    worst = int(excess.argmax())
    at = divmod(worst, y.shape[1])
    assert excess.flatten()[worst] <= 1, f"{what}: y{list(at)} is {y[at]}, expected {value[at]} ± {bound[at]}"


def on_every_isa(x: torch.Tensor, w: Int4Tensor, monkeypatch: pytest.MonkeyPatch, **options: Any) -> torch.Tensor:
    """The product, which must be the same bits on all instruction sets; ``out`` starts as NaN."""
    packed, results = pack_int4(w), []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        out = torch.full((x.shape[0], w.rows), torch.nan)
        results.append(int4_matmul(x, packed, out=out, **options))
        assert torch.equal(results[0].nan_to_num(12345.0), results[-1].nan_to_num(12345.0)), (
            f"{isa} differs from {HERE[0]}"
        )
    return results[0]


# --- the right numbers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [*range(1, 18), 31, 32])
def test_integer_parts_are_equal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 32 columns the result is one integer times one float32 scale: equal to the last bit."""
    for symmetric in (True, False):
        w, x = matrix(19, columns, symmetric=symmetric), vector(9, columns)
        x[3] *= 1e-30
        x[4] = 0
        x[5, 0] = 1e32
        levels, scales = round_activations(x)
        zeros = torch.full((19, 1), 8.0) if w.zeros is None else (w.zeros & 15).float()
        q = torch.stack([w.qweight & 15, w.qweight >> 4], -1).view(19, -1)[:, :columns].float() - zeros
        dot = levels[:, 0, :columns].float() @ q.t()
        assert torch.equal(on_every_isa(x, w, monkeypatch), dot * (scales * w.scales.float().t()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize("rows", [*range(1, 18), 31, 32, 33, 47, 48, 49, 65])
def test_every_number_of_weight_rows(rows: int, group: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, bias = matrix(rows, 90 + rows, group, symmetric), vector(5, 90 + rows), vector(rows, seed=1)
    close(on_every_isa(x, w, monkeypatch, bias=bias), expected(x, w, bias, None))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUP_SIZES)
@pytest.mark.parametrize(
    "columns", [*range(1, 18), 31, 32, 33, 63, 64, 65, 80, 96, 127, 128, 129, 159, 160, 161, 256, 257, 300]
)
def test_every_number_of_columns(columns: int, group: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(18, columns, group, symmetric), vector(6, columns)
    close(on_every_isa(x, w, monkeypatch), expected(x, w, None, None))


@pytest.mark.parametrize("tokens", [0, *range(1, 18), 47, 48, 49, 63, 64, 65, 95, 96, 97, 255, 256, 257, 300, 513])
def test_every_number_of_tokens(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(35, 100, 64, tokens % 2 == 0), vector(tokens, 100)
    result = on_every_isa(x, w, monkeypatch)
    if tokens:
        close(result, expected(x, w, None, None))
    assert result.shape == (tokens, 35)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 400), st.integers(1, 70), st.sampled_from(GROUP_SIZES), st.booleans(),
    st.sampled_from([None, "gelu_tanh"]), st.sampled_from(HERE), st.integers(1, 3), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_any_shape(
    tokens: int, columns: int, rows: int, group: int, symmetric: bool, activation: str | None, isa: str, threads: int,
    seed: int,
) -> None:  # fmt: skip
    w, x, bias = matrix(rows, columns, group, symmetric, seed), vector(tokens, columns, seed=seed), vector(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYGPTV_CPU_ISA", isa)
        y = int4_matmul(x, pack_int4(w, threads=threads), bias, activation=activation, threads=threads)
    close(y, expected(x, w, bias, activation), isa)


def test_a_long_row(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x, bias = matrix(48, 10240), vector(3, 10240), vector(48)
    close(on_every_isa(x, w, monkeypatch, bias=bias), expected(x, w, bias, None))


def test_gelu_over_its_whole_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of 0 leaves the bias: the activation alone."""
    w = Int4Tensor(torch.full((4001, 1), 0x88, dtype=torch.uint8), torch.ones(4001, 1).half(), None, 2, 32)
    bias = torch.cat([torch.linspace(-12, 12, 3001), torch.logspace(-38, 38, 1000) * torch.tensor([-1, 1] * 500)])
    y = on_every_isa(torch.ones(1, 2), w, monkeypatch, bias=bias, activation="gelu_tanh")
    value = torch.nn.functional.gelu(bias.double(), approximate="tanh")
    error = (y[0].double() - value).abs()
    assert bool((error <= 16 * EPS * torch.where(bias > 0, value, value.abs().clamp_min(1))).all())


def test_what_rounding_activations_costs() -> None:
    """Against unrounded activations: each is off by at most half a step, 1/127.5 of its block's largest."""
    w, x = matrix(40, 256), vector(7, 256)
    y = int4_matmul(x, pack_int4(w))
    steps = x.view(7, 8, 32).abs().amax(-1, keepdim=True).expand(7, 8, 32).reshape(7, 256) / 127.5
    weight = dequantize_int4(w)
    bound = steps @ weight.abs().t() * 1.001 + 1e-6
    assert bool(((y - x @ weight.t()).abs() <= bound).all())


def test_scales_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 denormals, zeros, negatives and the largest."""
    w = matrix(16, 64)
    special = [0.0, -0.0, 2.0**-24, -(2.0**-24), 2.0**-15, 6e-5, 65504.0, -65504.0]
    w.scales.copy_(torch.tensor(special * 4).view(16, 2))
    x = vector(3, 64)
    close(on_every_isa(x, w, monkeypatch), expected(x, w, None, None))


# --- independence: rows, threads, padding -----------------------------------------------------------------------------
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_row_does_not_depend_on_its_batch(isa: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    w, bias = pack_int4(matrix(67, 330, 64, symmetric)), vector(67)
    x = vector(300, 330)
    alone = torch.cat([int4_matmul(row[None], w, bias, activation="gelu_tanh") for row in x])
    for tokens in [*range(1, 18), 47, 48, 49, 96, 97, 256, 257, 300]:
        assert torch.equal(int4_matmul(x[:tokens], w, bias, activation="gelu_tanh"), alone[:tokens])
        assert torch.equal(int4_matmul(x[-tokens:], w, bias, activation="gelu_tanh"), alone[-tokens:])


@pytest.mark.parametrize("isa", HERE)
def test_an_output_does_not_depend_on_other_rows_of_the_matrix(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    w, x = matrix(50, 200), vector(20, 200)
    whole = int4_matmul(x, pack_int4(w))
    for row in (0, 15, 16, 31, 32, 49):
        one = Int4Tensor(w.qweight[row : row + 1], w.scales[row : row + 1], None, 200, 32)
        assert torch.equal(int4_matmul(x, pack_int4(one)), whole[:, row : row + 1])


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("tokens", [1, 3, 70, 300])
def test_threads_change_nothing(isa: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    x, w = vector(tokens, 700), pack_int4(matrix(1500, 700))
    alone = int4_matmul(x, w, threads=1)
    for threads in (2, 3):
        assert torch.equal(int4_matmul(x, w, threads=threads), alone)


def test_threads_do_not_change_packing() -> None:
    w = matrix(500, 301, 64, symmetric=False)
    assert torch.equal(pack_int4(w, threads=1).data, pack_int4(w, threads=3).data)


def test_a_bad_row_spoils_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(33, 100), vector(70, 100)
    good = on_every_isa(x, w, monkeypatch)
    x[1, 99], x[2, 0], x[69, 50] = torch.nan, torch.inf, -torch.inf
    result = on_every_isa(x, w, monkeypatch)
    bad = torch.zeros(70, dtype=torch.bool)
    bad[[1, 2, 69]] = True
    assert bool(result[bad].isnan().all()) and torch.equal(result[~bad], good[~bad])


def test_vanishing_activations_are_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = matrix(16, 64), torch.full((2, 64), 2.0**-101)
    x[1, :32] = 2.0**-99
    result = on_every_isa(x, w, monkeypatch)
    assert bool((result[0] == 0).all())
    close(result, expected(x, w, None, None))


@pytest.mark.parametrize("isa", HERE)
def test_only_the_output_is_written(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs end where a page of NaN begins, and guards around the output stay as they are."""
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    for tokens, rows, columns in ((1, 17, 33), (5, 33, 31), (65, 1, 65)):
        w = matrix(rows, columns)
        around = torch.full((tokens * rows + 128,), 7.0)
        out = around[64:-64].view(tokens, rows)
        x_around = torch.full((tokens * columns + 64,), torch.nan)
        x = x_around[: tokens * columns].view(tokens, columns).copy_(vector(tokens, columns))
        bias_around = torch.full((rows + 64,), torch.nan)
        bias = bias_around[:rows].copy_(vector(rows))
        close(int4_matmul(x, pack_int4(w), bias, out=out), expected(x, w, bias, None))
        assert bool((around[:64] == 7).all()) and bool((around[-64:] == 7).all())


def test_scratch_of_an_earlier_call_is_not_read() -> None:
    w, x = pack_int4(matrix(40, 130)), vector(3, 130)
    first = int4_matmul(x, w)
    int4_matmul(torch.full((200, 130), torch.nan), w)
    assert torch.equal(int4_matmul(x, w), first)


def test_callers_on_several_threads() -> None:
    w, x = pack_int4(matrix(600, 300)), vector(40, 300)
    truth, results = int4_matmul(x, w), []

    def call() -> None:
        for _ in range(20):
            results.append(torch.equal(int4_matmul(x, w, threads=2), truth))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 60


FORK = """
import os, sys, torch
from tinygptv_fast.ops import PackedInt4, int4_matmul
w = PackedInt4(torch.randint(0, 100, (96 * 46 * 288,), dtype=torch.uint8), 1536, 1472, 32, True)
x = torch.ones(4, 1472)
truth = int4_matmul(x, w, threads=2)
child = os.fork()
if child == 0:
    same = sys.argv[1] == "idle" or torch.equal(int4_matmul(x, w, threads=2), truth)
    sys.exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("child", ["works", "idle"])
def test_after_a_fork(child: str) -> None:
    """The child's copy of the pool has no threads: it must make its own, not wait for them, and end as it should."""
    done = subprocess.run([sys.executable, "-c", FORK, child], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# --- out, packing -----------------------------------------------------------------------------------------------------
def test_out_is_returned() -> None:
    w, x = pack_int4(matrix(20, 40)), vector(3, 40)
    out = torch.full((3, 20), torch.nan)
    assert int4_matmul(x, w, out=out) is out
    assert torch.equal(out, int4_matmul(x, w))


def test_large_weights_are_packed_alike() -> None:
    """Above 2 MB they lie on huge pages."""
    w, x = matrix(4096, 1100), vector(2, 1100)
    packed = pack_int4(w)
    assert packed.nbytes > 2 << 20 and packed.data.data_ptr() % (2 << 20) == 0
    close(int4_matmul(x, packed), expected(x, w, None, None))
    assert torch.equal(int4_matmul(x, PackedInt4(packed.data.clone(), 4096, 1100, 32, True)), int4_matmul(x, packed))


def test_bytes_per_weight() -> None:
    for group, symmetric, bits in ((32, True, 4.5), (64, True, 4.25), (128, True, 4.125), (32, False, 4.75)):
        assert pack_int4(matrix(64, 2560, group, symmetric)).nbytes * 8 == 64 * 2560 * bits


def test_the_public_names() -> None:
    assert tgv.ops.int4_matmul is int4_matmul and tgv.ops.pack_int4 is pack_int4
    w, x, bias = matrix(20, 70, 64, symmetric=False), vector(4, 70), vector(20)
    twin = tgv.reference.int4_matmul(x, w, bias, activation="gelu_tanh")
    assert torch.allclose(int4_matmul(x, pack_int4(w), bias, activation="gelu_tanh"), twin, rtol=1e-5, atol=1e-5)


# --- torch ------------------------------------------------------------------------------------------------------------
def op_arguments(symmetric: bool = True, bias: bool = True) -> tuple[Any, ...]:
    w = pack_int4(matrix(20, 70, 32, symmetric))
    return vector(3, 70), w.data, vector(20) if bias else None, w.rows, w.columns, w.group_size, w.symmetric


@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_opcheck(symmetric: bool, activation: str | None) -> None:
    for bias in (True, False):
        torch.library.opcheck(torch.ops.tinygptv_fast.int4_matmul, (*op_arguments(symmetric, bias), activation, 1))


def test_it_compiles_into_one_graph() -> None:
    w, bias = pack_int4(matrix(20, 70)), vector(20)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return int4_matmul(x * 2, w, bias, activation="gelu_tanh") + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 5):
        x = vector(tokens, 70)
        assert torch.equal(compiled(x), layer(x))


def test_there_is_no_gradient() -> None:
    w, x = pack_int4(matrix(20, 70)), vector(3, 70).requires_grad_()
    with pytest.raises(UnsupportedError, match="x requires a gradient"):
        int4_matmul(x, w)
    with torch.no_grad():
        assert torch.equal(int4_matmul(x, w), int4_matmul(x.detach(), w))


# --- errors -----------------------------------------------------------------------------------------------------------
X, OUT = vector(3, 40), torch.empty(3, 20)
WIDE = torch.empty(3, 80)
PACKED = pack_int4(matrix(20, 40))
BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("x", vector(3, 41), r"x is \[3,41\] f32, expected \[M,K=40\] f32; K was set by w"),
    ("x", vector(40), r"x is \[40\] f32, expected \[M,K=40\] f32"),
    ("x", vector(1, 3, 40), r"x is \[1,3,40\] f32"),
    ("x", X.double(), "float64"),
    ("x", X.bfloat16(), "bfloat16"),
    ("x", X.int(), "int32"),
    ("x", WIDE[:, ::2], "strided"),
    ("x", vector(40, 3).t(), "strided"),
    ("x", X.to("meta"), "on meta"),
    ("x", X.to_sparse(), "sparse"),
    ("x", X.numpy(), "x is ndarray"),
    ("x", None, "x is NoneType"),
    ("w", matrix(20, 40), "w is Int4Tensor, expected a PackedInt4"),
    ("w", PACKED.data, "w is Tensor"),
    ("w", PackedInt4(PACKED.data, 40, 40, 32, True), r"packed is \[\d+\] u8, expected \[\d+\] u8"),
    ("w", PackedInt4(PACKED.data, 20, 40, 48, True), "groups are of 32, 64 or 128"),
    ("w", PackedInt4(PACKED.data, 0, 40, 32, True), "N and K are"),
    ("w", PackedInt4(PACKED.data, -1, 40, 32, True), "N and K are"),
    ("w", PackedInt4(PACKED.data, 20, 2**62, 32, True), "N and K are"),
    ("w", PackedInt4(PACKED.data.view(torch.int8), 20, 40, 32, True), r"w.data is \[1152\] torch.int8"),
    ("bias", vector(21), r"bias is \[21\] f32, expected \[N=20\] f32; N was set by w"),
    ("bias", vector(1, 20), r"bias is \[1,20\] f32"),
    ("bias", vector(20).half(), "float16"),
    ("bias", vector(40)[::2], "strided"),
    ("bias", 3, "bias is int"),
    ("out", torch.empty(3, 21), r"out is \[3,21\] f32, expected \[M=3,N=20\] f32; N was set by w"),
    ("out", torch.empty(2, 20), "M was set by x"),
    ("out", torch.empty(60), r"out is \[60\] f32"),
    ("out", OUT.double(), "float64"),
    ("out", WIDE[:, :20], "strided"),
    ("out", OUT.to("meta"), "on meta"),
    ("out", X.view(-1)[:60].view(3, 20), "must not overlap"),
    ("activation", "relu", "activation is 'relu'"),
    ("activation", "", "activation is ''"),
    ("threads", 0, "threads is 0"),
    ("threads", -1, "threads is -1"),
    ("threads", 1.5, r"threads is 1\.5"),
    ("threads", True, "threads is True"),
    ("threads", 1025, "threads is 1025"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"x": X, "w": PACKED, name: value}
    with pytest.raises(InvalidArgumentError, match=message):
        int4_matmul(**arguments)
    assert int4_matmul(X, PACKED).isfinite().all()


def native_arguments() -> dict[str, Any]:
    return {
        "out": np.empty((3, 20), np.float32), "x": X.numpy(), "packed": PACKED.data.numpy(), "bias": None,
        "rows": 20, "columns": 40, "group_size": 32, "symmetric": True,
    }  # fmt: skip


READ_ONLY = np.empty((3, 20), np.float32)
READ_ONLY.flags.writeable = False
SHIFTED = torch.empty(PACKED.nbytes + 64, dtype=torch.uint8).numpy()[1 : PACKED.nbytes + 1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("out", READ_ONLY, "read-only"),
        ("packed", SHIFTED, "multiple of 64 bytes"),
        ("packed", PACKED.data.numpy().view(np.int8), "i8"),
        ("activation", "tanh", "activation is 'tanh'"),
        ("isa", "sse9", "isa is 'sse9'"),
        ("threads", 0, "threads is 0"),
        ("symmetric", False, "packed is"),
    ],
)
def test_the_binding_checks_what_python_cannot(name: str, value: Any, message: str) -> None:
    _native.int4_matmul(**native_arguments())
    with pytest.raises(InvalidArgumentError, match=message):
        _native.int4_matmul(**{**native_arguments(), name: value})


def test_an_instruction_set_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in CPU_ISAS:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        if isa in HERE:
            int4_matmul(X, PACKED)
        else:
            with pytest.raises(UnsupportedError, match=isa):
                int4_matmul(X, PACKED)


class Parts:
    """An int4 matrix whose parts nobody has checked."""

    def __init__(self, **changes: Any) -> None:
        good = matrix(20, 40, symmetric=False)
        self.qweight, self.scales, self.zeros = good.qweight, good.scales, good.zeros
        self.columns, self.group_size = 40, 32
        self.__dict__.update(changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"qweight": torch.zeros(20, 21, dtype=torch.uint8)}, InvalidArgumentError, r"qweight is \[20,21\] u8"),
        ({"qweight": torch.zeros(20, 20, dtype=torch.int8)}, InvalidArgumentError, "int8"),
        ({"qweight": torch.zeros(400, dtype=torch.uint8)}, InvalidArgumentError, "qweight is"),
        ({"scales": torch.zeros(20, 3).half()}, InvalidArgumentError, r"scales is \[20,3\] f16"),
        ({"scales": torch.zeros(19, 2).half()}, InvalidArgumentError, "N was set by qweight"),
        ({"scales": torch.zeros(20, 2)}, InvalidArgumentError, "float32"),
        ({"zeros": torch.zeros(20, 2, dtype=torch.uint8)}, InvalidArgumentError, r"zeros is \[20,2\] u8"),
        ({"zeros": torch.zeros(20, 2, dtype=torch.uint8)[:, :1]}, InvalidArgumentError, "strided"),
        ({"columns": 0}, InvalidArgumentError, "N and K are"),
        ({"group_size": 16}, InvalidArgumentError, "groups are of"),
        ({"scales": torch.full((20, 2), torch.nan).half()}, CheckpointError, "scales"),
        ({"scales": torch.full((20, 2), torch.inf).half()}, CheckpointError, "scales"),
    ],
)
def test_packing_checks_its_parts(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    pack_int4(Parts())
    with pytest.raises(error, match=message):
        pack_int4(Parts(**changes))


def test_packing_wants_a_matrix() -> None:
    with pytest.raises(InvalidArgumentError, match="matrix is Tensor"):
        pack_int4(torch.zeros(3, 4))  # type: ignore[arg-type]
