"""Safetensors files: what a header may claim, and that nothing else gets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile
from tinygptv_fast.errors import CheckpointError

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def test_reads_every_dtype_as_safetensors_wrote_it(tmp_path: Path) -> None:
    tensors = {
        "f32": torch.randn(3, 5),
        "f16": torch.randn(7).half(),
        "bf16": torch.randn(2, 3, 4).bfloat16(),
        "i8": torch.randint(-128, 127, (5,), dtype=torch.int8),
        "i64": torch.arange(4),
        "bool": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert sorted(file.names()) == sorted(tensors)
    assert file.metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        assert file.info(name).shape == tuple(tensor.shape)
        assert file.tensor(name).dtype == tensor.dtype
        assert torch.equal(file.tensor(name), tensor)


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(4)}, tmp_path / "x.safetensors")
    SafetensorsFile(tmp_path / "x.safetensors").tensor("x").zero_()
    assert torch.equal(SafetensorsFile(tmp_path / "x.safetensors").tensor("x"), torch.ones(4))


HOSTILE = {
    "empty object expected": (b"[]", b"", "expected an object"),
    "not json": (b"{nope", b"", "not valid json"),
    "not utf-8": (b'{"\xff":1}', b"", "not valid json"),
    "nested beyond the parser": (b"[" * 100_000, b"", "not valid json"),
    "duplicate name": (b'{"a":{},"a":{}}', b"", "duplicate key 'a'"),
    "metadata not text": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "extra field": ({"a": {**F32, "more": 1}}, bytes(16), "'a' must have exactly"),
    "entry not an object": ({"a": 3}, b"", "'a' must have exactly"),
    "unknown dtype": ({"a": {**F32, "dtype": "F13"}}, bytes(16), "'a' has dtype 'F13'"),
    "dtype not text": ({"a": {**F32, "dtype": ["F32"]}}, bytes(16), "'a' has dtype"),
    "negative size": ({"a": {**F32, "shape": [-2, -2]}}, bytes(16), "'a' has shape"),
    "boolean size": ({"a": {**F32, "shape": [True, 4]}}, bytes(16), "'a' has shape"),
    "float size": ({"a": {**F32, "shape": [2.0, 2]}}, bytes(16), "'a' has shape"),
    "rank of a thousand": ({"a": {**F32, "shape": [1] * 1000}}, bytes(16), "'a' has shape"),
    "product overflows 64 bits": ({"a": {**F32, "shape": [2**33, 2**33]}}, bytes(16), "offsets span 16"),
    "shape larger than bytes": ({"a": {**F32, "shape": [4, 4]}}, bytes(16), "offsets span 16"),
    "reversed offsets": ({"a": {**F32, "data_offsets": [16, 0]}}, bytes(16), "lies at 16..0"),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 8, 16]}}, bytes(16), "data_offsets"),
    "negative offset": ({"a": {**F32, "data_offsets": [-16, 0]}}, bytes(16), "data_offsets"),
    "beyond the file": ({"a": {**F32, "data_offsets": [16, 32]}}, bytes(16), "lies at 16..32"),
    "overlap": ({"a": F32, "b": {**F32, "data_offsets": [8, 24]}}, bytes(24), "'a' and 'b' overlap"),
    "hole": ({"a": F32, "b": {**F32, "data_offsets": [24, 40]}}, bytes(40), "belong to no tensor"),
    "bytes behind": ({"a": F32}, bytes(17), "1 bytes follow"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_header_is_refused(tmp_path: Path, case: str) -> None:
    header, data, message = HOSTILE[case]
    path = write(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [2**64 - 1, 100_000_001, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x.safetensors", b"{}", b"", length)
    with pytest.raises(CheckpointError, match="header claims"):
        SafetensorsFile(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.randn(3), "b": torch.randn(2, 2).half()}, tmp_path / "x.safetensors")
    whole = (tmp_path / "x.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            SafetensorsFile(cut)


def test_missing_file_and_missing_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        SafetensorsFile(tmp_path / "nowhere.safetensors")
    save_file({"a": torch.randn(3)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no tensor 'b'"):
        SafetensorsFile(tmp_path / "x.safetensors").tensor("b")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4).half()}, path)
    return path, path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_read_within_the_file(
    valid: tuple[Path, bytes], changes: list[tuple[int, int]]
) -> None:
    path, whole = valid
    data = bytearray(whole)
    for position, value in changes:
        data[position % len(data)] = value
    damaged = path.with_name("damaged.safetensors")
    damaged.write_bytes(bytes(data))
    try:
        file = SafetensorsFile(damaged)
    except CheckpointError:
        return
    assert sum(file.tensor(name).nbytes for name in file.names()) <= len(data)
