"""Token embeddings: exactly the twin's values for every kind of table; errors; torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tinygptv_fast as tgv
from tinygptv_fast.errors import InvalidArgumentError, UnsupportedError
from tinygptv_fast.ops import embedding
from tinygptv_fast.quantize.int8 import dequantize_int8, quantize_int8

pytestmark = pytest.mark.native

KINDS = ("float32", "bfloat16", "int8")


def table(kind: str, vocab: int = 11, width: int = 40) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight = torch.randn(vocab, width, generator=torch.Generator().manual_seed(width))
    if kind == "int8":
        quantized = quantize_int8(weight)
        return quantized.qweight, quantized.scales
    return weight.to(getattr(torch, kind)), None


@pytest.mark.parametrize("width", [*range(1, 18), 31, 32, 33, 80, 2560])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_twin(kind: str, width: int) -> None:
    rows, scales = table(kind, 11, width)
    for ids in (torch.tensor([0, 10, 3, 3, 7]), torch.tensor([], dtype=torch.int64), torch.arange(11)):
        y = embedding(ids, rows, scales)
        assert torch.equal(y, tgv.reference.embedding(ids, rows, scales)) and y.dtype == torch.float32
        assert torch.equal(y, embedding(ids.to(torch.int32), rows, scales))
        assert y.shape == (len(ids), width)


def test_int8_is_what_quantisation_means() -> None:
    weight = torch.randn(9, 50)
    quantized = quantize_int8(weight)
    assert torch.equal(embedding(torch.arange(9), quantized.qweight, quantized.scales), dequantize_int8(quantized))


def test_special_values_are_kept() -> None:
    special = torch.tensor([[torch.nan, torch.inf, -torch.inf, -0.0, 1e-40, 3e38]])
    for rows in (special, special.bfloat16()):
        y = embedding(torch.tensor([0]), rows)
        assert torch.equal(y.view(torch.int32), rows.float().view(torch.int32))


def test_out_and_its_surroundings() -> None:
    rows, scales = table("int8")
    around = torch.full((3 * 40 + 64,), 7.0)
    out = around[32:-32].view(3, 40)
    ids = torch.tensor([1, 2, 3])
    assert embedding(ids, rows, scales, out=out) is out
    assert torch.equal(out, embedding(ids, rows, scales))
    assert bool((around[:32] == 7).all()) and bool((around[-32:] == 7).all())


@pytest.mark.parametrize("kind", KINDS)
def test_opcheck_and_one_graph(kind: str) -> None:
    rows, scales = table(kind)
    torch.library.opcheck(torch.ops.tinygptv_fast.embedding, (torch.tensor([1, 2]), rows, scales))

    def look_up(ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids + 1, rows, scales) * 2

    compiled = torch.compile(look_up, backend="aot_eager", fullgraph=True, dynamic=True)
    for ids in (torch.tensor([0, 1]), torch.tensor([5, 4, 3])):
        assert torch.equal(compiled(ids), look_up(ids))


def test_there_is_no_gradient() -> None:
    for kind in ("float32", "bfloat16"):
        rows = table(kind)[0].requires_grad_()
        with pytest.raises(UnsupportedError, match="table requires a gradient"):
            embedding(torch.tensor([0]), rows)
        with torch.no_grad():
            assert torch.equal(embedding(torch.tensor([0]), rows), rows[:1].float())


IDS, TABLE = torch.tensor([0, 5]), table("float32")[0]
INT8, SCALES = table("int8")
BAD: list[tuple[dict[str, Any], str]] = [
    ({"ids": torch.tensor([0, 11])}, r"ids\[1\] is 11, expected 0\.\.10"),
    ({"ids": torch.tensor([-1])}, r"ids\[0\] is -1, expected 0\.\.10"),
    ({"ids": torch.tensor([2**40])}, r"ids\[0\] is 2147483647"),
    ({"ids": torch.tensor([-(2**40)])}, r"ids\[0\] is -1"),
    ({"ids": torch.tensor([[0]])}, r"ids is \[1,1\] i32, expected \[T\] i32"),
    ({"ids": torch.tensor(0)}, r"ids is \[\]"),
    ({"ids": torch.tensor([0.0])}, "float32"),
    ({"ids": torch.tensor([0], dtype=torch.int16)}, "int16"),
    ({"ids": torch.zeros(6, dtype=torch.int32)[::2]}, "strided"),
    ({"ids": IDS.to("meta")}, "on meta"),
    ({"ids": [0]}, "ids is list"),
    ({"table": TABLE.double()}, "table is torch.float64, expected"),
    ({"table": TABLE[0]}, r"table is \[40\] f32, expected \[V,C\] f32"),
    ({"table": TABLE.t()}, "strided"),
    ({"table": TABLE.bfloat16().t()}, "strided"),
    ({"table": TABLE.to("meta")}, "on meta"),
    ({"table": None}, "table is NoneType"),
    ({"table": torch.empty(0, 40)}, "V=0"),
    ({"table": torch.empty(3, 0)}, "C=0"),
    ({"scales": SCALES}, "scales is given, expected f32"),
    ({"table": INT8}, "scales is None, expected f32"),
    ({"table": INT8, "scales": SCALES[:10]}, r"scales is \[10\] f32, expected \[V=11\] f32; V was set by table"),
    ({"table": INT8, "scales": SCALES.double()}, "float64"),
    ({"out": torch.empty(2, 41)}, r"out is \[2,41\] f32, expected \[T=2,C=40\] f32"),
    ({"out": torch.empty(3, 40)}, "T was set by ids"),
    ({"out": torch.empty(2, 40).double()}, "float64"),
    ({"out": TABLE[:2]}, "out shares memory with table"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"ids": IDS, "table": TABLE, **changes}
    with pytest.raises(InvalidArgumentError, match=message):
        embedding(**arguments)
    assert embedding(IDS, TABLE).isfinite().all()
