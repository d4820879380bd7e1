"""qkv_append against its twin on every instruction set: rows of the cache bit for bit, what it leaves alone, errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import tinygptv_fast as tgv
from tinygptv_fast import _native
from tinygptv_fast.env import CPU_ISAS
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import qkv_append

from .attention_support import DTYPES, EPS, Pages, close, poisoned, same_bits

pytestmark = pytest.mark.native

HERE = _native.isas()
Norm = tuple[torch.Tensor, torch.Tensor | None] | None


@dataclass
class Problem:
    """Everything but the pages; ``norms`` are (q_norm, k_norm)."""

    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    norms: tuple[Norm, Norm]
    first: int

    @property
    def positions(self) -> int:
        return self.first + self.qkv.shape[0]

    def pages(self, dtype: torch.dtype) -> Pages:
        return poisoned(dtype, self.qkv.shape[1], self.qkv.shape[3], self.positions)

    def part(self, begin: int, end: int) -> Problem:
        return replace(self, qkv=self.qkv[begin:end], first=self.first + begin)

    def run(self, pages: Pages, function: Any = qkv_append, **options: Any) -> torch.Tensor:
        return function(  # type: ignore[no-any-return]
            self.qkv, pages.k, pages.v, pages.table, self.first, self.cos, self.sin, **pages.scales,
            q_norm=self.norms[0], k_norm=self.norms[1], **options,
        )  # fmt: skip


def problem(
    tokens: int, heads: int, head_dim: int, rotary: int, first: int = 0, norm: bool = True, bias: bool = True
) -> Problem:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    angles = torch.rand(first + tokens, rotary // 2, generator=generator) * 6
    norms = [(draw(head_dim), draw(head_dim) if bias else None) if norm else None for _ in range(2)]
    return Problem(draw(tokens, heads, 3, head_dim), angles.cos(), angles.sin(), (norms[0], norms[1]), first)


def on_every_isa(
    p: Problem, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[torch.Tensor, Pages]:
    """q and the pages, which must be the same bits on all instruction sets."""
    results: list[tuple[torch.Tensor, Pages]] = []
    for isa in HERE:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        pages = p.pages(dtype)
        q = p.run(pages, out=torch.full((p.qkv.shape[0], p.qkv.shape[1], p.qkv.shape[3]), torch.nan), **options)
        results.append((q, pages))
        assert same_bits(results[0][0], q), f"{isa} differs from {HERE[0]} in q"
        for a, b in zip(results[0][1].parts(), pages.parts(), strict=True):
            assert torch.equal(a, b), f"{isa} differs from {HERE[0]} in the pages"
    return results[0]


def expected_rows(p: Problem, which: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of q (0) or k (1) in float64 [T, H, D], and how far float32 may be from them.

    The mean is a sum of D over 16 lanes and a tree of 4: D/16 + 5 roundings of Σ|x|/D. Those, and the subtraction, are
    carried through the deviation; var is a sum of as many squares; then four roundings of the product and one of the
    sum with the bias. A turn adds three roundings of two terms.
    """
    x = p.qkv[:, :, which].double()
    norm, head_dim = p.norms[which], x.shape[-1]
    steps = head_dim / 16 + 6
    bound = torch.zeros_like(x)
    if norm is not None:
        mean = x.mean(-1, keepdim=True)
        inverse = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
        moved = 2 * EPS * (steps * x.abs().mean(-1, keepdim=True) + (x - mean).abs())
        # An error of the deviations moves var by at most 2·|deviation|·error on average.
        spread = (moved.amax(-1, keepdim=True) * inverse + 2 * EPS * steps) * 2
        y = (x - mean) * inverse * norm[0].double()
        bound = moved * inverse * norm[0].double().abs() + y.abs() * (spread + 8 * EPS)
        if norm[1] is not None:
            y = y + norm[1].double()
        x, bound = y, bound + 2 * EPS * y.abs()
    half = p.cos.shape[1]
    places = slice(p.first, p.positions)
    c, s = p.cos[places, None].double(), p.sin[places, None].double()
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    out = torch.cat([low * c - high * s, high * c + low * s, rest], -1)
    e_low, e_high = bound[..., :half], bound[..., half : 2 * half]
    terms = (low * c).abs() + (high * s).abs(), (high * c).abs() + (low * s).abs()
    turned = [e_low * c.abs() + e_high * s.abs(), e_high * c.abs() + e_low * s.abs()]
    turned = [e * (1 + 4 * EPS) + 4 * EPS * t for e, t in zip(turned, terms, strict=True)]
    return out, torch.cat([*turned, bound[..., 2 * half :]], -1) + 2.0**-140


