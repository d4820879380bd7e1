from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.quantize.packing import pack_nibbles, unpack_nibbles


def test_low_nibble_is_the_even_position() -> None:
    packed = pack_nibbles(torch.tensor([[1, 2, 3, 15]], dtype=torch.uint8))
    assert packed.tolist() == [[0x21, 0xF3]]


def test_odd_count_pads_the_last_high_nibble() -> None:
    values = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    assert pack_nibbles(values, pad=8).tolist() == [[0x21, 0x83], [0x54, 0x86]]
    assert pack_nibbles(values, pad=torch.tensor([7, 9], dtype=torch.uint8)).tolist() == [[0x21, 0x73], [0x54, 0x96]]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 15), st.randoms(use_true_random=False))
def test_round_trip(rows: int, count: int, pad: int, random) -> None:
    values = torch.tensor([[random.randrange(16) for _ in range(count)] for _ in range(rows)], dtype=torch.uint8)
    packed = pack_nibbles(values, pad)
    assert packed.shape == (rows, (count + 1) // 2)
    assert torch.equal(unpack_nibbles(packed, count), values)


@pytest.mark.parametrize(
    "values",
    [torch.zeros(2, 2), torch.zeros(4, dtype=torch.uint8), torch.full((1, 2), 16, dtype=torch.uint8)],
    ids=["dtype", "rank", "above 15"],
)
def test_bad_values_raise(values: torch.Tensor) -> None:
    with pytest.raises(InvalidArgumentError, match="values"):
        pack_nibbles(values)


def test_bad_pad_and_bad_count_raise() -> None:
    with pytest.raises(InvalidArgumentError, match="pad"):
        pack_nibbles(torch.zeros(1, 3, dtype=torch.uint8), pad=16)
    with pytest.raises(InvalidArgumentError, match="packed"):
        unpack_nibbles(torch.zeros(1, 3, dtype=torch.uint8), 7)
