"""``ops`` on tensors of a GPU, over the CUDA library compiled for the CPU: the kernels by way of Python, against
float64 and the CPU's ops. What a GPU does to the same calls no test here says; benchmarks/gpu_ops.py does.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ops.attention_support import Pages, expected_attention, filled, poisoned, queries
from tinygptv_fast import _native, ops
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops.gpu import products
from tinygptv_fast.quantize.int4 import dequantize_int4, quantize_int4
from tinygptv_fast.quantize.int8 import dequantize_int8, quantize_int8
from tinygptv_fast.reference import norm as twin

VARIABLE = "TINYGPTV_CUDA_EMULATION"
HALF, FLOAT = 2.0**-11, 2.0**-24  # half a unit in the last place, relative


@pytest.fixture(autouse=True)
def emulated(cpp_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU pass for a GPU's."""
    monkeypatch.setenv(VARIABLE, str(cpp_build / "csrc" / "tests" / "libtinygptv_cuda_emulated.so"))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(y: torch.Tensor, truth: torch.Tensor, bound: torch.Tensor) -> None:
    excess = ((y.double() - truth).abs() / bound).nan_to_num(nan=float("inf"))
    assert y.shape == truth.shape and excess.max() <= 1, f"{float(excess.max())} times the bound"


# --- rows -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows, width", [(1, 4), (3, 320), (2, 2560)])
def test_norms(rows: int, width: int) -> None:
    x, weight, bias = normal(rows, width) * 3 + 1, normal(width, seed=1), normal(width, seed=2)
    layer, rms = ops.layer_norm(x, weight, bias, 1e-6), ops.rms_norm(x, weight, 1e-6)
    truth = twin.layer_norm(x.double(), weight.double(), bias.double(), 1e-6)
    unit = 8 * FLOAT * (width / 32 + 8)  # sums of a thread's and a block's parts, then a few roundings
    close(layer, truth, unit * (1 + truth.abs() + bias.abs()))
    truth = twin.rms_norm(x.double(), weight.double(), 1e-6)
    close(rms, truth, unit * (1 + truth.abs()))
    same = x.view(rows, width)
    assert ops.layer_norm(x, weight, bias, 1e-6, out=same) is same and torch.equal(x, layer)


@pytest.mark.parametrize("weighted", [True, False])
def test_branches(weighted: bool) -> None:
    x, attention, mlp = (normal(3, 320, seed=seed) for seed in range(3))
    weight = normal(320, seed=3) if weighted else None
    truth = twin.add_branches(x.double(), attention.double(), mlp.double(), None if weight is None else weight.double())
    y = ops.add_branches(x, attention, mlp, weight)
    close(y, truth, 64 * FLOAT * (1 + truth.abs()))
    assert not torch.equal(x, y)
    assert ops.add_branches(x, attention, mlp, weight, out=x) is x and torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
def test_embedding(dtype: torch.dtype, ids_dtype: torch.dtype) -> None:
    table = torch.randint(-127, 128, (50, 64), dtype=torch.int8) if dtype == torch.int8 else normal(50, 64).to(dtype)
    scales = normal(50, seed=1).abs() if dtype == torch.int8 else None
    wrong = [-1, 50, -50] + ([2**32 + 3, -(2**40)] if ids_dtype == torch.int64 else [])
    ids = torch.tensor([7, 0, 49, 7, *wrong], dtype=ids_dtype)
    y = ops.embedding(ids, table, scales)
    rows = table[ids[:4].long()].float()
    assert torch.equal(y[:4], rows if scales is None else rows * scales[ids[:4].long(), None])
    assert y[4:].isnan().all()  # the host cannot look at ids there: what names no row is NaN


# --- products ---------------------------------------------------------------------------------------------------------
SIZES = [(1, 32, 64), (3, 20, 37), (8, 48, 320), (9, 130, 96), (20, 7, 37), (40, 33, 200)]