# --- the right numbers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("head_dim", "rotary"),
    [(4, 0), (4, 2), (4, 4), (12, 6), (16, 16), (20, 8), (20, 20), (32, 12), (64, 64), (68, 34), (80, 32), (80, 0),
     (80, 80), (96, 48), (128, 66), (252, 252), (256, 64)],
)  # fmt: skip
def test_norm_and_turn(head_dim: int, rotary: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(5, 3, head_dim, rotary, first=14, bias=bias)
    q, pages = on_every_isa(p, torch.float32, monkeypatch)
    close(q, *expected_rows(p, 0), "q")
    k, v = pages.rows(p.positions)
    close(k[14:].float(), *expected_rows(p, 1), "k")
    assert torch.equal(v[14:].float(), p.qkv[:, :, 2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [4, 8, 20, 80, 84, 252, 256])
def test_rounding_is_that_of_the_twin(head_dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without norm and turn the pages are equal bit for bit, whatever the size of the numbers."""
    p = problem(24, 2, head_dim, 0, first=9, norm=False)
    exponents = torch.arange(24).view(24, 1, 1) * 2.0 - 36
    p.qkv[:, :, 1] *= torch.exp2(exponents)
    p.qkv[3, 0, 2] = 0
    p.qkv[4, 1, 2] = 0.5 - torch.arange(head_dim).float()  # ties when the scale is 1
    p.qkv[4, 1, 2, 0] = 127
    if dtype == torch.float16:
        p.qkv.clamp_(-65504, 65504)
    q, pages = on_every_isa(p, dtype, monkeypatch)
    twin = p.pages(dtype)
    assert torch.equal(p.run(twin, tgv.reference.qkv_append), q) and torch.equal(q, p.qkv[:, :, 0])
    for a, b in zip(pages.parts(), twin.parts(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_after_norm_and_turn(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of the pages are the rounding of the float32 rows that the same call gives a float32 cache."""
    p = problem(40, 4, 80, 32, first=7)
    q, pages = on_every_isa(p, dtype, monkeypatch)
    exact = p.pages(torch.float32)
    assert same_bits(p.run(exact), q)
    k = exact.rows(p.positions)[0].float()[7:]
    rounded = replace(p, qkv=torch.stack([q, k, p.qkv[:, :, 2]], 2), norms=(None, None))
    rounded.cos = rounded.sin = torch.empty(p.positions, 0)
    twin = rounded.pages(dtype)
    rounded.run(twin, tgv.reference.qkv_append)
    for a, b in zip(pages.parts(), twin.parts(), strict=True):
        assert torch.equal(a, b)


def test_against_the_twin_as_it_is() -> None:
    p = problem(33, 4, 80, 32, first=5)
    pages, twin = p.pages(torch.float16), p.pages(torch.float16)
    assert torch.allclose(p.run(pages), p.run(twin, tgv.reference.qkv_append), rtol=1e-5, atol=1e-5)
    for mine, other in zip(pages.rows(p.positions), twin.rows(p.positions), strict=True):
        assert torch.allclose(mine[5:], other[5:], rtol=2**-9, atol=1e-5)


# --- independence -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_and_threads_change_nothing(dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    p = problem(150, 5, 80, 32, first=3)
    pages = p.pages(dtype)
    whole = p.run(pages, threads=1)
    for threads in (2, 3):
        others = p.pages(dtype)
        assert same_bits(p.run(others, threads=threads), whole)
        assert all(torch.equal(a, b) for a, b in zip(others.parts(), pages.parts(), strict=True))
    for chunk in (1, 7, 16, 100):
        others = p.pages(dtype)
        parts = [p.part(begin, begin + chunk).run(others) for begin in range(0, 150, chunk)]
        assert same_bits(torch.cat(parts), whole)
        assert all(torch.equal(a, b) for a, b in zip(others.parts(), pages.parts(), strict=True))


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_its_rows_are_written(dtype: torch.dtype, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poison before, after and in other pages stays; guards around q stay; qkv ends where NaN begins."""
    monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
    for head_dim in (20, 80):
        p = problem(6, 3, head_dim, 4, first=13)
        pages = p.pages(dtype)
        before = pages.copy()
        around = torch.full((6 * 3 * head_dim + 128,), 7.0)
        out = around[64:-64].view(6, 3, head_dim)
        source = torch.full((p.qkv.numel() + 64,), torch.nan)
        p.qkv = source[: p.qkv.numel()].view(p.qkv.shape).copy_(p.qkv)
        assert p.run(pages, out=out) is out
        assert bool((around[:64] == 7).all()) and bool((around[-64:] == 7).all()) and bool(out.isfinite().all())
        written = torch.zeros(pages.k.shape[0], 16, dtype=torch.bool)
        for position in range(13, 19):
            written[pages.table[position // 16], position % 16] = True
        for now, then in zip(
            (pages.k, pages.v, pages.k_scales, pages.v_scales),
            (before.k, before.v, before.k_scales, before.v_scales),
            strict=True,
        ):
            if now is None or then is None:
                continue
            slots, old = now.transpose(1, 2), then.transpose(1, 2)
            assert same_bits(slots[~written], old[~written])
            assert bool(slots[written].float().isfinite().all())


def test_a_bad_row_spoils_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN, infinity and numbers that no scale reaches: the int8 row reads as NaN, the others as before."""
    p = problem(8, 2, 20, 0, norm=False)
    _, good = on_every_isa(p, torch.int8, monkeypatch)
    p.qkv[1, 0, 1, 3], p.qkv[2, 1, 1, 19], p.qkv[3, 0, 2, 0], p.qkv[4, 1, 2, 17] = torch.nan, torch.inf, -torch.inf, 9e6
    _, pages = on_every_isa(p, torch.int8, monkeypatch)
    bad_k, bad_v = torch.zeros(8, 2, dtype=torch.bool), torch.zeros(8, 2, dtype=torch.bool)
    bad_k[1, 0] = bad_k[2, 1] = bad_v[3, 0] = bad_v[4, 1] = True
    for now, then, bad in zip(pages.rows(8), good.rows(8), (bad_k, bad_v), strict=True):
        assert bool(now[bad].isnan().all()) and torch.equal(now[~bad], then[~bad])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_bad_number_stays_what_it_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(2, 2, 20, 0, norm=False)
    p.qkv[0, 0, 1, 3], p.qkv[0, 0, 1, 4], p.qkv[1, 1, 2, 19] = torch.nan, -torch.inf, torch.inf
    _, pages = on_every_isa(p, dtype, monkeypatch)
    k, v = pages.rows(2)
    assert bool(k[0, 0, 3].isnan()) and k[0, 0, 4] == -torch.inf and v[1, 1, 19] == torch.inf
    assert int(k.isfinite().sum()) == 78 and int(v.isfinite().sum()) == 79


# --- torch ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    p = problem(3, 2, 20, 8, first=4)
    pages = p.pages(dtype)
    norms = [x for norm in p.norms if norm is not None for x in norm]
    torch.library.opcheck(
        torch.ops.tinygptv_fast.qkv_append,
        (p.qkv, pages.k, pages.v, pages.table, 4, p.cos, p.sin, pages.k_scales, pages.v_scales, *norms, 1e-5, 1),
        # The pages are full of NaN, which the check of the compiled run compares as unequal to itself.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_it_compiles_into_one_graph_and_changes_the_pages() -> None:
    p = problem(5, 2, 20, 8)
    pages, others = p.pages(torch.int8), p.pages(torch.int8)

    def layer(qkv: torch.Tensor, to: Pages) -> torch.Tensor:
        return replace(p, qkv=qkv * 2).run(to) + 1

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(p.qkv, pages), layer(p.qkv, others))
    assert all(torch.equal(a, b) for a, b in zip(pages.parts(), others.parts(), strict=True))


def test_there_is_no_gradient() -> None:
    p = problem(3, 2, 20, 8)
    p.qkv.requires_grad_()
    with pytest.raises(UnsupportedError, match="qkv requires a gradient"):
        p.run(p.pages(torch.int8))


# --- errors -----------------------------------------------------------------------------------------------------------
P = problem(3, 2, 20, 8, first=37)
WEIGHT, BIAS = torch.ones(20), torch.zeros(20)


def good_arguments() -> dict[str, Any]:
    pages = P.pages(torch.int8)
    return {
        "qkv": P.qkv, "k_pages": pages.k, "v_pages": pages.v, "block_table": pages.table, "first_position": 37,
        "cos": P.cos, "sin": P.sin, "q_norm": (WEIGHT, BIAS), "k_norm": (WEIGHT, None), **pages.scales,
    }  # fmt: skip


BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("qkv", P.qkv[:, :, 0].contiguous(), r"qkv is \[3,2,20\] f32, expected \[T,H,3,D\] f32"),
    ("qkv", P.qkv.transpose(1, 2).contiguous(), r"qkv is \[3,3,2,20\] f32, expected \[T,H,3,D\] f32"),
    ("qkv", P.qkv.double(), "float64"),
    ("qkv", P.qkv.transpose(0, 1), "strided"),
    ("qkv", P.qkv.to("meta"), "on meta"),
    ("qkv", P.qkv.tolist(), "qkv is list"),
    ("qkv", torch.zeros(3, 1, 3, 20), r"k_pages is \[5,2,16,20\] i8, expected \[NP,H=1,16,D=20\] i8"),
    ("k_pages", torch.zeros(5, 2, 16, 24, dtype=torch.int8), "D was set by qkv"),
    ("k_pages", torch.zeros(5, 2, 16, 20, dtype=torch.int32), "k_pages is torch.int32"),
    ("k_pages", torch.zeros(5, 2, 16, 40, dtype=torch.int8)[..., ::2], "strided"),
    ("v_pages", torch.zeros(6, 2, 16, 20, dtype=torch.int8), "NP was set by k_pages"),
    ("v_pages", torch.zeros(5, 2, 16, 20), "v_pages is"),
    ("k_scales", None, "k_scales is missing"),
    ("v_scales", torch.ones(5, 2, 16).bfloat16(), "v_scales is"),
    ("block_table", torch.zeros(2, dtype=torch.int32), "block_table has 2 pages, expected at least 3"),
    ("block_table", torch.full((3,), 5, dtype=torch.int32), r"block_table\[0\] is 5, expected 0..4"),
    ("block_table", torch.zeros(3), "block_table is"),
    ("first_position", -1, "first_position is -1"),
    ("first_position", 40, "cos and sin have 40 positions, expected at least 43"),
    ("cos", P.cos[:39], "sin is"),
    ("cos", P.cos.double(), "float64"),
    ("cos", P.cos[None], r"cos is \[1,40,4\] f32, expected \[positions,R/2\] f32"),
    ("sin", P.sin[:, :3].contiguous(), r"sin is \[40,3\] f32, expected \[positions=40,R/2=4\] f32"),
    ("q_norm", (torch.ones(24), None), r"q_weight is \[24\] f32, expected \[D=20\] f32; D was set by qkv"),
    ("q_norm", (WEIGHT, torch.ones(2, 10)), "q_bias is"),
    ("q_norm", WEIGHT, "q_norm is Tensor, expected None or"),
    ("q_norm", (None, BIAS), "q_norm is tuple"),
    ("k_norm", (WEIGHT.half(), None), r"k_norm\[0\] is"),
    ("k_norm", (WEIGHT, 3), r"k_norm\[1\] is int"),
    ("eps", -1.0, "eps is a number that is not negative"),
    ("eps", float("nan"), "eps is nan"),
    ("out", torch.empty(3, 2, 24), r"out is \[3,2,24\] f32, expected \[T=3,H=2,D=20\] f32"),
    ("out", torch.empty(3, 2, 20).half(), "float16"),
    ("out", P.qkv.view(-1)[:120].view(3, 2, 20), "q must not overlap qkv"),
    ("threads", 0, "threads is 0"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        qkv_append(**{**good_arguments(), name: value})
    assert bool(qkv_append(**good_arguments()).isfinite().all())


def test_rotary_dims_beyond_the_row() -> None:
    wide = torch.ones(40, 11)
    with pytest.raises(InvalidArgumentError, match=r"R is even in 0..D"):
        qkv_append(**{**good_arguments(), "cos": wide, "sin": wide})


def test_k_and_v_must_be_apart() -> None:
    arguments = good_arguments()
    with pytest.raises(InvalidArgumentError, match="v_pages is memory of k_pages"):
        qkv_append(**{**arguments, "v_pages": arguments["k_pages"]})


def test_the_binding_refuses_pages_it_may_not_write() -> None:
    arguments = good_arguments()
    pages = arguments["k_pages"].numpy()
    pages.flags.writeable = False
    native = {name: x.numpy() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    extra = {"q_weight": None, "q_bias": None, "k_weight": None, "k_bias": None, "eps": 0.0, "kind": "int8"}
    call = {**native, **extra, "k_pages": pages, "first_position": 37, "out": np.empty((3, 2, 20), np.float32)}
    with pytest.raises(InvalidArgumentError, match="read-only"):
        _native.qkv_append(**call)
    with pytest.raises(InvalidArgumentError, match="a bias needs its weight"):
        _native.qkv_append(**{**call, "k_pages": native["k_pages"].copy(), "q_bias": BIAS.numpy()})


def test_an_instruction_set_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in CPU_ISAS:
        monkeypatch.setenv("TINYGPTV_CPU_ISA", isa)
        if isa in HERE:
            qkv_append(**good_arguments())
        else:
            with pytest.raises(UnsupportedError, match=isa):
                qkv_append(**good_arguments())
