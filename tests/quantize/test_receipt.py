from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tinygptv_fast.errors import CheckpointError
from tinygptv_fast.quantize.int4 import quantize_int4
from tinygptv_fast.quantize.int8 import quantize_int8
from tinygptv_fast.quantize.measure import ErrorSums, measure
from tinygptv_fast.quantize.receipt import AgreementCounter, Receipt, TensorRecord, read_receipt, write_receipt


def receipt() -> Receipt:
    w = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    four, eight = quantize_int4(w), quantize_int8(w)
    assert four.error is not None and eight.error is not None
    counter = AgreementCounter()
    counter.update(w, w + 0.01 * w.flip(0))
    return Receipt(
        (
            TensorRecord.from_sums("text.layers.0.mlp.fc1.weight", "int4", four.error, four.nbytes, group=32),
            TensorRecord.from_sums("text.layers.1.mlp.fc1.weight", "int4", four.error, four.nbytes, group=32),
            TensorRecord.from_sums("text.embed.weight", "int8", eight.error, eight.nbytes),
            TensorRecord.from_sums("ln_vision.bias", "float32", ErrorSums(10, 0.0, 3.0, 0.0), 40),
        )
    ).with_agreement(counter)


def test_measure_adds_up() -> None:
    a, b = torch.randn(100, 7), torch.randn(100, 7)
    whole = measure(a, b)
    parts = measure(a[:33], b[:33]) + measure(a[33:], b[33:])
    assert parts.elements == whole.elements == 700 and parts.max_abs == whole.max_abs
    assert parts.squared_error == pytest.approx(whole.squared_error)
    assert whole.relative_l2 == pytest.approx(((a - b).norm() / a.norm()).item(), rel=1e-5)
    assert ErrorSums().rmse == 0.0 and ErrorSums().relative_l2 == 0.0


def test_write_and_read_back(tmp_path: Path) -> None:
    before = receipt()
    path = tmp_path / "quality.json"
    write_receipt(path, before)
    assert read_receipt(path) == before
    assert os.listdir(tmp_path) == ["quality.json"]
    data = json.loads(path.read_text())
    assert data["schema"] == "tinygptv.quality" and data["version"] == 1
    assert data["tensors"][0]["bits_per_weight"] == pytest.approx(4.5)
    write_receipt(path, Receipt(()))  # replaces, and an empty receipt is legal
    assert read_receipt(path).tensors == ()


def test_totals_and_worst() -> None:
    totals = receipt().totals()
    assert list(totals) == ["float32", "int8", "int4"]
    record = receipt().tensors[0]
    assert totals["int4"]["tensors"] == 2 and totals["int4"]["elements"] == 2 * 64 * 96
    assert totals["int4"]["rmse"] == pytest.approx(record.rmse)
    assert totals["float32"]["bits_per_weight"] == 32
    assert [r.kind for r in receipt().worst(3)] == ["int4", "int4", "int8"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quality.json"
    write_receipt(path, receipt())
    old = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_receipt(path, Receipt(()))
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["quality.json"]


def edited(*keys: Any, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(receipt().to_dict())
    place = data
    for key in keys[:-1]:
        place = place[key]
    if value is None and keys[-1] not in ("agreement",):
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return data


HOSTILE = {
    "not an object": [],
    "lacks a key": edited("tensors", value=None),
    "unknown key": edited("extra", value=1),
    "other schema": edited("schema", value="gguf"),
    "later version": edited("version", value=2),
    "version true": edited("version", value=True),
    "tensors an object": edited("tensors", value={}),
    "totals an array": edited("totals", value=[]),
    "record a string": edited("tensors", 1, value="x"),
    "record lacks rmse": edited("tensors", 0, "rmse", value=None),
    "record unknown key": edited("tensors", 0, "note", value="x"),
    "negative error": edited("tensors", 0, "rmse", value=-1.0),
    "error a string": edited("tensors", 0, "rmse", value="0.1"),
    "error true": edited("tensors", 0, "rmse", value=True),
    "huge integer": edited("tensors", 0, "max_abs", value=10**300),
    "no elements": edited("tensors", 0, "elements", value=0),
    "fractional elements": edited("tensors", 0, "elements", value=1.5),
    "unknown kind": edited("tensors", 0, "kind", value="int2"),
    "kind a list": edited("tensors", 0, "kind", value=["int4"]),
    "group of another kind": edited("tensors", 2, "group", value=32),
    "group unknown": edited("tensors", 0, "group", value=48),
    "empty name": edited("tensors", 0, "name", value=""),
    "long name": edited("tensors", 0, "name", value="x" * 1000),
    "name twice": edited("tensors", 0, "name", value="text.embed.weight"),
    "agreement above 1": edited("agreement", "token_agreement", value=1.5),
    "agreement lacks kl": edited("agreement", "kl_nats", value=None),
    "agreement interval of 3": edited("agreement", "token_agreement_95", value=[0, 0.5, 1]),
    "agreement low null": edited("agreement", "kl_nats_95", value=[None, 0.5]),
    "agreement a number": edited("agreement", value=0.99),
    "too many tensors": edited("tensors", value=[{}] * 20_001),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_receipts_raise(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "quality.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as raised:
        read_receipt(path)
    assert len(str(raised.value)) < 1000


RAW = {
    "not json": b"{",
    "not utf-8": b'{"schema": "\xff"}',
    "NaN": json.dumps(edited("tensors", 0, "rmse", value=float("nan"))).encode(),
    "infinity": json.dumps(edited("tensors", 0, "rmse", value=float("inf"))).encode(),
    "overflow to infinity": json.dumps(edited("tensors", 0, "rmse", value=7.25)).replace("7.25", "1e999").encode(),
    "repeated key": b'{"schema": "tinygptv.quality", "schema": "tinygptv.quality"}',
    "deep": b"[" * 200_000 + b"]" * 200_000,
    "absurd integer": b'{"version": ' + b"9" * 100_000 + b"}",
    "too large": b" " * (9 << 20),
    "empty": b"",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
def test_hostile_bytes_raise(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "quality.json"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"quality\.json"):
        read_receipt(path)


def test_a_single_position_has_an_open_interval(tmp_path: Path) -> None:
    counter = AgreementCounter()
    counter.update(torch.eye(1, 4), torch.eye(1, 4))
    path = tmp_path / "quality.json"
    write_receipt(path, Receipt(()).with_agreement(counter))
    agreement = read_receipt(path).agreement
    assert agreement is not None and agreement["kl_nats_95"] == [0.0, None]
