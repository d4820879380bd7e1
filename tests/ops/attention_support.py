"""Pages with a sequence in them, for the tests of qkv_append and paged_attention. Everything else in them is poison."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tinygptv_fast.reference.paged_attention import PAGE_TOKENS, read_rows, round_rows

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
EPS = 2.0**-24  # half a unit in the last place of float32, relative


@dataclass
class Pages:
    """Pages [NP, H, 16, D], their scales if int8, and the block table of one sequence."""

    k: torch.Tensor
    v: torch.Tensor
    k_scales: torch.Tensor | None
    v_scales: torch.Tensor | None
    table: torch.Tensor

    @property
    def scales(self) -> dict[str, torch.Tensor | None]:
        """The keyword arguments of the ops."""
        return {"k_scales": self.k_scales, "v_scales": self.v_scales}

    def copy(self) -> Pages:
        parts = (self.k, self.v, self.k_scales, self.v_scales)
        return Pages(*(None if x is None else x.clone() for x in parts), self.table)  # type: ignore[arg-type]

    def parts(self) -> list[torch.Tensor]:
        """All that an append may change, as bits."""
        return [x.view(torch.uint8) for x in (self.k, self.v, self.k_scales, self.v_scales) if x is not None]

    def rows(self, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V float64 [positions, H, D] as they are held."""
        k = read_rows(self.k, self.k_scales, self.table, positions)
        return k.double(), read_rows(self.v, self.v_scales, self.table, positions).double()

    def value_scales(self, positions: int) -> torch.Tensor | None:
        """float64 [positions, H], of int8 pages."""
        if self.v_scales is None:
            return None
        return read_rows(self.v_scales[..., None], None, self.table, positions)[..., 0].double()


def poisoned(dtype: torch.dtype, heads: int, head_dim: int, positions: int) -> Pages:
    """NaN in every slot (int8: in every scale), and pages that no table names; the table runs backwards."""
    used = -(-positions // PAGE_TOKENS)
    shape = (used + 2, heads, PAGE_TOKENS, head_dim)
    k = torch.full(shape, 113, dtype=dtype) if dtype == torch.int8 else torch.full(shape, torch.nan, dtype=dtype)
    scales = torch.full(shape[:3], torch.nan, dtype=torch.float16) if dtype == torch.int8 else None
    table = torch.arange(used, 0, -1, dtype=torch.int32)
    return Pages(k, k.clone(), scales, None if scales is None else scales.clone(), table)


def filled(dtype: torch.dtype, heads: int, head_dim: int, positions: int, seed: int = 0) -> Pages:
    """``positions`` rows of normal numbers; the rest is poison."""
    generator = torch.Generator().manual_seed(seed)
    pages = poisoned(dtype, heads, head_dim, positions)
    for to, scales in ((pages.k, pages.k_scales), (pages.v, pages.v_scales)):
        rows, steps = round_rows(torch.randn(positions, heads, head_dim, generator=generator), dtype)
        for i in range(positions):
            page = pages.table[i // PAGE_TOKENS]
            to[page, :, i % PAGE_TOKENS] = rows[i]
            if scales is not None and steps is not None:
                scales[page, :, i % PAGE_TOKENS] = steps[i]
    return pages


def queries(tokens: int, heads: int, head_dim: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(tokens, heads, head_dim, generator=torch.Generator().manual_seed(seed))


def expected_attention(
    q: torch.Tensor, pages: Pages, first_position: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 attention [T, H, D] and how far float32 may be from it.

    A score x is a sum of D products and four roundings; its error e moves its weight w by a factor of 1 ± e, and all
    errors together the divisor by Σ e·w. Both sums over n positions and eight roundings more (2^x, the scale of V,
    joins of cuts, the division) stand for (2n + 8) units of Σ w|v|. Over int8 pages q is rounded to max|q|·2^-15 and a
    weight times its scale s of V to max(w s)·2^-15 (each half a step of at most 2^-14), v/s being what it meets.
    """
    tokens, _, head_dim = q.shape
    k, v = pages.rows(first_position + tokens)
    v_scales = pages.value_scales(first_position + tokens)
    out, bound = torch.empty(q.shape, dtype=torch.float64), torch.empty(q.shape, dtype=torch.float64)
    for t in range(tokens):
        n = first_position + t + 1
        x = torch.einsum("hd,ihd->hi", q[t].double(), k[:n]) * scale
        magnitude = torch.einsum("hd,ihd->hi", q[t].double().abs(), k[:n].abs()) * abs(scale)
        error = 2 * EPS * ((head_dim + 2) * magnitude + 4 * x.abs())
        if v_scales is not None:
            error += 2.0**-15 * q[t].double().abs().amax(-1, keepdim=True) * k[:n].abs().sum(-1).T * abs(scale)
        w = x.softmax(-1)
        size = torch.einsum("hi,ihd->hd", w, v[:n].abs())
        moved = torch.einsum("hi,ihd->hd", w * error, v[:n].abs()) + (w * error).sum(-1, keepdim=True) * size
        out[t] = torch.einsum("hi,ihd->hd", w, v[:n])
        bound[t] = moved + 2 * EPS * (2 * n + 8) * size + 2.0**-120  # weights below 2^-126 count as 0
        if v_scales is not None:
            largest = (w * v_scales[:n].T).amax(-1, keepdim=True)
            bound[t] += 2.0**-15 * largest * (v[:n].abs() / v_scales[:n, :, None]).nan_to_num().sum(0)
    return out, bound


def close(y: torch.Tensor, value: torch.Tensor, bound: torch.Tensor, what: str = "") -> None:
    """Every element within its bound; the worst is named."""
    assert y.shape == value.shape and y.dtype == torch.float32
    excess = ((y.double() - value).abs() / bound).nan_to_num(nan=float("inf"))
    worst = tuple(int(i) for i in torch.unravel_index(excess.argmax(), y.shape))
    assert excess[worst] <= 1, f"{what}: y{list(worst)} is {y[worst]}, expected {value[worst]} ± {bound[worst]}"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
