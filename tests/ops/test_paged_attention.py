"""paged_attention against its twin on every instruction set; the same bits for any chunk; poison; errors; compiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.env import CPU_ISAS
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import paged_attention

from .attention_support import DTYPES, Pages, close, expected_attention, filled, queries, same_bits

pytestmark = pytest.mark.native

HERE = _native.isas()


def attend(q: torch.Tensor, pages: Pages, first: int, **options: Any) -> torch.Tensor:
    return paged_attention(q, pages.k, pages.v, pages.table, first, **pages.scales, **options)


def on_every_isa(
    q: torch.Tensor, pages: Pages, first: int, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> torch.Tensor:
    """The result, which must be the same bits on all instruction sets; ``out`` starts as NaN."""
    results = []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        results.append(attend(q, pages, first, out=torch.full(q.shape, torch.nan), **options))
        assert same_bits(results[0], results[-1]), f"{isa} differs from {HERE[0]}"
    return results[0]


# --- the right numbers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [4, 8, 12, 16, 20, 32, 60, 64, 68, 80, 96, 128, 132, 252, 256])
def test_every_width(head_dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = filled(dtype, 2, head_dim, 45)
    for first, tokens in ((44, 1), (36, 9)):
        q = queries(tokens, 2, head_dim)
        y = on_every_isa(q, pages, first, monkeypatch)
        close(y, *expected_attention(q, pages, first, head_dim**-0.5), f"{tokens} tokens")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [*range(1, 18), 31, 32, 33, 255, 256, 257, 271, 272, 273, 511, 512, 513, 800])
def test_every_length_of_context(positions: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, q = filled(dtype, 1, 20, positions), queries(1, 1, 20)
    y = on_every_isa(q, pages, positions - 1, monkeypatch)
    close(y, *expected_attention(q, pages, positions - 1, 20**-0.5))


@pytest.mark.parametrize("tokens", [0, *range(1, 18), 23, 24, 25, 47, 48, 49, 63, 64, 65, 255, 256, 257])
def test_every_number_of_tokens(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, q = filled(torch.int8, 2, 80, 230 + tokens), queries(tokens, 2, 80)
    y = on_every_isa(q, pages, 230, monkeypatch)
    assert y.shape == (tokens, 2, 80)
    if tokens:
        close(y, *expected_attention(q, pages, 230, 80**-0.5))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40), st.integers(0, 600), st.integers(1, 20), st.integers(1, 64), st.sampled_from(DTYPES),
    st.sampled_from(HERE), st.integers(1, 3), st.integers(0, 2**31 - 1),
)  # fmt: skip
def test_any_shape(
    tokens: int, first: int, heads: int, quarter: int, dtype: torch.dtype, isa: str, threads: int, seed: int
) -> None:
    pages, q = filled(dtype, heads, 4 * quarter, first + tokens, seed), queries(tokens, heads, 4 * quarter, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYGPTV_CPU_ISA", isa)
        y = attend(q, pages, first, threads=threads, scale=0.4)
    close(y, *expected_attention(q, pages, first, 0.4), isa)


def test_scores_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from 1 down to nothing, the largest first, last and in the middle of the context."""
    for at in (0, 299, 150, 256):
        pages, q = filled(torch.float32, 1, 80, 300), torch.ones(1, 1, 80)
        rows = torch.linspace(0, -3, 300)[torch.arange(300).sub(at).abs()]
        for i in range(300):
            pages.k[pages.table[i // 16], 0, i % 16] = rows[i]
        y = on_every_isa(q, pages, 299, monkeypatch, scale=1.0)
        close(y, *expected_attention(q, pages, 299, 1.0))
        assert same_bits(on_every_isa(q, pages, 299, monkeypatch, scale=30.0)[0, 0], pages.rows(300)[1][at, 0].float())


def test_equal_scores_give_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = filled(torch.float32, 2, 16, 64)
    y = on_every_isa(torch.zeros(1, 2, 16), pages, 63, monkeypatch)
    close(y, *expected_attention(torch.zeros(1, 2, 16), pages, 63, 0.25))


# --- independence -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_change_nothing(dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One token at a time, or in chunks of any size from any position: the same bits."""
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    total = 300 if isa == "portable" else 530
    pages, q = filled(dtype, 2, 80, total), queries(total, 2, 80)
    alone = torch.cat([attend(q[t : t + 1], pages, t) for t in range(total)])
    for chunk in (2, 5, 7, 8, 9, 16, 23, 24, 25, 100, 256, 257):
        for first in range(0, total, chunk):
            y = attend(q[first : first + chunk], pages, first)
            assert same_bits(y, alone[first : first + chunk]), f"chunk {chunk} at {first}"


def test_later_positions_change_nothing() -> None:
    """NaN in the K and V of a token of the same chunk does not reach the tokens before it."""
    pages, q = filled(torch.float32, 2, 80, 300), queries(60, 2, 80)
    good = attend(q, pages, 240)
    pages.k[pages.table[17], :, 3] = torch.nan  # position 275
    pages.v[pages.table[17], :, 3] = torch.nan
    bad = attend(q, pages, 240)
    assert same_bits(bad[:35], good[:35]) and bool(bad[35:].isnan().all())


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_threads_and_heads_change_nothing(isa: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    pages, q = filled(torch.int8, 37, 20, 300), queries(tokens, 37, 20)
    whole = attend(q, pages, 300 - tokens, threads=1)
    for threads in (2, 3):
        assert same_bits(attend(q, pages, 300 - tokens, threads=threads), whole)
    for head in (0, 15, 16, 36):
        one = slice(head, head + 1)
        part = [x[:, one].contiguous() for x in (pages.k, pages.v, pages.k_scales, pages.v_scales) if x is not None]
        y = attend(q[:, one].contiguous(), Pages(*part, pages.table), 300 - tokens)
        assert same_bits(y, whole[:, one])


def test_where_pages_lie_changes_nothing() -> None:
    pages, q = filled(torch.float16, 2, 80, 100), queries(3, 2, 80)
    order = torch.randperm(pages.k.shape[0], generator=torch.Generator().manual_seed(2))
    moved = Pages(pages.k[order], pages.v[order], None, None, order.argsort()[pages.table.long()].int())
    assert same_bits(attend(q, pages, 97), attend(q, moved, 97))


def test_a_bad_query_spoils_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for tokens in (3, 30):
        pages, q = filled(torch.bfloat16, 2, 80, 300), queries(tokens, 2, 80)
        good = on_every_isa(q, pages, 300 - tokens, monkeypatch)
        q[1, 0, 3], q[2, 1, 79] = torch.nan, torch.inf
        y = on_every_isa(q, pages, 300 - tokens, monkeypatch)
        bad = torch.zeros(tokens, 2, dtype=torch.bool)
        bad[1, 0] = bad[2, 1] = True
        assert bool(y[bad].isnan().all()) and same_bits(y[~bad], good[~bad])


def test_a_bad_row_spoils_whoever_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale that qkv_append writes for a row it cannot hold."""
    for scales in ("k_scales", "v_scales"):
        pages, q = filled(torch.int8, 2, 80, 40), queries(40, 2, 80)
        pages.scales[scales][pages.table[1], 1, 4] = torch.nan  # type: ignore[index]
        y = on_every_isa(q, pages, 0, monkeypatch)
        assert bool(y[20:, 1].isnan().all()) and bool(y[:20].isfinite().all()) and bool(y[:, 0].isfinite().all())


@pytest.mark.parametrize("isa", HERE)
def test_only_the_output_is_written(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    for tokens, head_dim in ((1, 20), (9, 20), (9, 80)):
        pages = filled(torch.float32, 3, head_dim, 30)
        around = torch.full((tokens * 3 * head_dim + 128,), 7.0)
        out = around[64:-64].view(tokens, 3, head_dim)
        before = [part.clone() for part in pages.parts()]
        assert attend(queries(tokens, 3, head_dim), pages, 30 - tokens, out=out) is out
        assert bool((around[:64] == 7).all()) and bool((around[-64:] == 7).all()) and bool(out.isfinite().all())
        assert all(torch.equal(a, b) for a, b in zip(before, pages.parts(), strict=True))


def test_scratch_of_an_earlier_call_is_not_read() -> None:
    for tokens in (1, 30):
        pages, q = filled(torch.float32, 2, 80, 40), queries(tokens, 2, 80)
        first = attend(q, pages, 40 - tokens)
        spoiled = filled(torch.float32, 2, 80, 400)
        spoiled.k.fill_(torch.nan)
        attend(queries(300, 2, 80), spoiled, 100)
        attend(queries(1, 2, 80), spoiled, 399)
        assert same_bits(attend(q, pages, 40 - tokens), first)


# --- torch ------------------------------------------------------------------------------------------------------------
def test_the_public_names() -> None:
    assert tgv.ops.paged_attention is paged_attention
    pages, q = filled(torch.int8, 2, 80, 50), queries(6, 2, 80)
    twin = tgv.reference.paged_attention(q, pages.k, pages.v, pages.table, 44, **pages.scales)
    assert torch.allclose(attend(q, pages, 44), twin, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    pages = filled(dtype, 2, 20, 40)
    arguments = (queries(3, 2, 20), pages.k, pages.v, pages.table, 37, pages.k_scales, pages.v_scales, 0.2, 1)
    torch.library.opcheck(torch.ops.tinygptv_fast.paged_attention, arguments)


def test_it_compiles_into_one_graph() -> None:
    pages = filled(torch.float16, 2, 20, 40)

    def layer(q: torch.Tensor) -> torch.Tensor:
        return attend(q * 2, pages, 30) + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for tokens in (2, 5):
        q = queries(tokens, 2, 20)
        assert torch.equal(compiled(q), layer(q))


def test_there_is_no_gradient() -> None:
    pages, q = filled(torch.float32, 2, 20, 40), queries(3, 2, 20).requires_grad_()
    with pytest.raises(UnsupportedError, match="q requires a gradient"):
        attend(q, pages, 37)
    with torch.no_grad():
        assert torch.equal(attend(q, pages, 37), attend(q.detach(), pages, 37))


# --- errors -----------------------------------------------------------------------------------------------------------
GOOD = filled(torch.int8, 2, 20, 40)
Q, OUT = queries(3, 2, 20), torch.empty(3, 2, 20)
FLOATS = filled(torch.float32, 2, 20, 40)


def good_arguments() -> dict[str, Any]:
    table = {"q": Q, "k_pages": GOOD.k, "v_pages": GOOD.v, "block_table": GOOD.table, "first_position": 37}
    return table | GOOD.scales


BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("q", queries(3, 3, 20), r"k_pages is \[5,2,16,20\] i8, expected \[NP,H=3,16,D=20\] i8; H was set by q"),
    ("q", queries(3, 2, 24), "D was set by q"),
    ("q", Q[0], r"q is \[2,20\] f32, expected \[T,H,D\] f32"),
    ("q", Q.half(), "float16"),
    ("q", Q.transpose(0, 1), "strided"),
    ("q", Q.to("meta"), "on meta"),
    ("q", Q.numpy(), "q is ndarray"),
    ("k_pages", GOOD.k[:, :, :8].contiguous(), r"k_pages is \[5,2,8,20\] i8, expected \[NP,H=2,16,D=20\] i8"),
    ("k_pages", GOOD.k[:4], r"v_pages is \[5,2,16,20\] i8, expected \[NP=4,H=2,16,D=20\] i8; NP was set by k_pages"),
    ("k_pages", GOOD.k.double(), "k_pages is torch.float64, expected a tensor of float32"),
    ("k_pages", None, "k_pages is NoneType"),
    ("k_pages", FLOATS.k, r"v_pages is \[5, 2, 16, 20\] torch.int8"),
    ("v_pages", FLOATS.v, r"v_pages is \[5, 2, 16, 20\] torch.float32"),
    ("v_pages", GOOD.v[:, :1].contiguous(), "H was set by q"),
    ("v_pages", GOOD.v.transpose(0, 1), "v_pages is"),
    ("k_scales", None, r"k_scales is missing, expected \[NP,H,PS=16\] f16 for pages of kind int8"),
    ("v_scales", None, "v_scales is missing"),
    ("k_scales", torch.ones(5, 2, 16), "k_scales is"),
    ("v_scales", torch.ones(5, 2, 15).half(), r"v_scales is \[5,2,15\] f16, expected \[NP=5,H=2,16\] f16"),
    ("block_table", GOOD.table[:2], "block_table has 2 pages, expected at least 3 for 40 positions"),
    ("block_table", GOOD.table.long(), "block_table is"),
    ("block_table", GOOD.table[None], r"block_table is \[1,3\] i32"),
    ("block_table", torch.tensor([1, 5, 2], dtype=torch.int32), r"block_table\[1\] is 5, expected 0..4"),
    ("block_table", torch.tensor([-1, 1, 2], dtype=torch.int32), r"block_table\[0\] is -1"),
    ("first_position", -1, "first_position is -1"),
    ("first_position", 38.0, r"first_position is 38\.0"),
    ("first_position", True, "first_position is True"),
    ("first_position", 2**31, "first_position is 2147483648"),
    ("first_position", 46, "block_table has 3 pages, expected at least 4 for 49 positions"),
    ("scale", float("nan"), "scale is nan"),
    ("scale", "1", "scale is '1'"),
    ("out", torch.empty(3, 2, 24), r"out is \[3,2,24\] f32, expected \[T=3,H=2,D=20\] f32"),
    ("out", OUT.double(), "float64"),
    ("out", torch.empty(3, 2, 40)[:, :, ::2], "strided"),
    ("out", Q, "y must not overlap q"),
    ("threads", 0, "threads is 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "message"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        paged_attention(**{**good_arguments(), name: value})
    assert bool(paged_attention(**good_arguments()).isfinite().all())


def test_scales_only_for_int8() -> None:
    with pytest.raises(InvalidArgumentError, match="k_scales is given, expected none for pages of kind f32"):
        paged_attention(Q, FLOATS.k, FLOATS.v, FLOATS.table, 37, k_scales=GOOD.k_scales)


@pytest.mark.parametrize("head_dim", [2, 6, 260])
def test_widths_that_no_kernel_has(head_dim: int) -> None:
    pages = torch.zeros(3, 2, 16, head_dim)
    with pytest.raises(InvalidArgumentError, match=r"D is a multiple of 4 in 4\.\.256"):
        paged_attention(queries(1, 2, head_dim), pages, pages, GOOD.table - 1, 37)


def test_the_output_must_not_be_the_pages() -> None:
    pages = torch.zeros(4, 2, 16, 20)
    with pytest.raises(InvalidArgumentError, match="out is memory of v_pages"):
        paged_attention(Q, FLOATS.k[:4], pages, FLOATS.table, 37, out=pages.view(-1)[120:240].view(3, 2, 20))


def native_arguments() -> dict[str, Any]:
    scales = {name: x.numpy() for name, x in GOOD.scales.items() if x is not None}
    return scales | {
        "out": np.empty((3, 2, 20), np.float32), "q": Q.numpy(), "k_pages": GOOD.k.numpy(), "v_pages": GOOD.v.numpy(),
        "block_table": GOOD.table.numpy(), "first_position": 37, "scale": 0.2, "kind": "int8",
    }  # fmt: skip


READ_ONLY = np.empty((3, 2, 20), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("out", READ_ONLY, "read-only"),
        ("kind", "fp8", "kind is 'fp8', expected f32, f16, bf16 or int8"),
        ("kind", "f16", r"k_pages is \[5,2,16,20\] i8, expected \[NP,H=2,16,D=20\] f16"),
        ("first_position", -3, "first_position is -3"),
        ("isa", "sse9", "isa is 'sse9'"),
        ("threads", 0, "threads is 0"),
    ],
)
def test_the_binding_checks_what_python_cannot(name: str, value: Any, message: str) -> None:
    _native.paged_attention(**native_arguments())
    with pytest.raises(InvalidArgumentError, match=message):
        _native.paged_attention(**{**native_arguments(), name: value})


def test_an_instruction_set_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in CPU_ISAS:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        if isa in HERE:
            paged_attention(**good_arguments())
        else:
            with pytest.raises(UnsupportedError, match=isa):
                paged_attention(**good_arguments())