def product_close(
    y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, gelu: bool, weight_unit: float
) -> None:
    """Against float64 with weights ``w`` as they are stored. Those that the kernel rounds are off by ``weight_unit``,
    sums of K products by 2(K + 2) float32 units of their magnitudes, a 16-bit result by half of its unit."""
    truth, magnitude = x.double() @ w.double().T, x.double().abs() @ w.double().abs().T
    bound = (weight_unit + 2 * FLOAT * (w.shape[1] + 2)) * magnitude + 2.0**-24
    if bias is not None:
        truth = truth + bias.double()
        bound = bound + 2 * FLOAT * truth.abs()
    if gelu:  # |gelu'| < 1.13, and its exp and division are good to some 2^-20
        truth, bound = torch.nn.functional.gelu(truth, approximate="tanh"), 1.13 * bound + 2.0**-19 * (1 + truth.abs())
    unit = {torch.float32: FLOAT, torch.float16: HALF, torch.bfloat16: 2.0**-8}[y.dtype]
    close(y, truth, bound + unit * truth.abs())


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("M, N, K", SIZES)
@pytest.mark.parametrize("group, symmetric", [(32, True), (64, False), (128, True)])
def test_int4(M: int, N: int, K: int, group: int, symmetric: bool, gelu: bool) -> None:
    matrix = quantize_int4(normal(N, K) * 0.1, group, symmetric)
    w = ops.pack_int4(matrix, device="cpu")
    x, bias = normal(M, K, seed=1).half(), normal(N, seed=2).half() if gelu else None
    activation = "gelu_tanh" if gelu else None
    for out in (None, torch.full((M, N), torch.nan)):
        y = ops.int4_matmul(x, w, bias, activation=activation, out=out)
        assert y.dtype == (torch.float16 if out is None else torch.float32) and (out is None or y is out)
        product_close(y, x, dequantize_int4(matrix), bias, gelu, HALF)
    assert w.nbytes >= N * K // 2


@pytest.mark.parametrize("M, N, K", SIZES)
def test_int8(M: int, N: int, K: int) -> None:
    matrix = quantize_int8(normal(N, K) * 0.1)
    x, bias = normal(M, K, seed=1).half(), normal(N, seed=2).half()
    y = ops.int8_matmul(x, ops.pack_int8(matrix, device="cpu"), bias)
    product_close(y, x, dequantize_int8(matrix), bias, False, 4 * FLOAT)


@pytest.mark.parametrize("M, N, K", SIZES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_float(M: int, N: int, K: int, dtype: torch.dtype) -> None:
    weight = normal(N, K) * 0.1
    x, bias = normal(M, K, seed=1).to(dtype), normal(N, seed=2).to(dtype)
    y = ops.matmul(x, ops.pack_float(weight, dtype=dtype, device="cpu"), bias, activation="gelu_tanh")
    assert y.dtype == dtype
    product_close(y, x, weight.to(dtype), bias, True, 0.0)


def test_a_row_does_not_depend_on_the_others() -> None:
    """But for the kernel that takes up to eight of them."""
    matrix, x = quantize_int4(normal(300, 640) * 0.1, 32, True), normal(70, 640, seed=1).half()
    w = ops.pack_int4(matrix, device="cpu")
    many, few = ops.int4_matmul(x, w), ops.int4_matmul(x[:8], w)
    assert torch.equal(ops.int4_matmul(x[:9].contiguous(), w), many[:9])
    assert torch.equal(ops.int4_matmul(x[:1], w), few[:1])


def test_no_rows_at_all() -> None:
    w = ops.pack_float(normal(8, 16), device="cpu")
    assert ops.matmul(torch.empty(0, 16), w).shape == (0, 8)
    assert ops.rms_norm(torch.empty(0, 16), torch.ones(16)).shape == (0, 16)


# --- attention --------------------------------------------------------------------------------------------------------
def scaled_e4m3(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = (rows.abs().amax(-1) / 448).half()
    return (rows / scales[..., None].float()).to(torch.float8_e4m3fn), scales


def pages_of(dtype: torch.dtype, heads: int, head_dim: int, positions: int) -> tuple[Pages, Pages]:
    """For the kernel, and with the same numbers in a dtype that the twin reads."""
    if dtype != torch.float8_e4m3fn:
        pages = filled(dtype, heads, head_dim, positions)
        return pages, pages
    plain = filled(torch.float32, heads, head_dim, positions)
    parts = [scaled_e4m3(x.nan_to_num()) for x in (plain.k, plain.v)]
    read = [(levels.float() * scales[..., None].float()) for levels, scales in parts]
    kernel = Pages(parts[0][0], parts[1][0], parts[0][1], parts[1][1], plain.table)
    return kernel, Pages(read[0], read[1], None, None, plain.table)


def query_dtype(pages: torch.dtype) -> torch.dtype:
    return pages if pages in (torch.float32, torch.bfloat16) else torch.float16


def attention_close(y: torch.Tensor, q: torch.Tensor, pages: Pages, first: int, scale: float) -> None:
    """Beyond float32's errors: weights, over 8-bit pages times the scales of V, are rounded to 16 bits where tensor
    cores take them (half a unit of each, and 2^-25 absolutely), and so is a result that is asked for in float16."""
    truth, bound = expected_attention(q, pages, first, scale)
    n = first + q.shape[0]
    largest = pages.rows(n)[1].abs().amax(0)
    unit = 2.0**-8 if pages.v.dtype == torch.bfloat16 else HALF
    levels = largest if pages.v_scales is None else torch.full_like(largest, 127)
    close(y, truth, bound + 2 * unit * largest + n * 2.0**-25 * levels.clamp_min(448) + HALF * truth.abs())


KINDS = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("tokens, first", [(1, 0), (1, 70), (5, 60), (67, 3)])
@pytest.mark.parametrize("dtype", KINDS)
def test_attention_of_one_sequence(dtype: torch.dtype, tokens: int, first: int) -> None:
    kernel, plain = pages_of(dtype, 2, 80, first + tokens)
    q = queries(tokens, 2, 80).to(query_dtype(dtype))
    y = ops.paged_attention(q, kernel.k, kernel.v, kernel.table, first, **kernel.scales)
    assert y.dtype == torch.float32
    attention_close(y, q, plain, first, 80**-0.5)
    half = torch.full_like(y, torch.nan, dtype=torch.float16)
    if dtype != torch.float32:
        assert ops.paged_attention(q, kernel.k, kernel.v, kernel.table, first, out=half, **kernel.scales) is half
        attention_close(half, q, plain, first, 80**-0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_attention_of_a_batch_is_that_of_its_sequences(dtype: torch.dtype) -> None:
    firsts = [0, 15, 16, 90]
    pages, _ = pages_of(dtype, 2, 64, 91)
    tables = torch.stack([pages.table, pages.table.roll(-1), pages.table.roll(-2), pages.table])
    q = queries(4, 2, 64).to(query_dtype(dtype))
    positions = torch.tensor(firsts, dtype=torch.int32)
    together = ops.paged_attention(q, pages.k, pages.v, tables, positions, **pages.scales)
    for s, first in enumerate(firsts):
        alone = ops.paged_attention(q[s : s + 1], pages.k, pages.v, tables[s], first, **pages.scales)
        assert torch.equal(alone[0], together[s])
    assert not together.isnan().any()


def append(qkv: torch.Tensor, pages: Pages, first: Any, table: torch.Tensor, normed: bool) -> torch.Tensor:
    angles = torch.arange(120)[:, None] * torch.linspace(1, 0.01, 16)
    norm = (1 + 0.1 * normal(80, seed=7), 0.1 * normal(80, seed=8)) if normed else None
    return ops.qkv_append(
        qkv, pages.k, pages.v, table, first, angles.cos(), angles.sin(), **pages.scales, q_norm=norm, k_norm=norm
    )


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_append(dtype: torch.dtype, normed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of V, which are only rounded, bit for bit as on the CPU; q and K within a rounding of theirs."""
    qkv = normal(5, 2, 3, 80)
    mine, theirs = poisoned(dtype, 2, 80, 30), poisoned(dtype, 2, 80, 30)
    q = append(qkv, mine, 21, mine.table, normed)
    monkeypatch.delenv(VARIABLE)
    expected = append(qkv, theirs, 21, theirs.table, normed)
    assert q.dtype == query_dtype(dtype)
    unit = {torch.float32: 2.0**-18, torch.float16: 2 * HALF, torch.bfloat16: 2.0**-7}[q.dtype]
    close(q, expected.double(), unit * (1 + expected.double().abs()))
    bits = [x.view(torch.uint8) for x in (mine.v, theirs.v)]
    assert torch.equal(bits[0], bits[1])
    rows, wanted = mine.rows(26)[0][21:], theirs.rows(26)[0][21:]
    step = 2.0**-18 if dtype == torch.float32 else 2.0**-7 if dtype == torch.bfloat16 else 2.0**-9
    if dtype == torch.int8:
        step = 1 / 100  # a level of 127, of a row's largest
    close(rows, wanted, step * (1 + wanted.abs().amax(-1, keepdim=True)))
    untouched = mine.k[mine.table.long()[0]]  # the first page: no token stands there
    assert torch.equal(untouched.view(torch.uint8), theirs.k[theirs.table.long()[0]].view(torch.uint8))


def test_append_for_a_batch() -> None:
    """A token a sequence, each where a call of its own puts it; one that has no place leaves no trace."""
    qkv = normal(3, 2, 3, 80)
    together, alone = poisoned(torch.int8, 2, 80, 90), poisoned(torch.int8, 2, 80, 90)
    tables = torch.tensor([[1, 2], [3, 4], [5, 6]], dtype=torch.int32)
    q = append(qkv, together, torch.tensor([3, 17, -1], dtype=torch.int32), tables, True)
    for s, first in enumerate((3, 17)):
        each = append(qkv[s : s + 1].contiguous(), alone, first, tables[s], True)
        assert torch.equal(each[0], q[s])
    assert all(torch.equal(a, b) for a, b in zip(together.parts(), alone.parts(), strict=True))


# --- sampling ---------------------------------------------------------------------------------------------------------
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 5, "position": 9},
    {"temperature": 1.2, "top_k": 7, "seed": 2**63 + 1, "sample": 3},
    {"temperature": 1.0, "top_p": 0.7, "min_p": 0.02, "seed": 1},
    {"repetition_penalty": 1.7, "history": [3, 3, 40, 41]},
    {"presence_penalty": 2.0, "frequency_penalty": 0.5, "history": [1, 1, 7], "temperature": 0.5, "seed": 8},
    {"logit_bias": {3: 4.5, 1: -2.0}, "banned": [9, 2]},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_sampling_is_the_cpus(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    logits = [normal(517, seed=seed) * 3 for seed in range(6)]
    here = [ops.sample(row, **settings) for row in logits]
    best = [ops.top_logprobs(row, 5) for row in logits]
    monkeypatch.delenv(VARIABLE)
    for row, drawn, (ids, logprobs) in zip(logits, here, best, strict=True):
        token = ops.sample(row, **settings)
        assert (drawn.id, drawn.finite) == (token.id, token.finite)
        assert drawn.logprob == pytest.approx(token.logprob, abs=1e-5)
        wanted, values = ops.top_logprobs(row, 5)
        assert torch.equal(ids, wanted) and torch.allclose(logprobs, values, atol=1e-5)


def test_no_token() -> None:
    drawn = ops.sample(torch.tensor([1.0, torch.nan, 2.0]))
    assert drawn.id == -1 and not drawn.finite and drawn.logprob != drawn.logprob


def test_the_page_of_the_documentation(repository: Path) -> None:
    page = (repository / "docs" / "gpu_ops.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert 'device = "cuda"' in code
    names: dict[str, Any] = {}
    exec(code.replace('device = "cuda"', 'device = "cpu"'), names)
    assert names["y"].dtype == torch.float16 and names["y"].shape == (4, 512)
    assert names["out"].dtype == torch.float32 and not names["out"].isnan().any()


# --- what is refused --------------------------------------------------------------------------------------------------
X, W = torch.zeros(2, 64), torch.ones(64)
INT4 = quantize_int4(normal(16, 64), 32, True)
PAGES = {"k_pages": torch.zeros(3, 2, 16, 80).half(), "v_pages": torch.zeros(3, 2, 16, 80).half()}
TABLE = torch.tensor([1, 2], dtype=torch.int32)


def int4(x: torch.Tensor, **options: Any) -> torch.Tensor:
    return ops.int4_matmul(x, ops.pack_int4(INT4, device="cpu"), **options)


def attend(**changes: Any) -> torch.Tensor:
    given = {"q": torch.zeros(2, 2, 80).half(), "first_position": 0, **PAGES, "block_table": TABLE}
    return ops.paged_attention(**{**given, **changes})


def small_heads() -> torch.Tensor:
    return attend(q=torch.zeros(2, 2, 40).half(), **{name: torch.zeros(3, 2, 16, 40).half() for name in PAGES})


def place(**changes: Any) -> torch.Tensor:
    angles = torch.zeros(64, 16)
    given = {"qkv": torch.zeros(1, 2, 3, 80), "first_position": 0, "cos": angles, "sin": angles}
    return ops.qkv_append(**{**given, **PAGES, "block_table": TABLE, **changes})


REFUSED: list[tuple[Any, str]] = [
    (lambda: ops.rms_norm(X.double(), W), r"x is \[2, 64\] torch.float64 on cpu, expected a contiguous torch.float32"),
    (lambda: ops.rms_norm(X.T, W[:2]), r"x is \[64, 2\] .* with strides"),
    (lambda: ops.rms_norm(torch.zeros(2, 65)[:, 1:], W), "x is .* with strides"),
    (lambda: ops.rms_norm(torch.zeros(130)[2:].view(2, 64), W), "x does not begin at a multiple of 16 bytes"),
    (lambda: ops.rms_norm(X, W[:63]), r"weight is \[63\] .*, expected .* \[64\]"),
    (lambda: ops.rms_norm(torch.zeros(2, 6), torch.ones(6)), "norm: C is 6, expected a multiple of 4"),
    (lambda: ops.rms_norm(X, W, 0.0), "norm: eps is 0"),
    (lambda: ops.layer_norm(X, W, W, out=X.view(-1)[:64].view(1, 64)), r"out is \[1, 64\]"),
    (lambda: ops.add_branches(X, X, X.clone(), out=X), "out shares memory with attention"),
    (lambda: ops.embedding(torch.zeros(2).int(), X.double()), "table is torch.float64"),
    (lambda: ops.embedding(torch.zeros(2).int(), X.to(torch.int8)), "embedding: an int8 table needs scales"),
    (lambda: int4(X), r"x is \[2, 64\] torch.float32 .*, expected a contiguous torch.float16"),
    (lambda: int4(X.half()[:, :32].contiguous()), r"expected a contiguous torch.float16 tensor \[2, 64\]"),
    (lambda: int4(X.half(), threads=2), "threads is 2, expected None"),
    (lambda: int4(X.half(), activation="relu"), "activation is 'relu'"),
    (lambda: int4(X.half(), bias=W[:16]), "bias is .* torch.float32"),
    (lambda: int4(X.half(), out=torch.zeros(2, 16).bfloat16()), "out is .* torch.bfloat16"),
    (lambda: ops.pack_float(X, dtype=torch.float64, device="cpu"), "dtype is torch.float64, expected .*float16"),
    (lambda: attend(first_position=31), "block_table has 2 pages of 16, expected enough for 33 positions"),
    (lambda: attend(first_position=-1), "first_position is -1"),
    (lambda: attend(block_table=TABLE[None]), r"block_table is \[1, 2\], expected \[P\]"),
    (lambda: attend(block_table=TABLE[None], first_position=TABLE), r"expected \[T=2, P\], one sequence a token"),
    (lambda: attend(k_pages=None), "k_pages is NoneType, expected a tensor of"),
    (lambda: attend(k_pages=PAGES["k_pages"].double()), "k_pages is torch.float64, expected a tensor of"),
    (lambda: attend(block_table=TABLE.long()), "block_table is .* torch.int64"),
    (lambda: attend(q=torch.zeros(2, 2, 80)), "q is .* torch.float32 .* torch.float16"),
    (lambda: attend(k_scales=torch.zeros(3, 2, 16).half()), "k_scales is Tensor and v_scales NoneType, expected"),
    (lambda: attend(v_pages=PAGES["v_pages"][:2]), r"v_pages is \[2, 2, 16, 80\]"),
    (small_heads, "head_dim is 40"),
    (lambda: place(k_pages=None), "k_pages is NoneType, expected a tensor of"),
    (lambda: place(eps="small"), "eps is 'small', expected a finite number"),
    (lambda: place(cos=X), r"sin is \[64, 16\] .*, expected a contiguous torch.float32 tensor \[2, 64\]"),
    (lambda: place(first_position=40), "block_table has 2 pages of 16, expected enough for 41 positions"),
    (lambda: ops.sample(X[0], history=[64]), "history holds id 64, expected 0..63"),
    (lambda: ops.sample(X[0], position=-1), "position is -1"),
    (lambda: ops.sample(X[0], temperature=-1.0), "temperature is -1"),
    (lambda: ops.sample(X), r"logits is \[2, 64\], expected \[V\]"),
    (lambda: ops.top_logprobs(torch.zeros(100), 65), "n is 65, expected at most 64"),
]


@pytest.mark.parametrize("call, message", REFUSED)
def test_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        call()


def test_gradients_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="weight requires a gradient"):
        ops.rms_norm(X, W.clone().requires_grad_())
    with torch.no_grad():
        ops.rms_norm(X, W.clone().requires_grad_())


def test_a_gpu_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the emulation: one sentence, from the call that comes first."""
    w = products.pack_float(normal(4, 8), torch.float32, "cpu")
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(InvalidArgumentError, match="x is on cpu, expected a tensor on a GPU"):
        ops.matmul(normal(2, 8), w)
    with pytest.raises(UnsupportedError, match="CUDA"):
        _native.CudaOps()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for pack in (lambda: ops.pack_int4(INT4, device="cuda"), lambda: ops.pack_float(X, device="cuda")):
        with pytest.raises(UnsupportedError, match=r"device is 'cuda', but torch .* has no GPU"):
            pack()


def test_the_cpu_is_asked_nothing_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op on the CPU opens no CUDA library and looks at no GPU."""
    monkeypatch.delenv(VARIABLE)
    code = (
        "import torch; from tinygptv_fast import ops, _native; _native.CudaOps = None\n"
        "torch.cuda.current_stream = None; print(ops.rms_norm(torch.ones(1, 8), torch.ones(8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "torch.Size([1, 8])\n"
