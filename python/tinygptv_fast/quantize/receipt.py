"""The quality receipt of a model directory, ``quality.json``: what storing each tensor cost, and what that did.

Read strictly, since a directory may come from anywhere: bounded size and depth, no unknown or repeated keys, no
NaN, every number in range. Knows json and numbers; tensors are measured in ``measure``, predictions in ``agreement``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .agreement import AgreementCounter, Estimate, mean_kl, token_agreement, wilson_interval
from .measure import ErrorSums

__all__ = [
    "AgreementCounter", "Estimate", "Receipt", "TensorRecord", "mean_kl", "read_receipt", "token_agreement",
    "wilson_interval", "write_receipt",
]  # fmt: skip

SCHEMA = "tinygptv.quality"
SCHEMA_VERSION = 1
FILE_NAME = "quality.json"
KINDS = ("float32", "float16", "bfloat16", "int8", "int4", "int4_asymmetric")
MAX_BYTES = 8 << 20  # a TinyGPT-V directory has about 1,100 tensors of 250 bytes each
MAX_TENSORS = 20_000
_MAX_NAME = 256
_AGREEMENT_KEYS = ("positions", "token_agreement", "token_agreement_95", "kl_nats", "kl_nats_95")


@dataclass(frozen=True)
class TensorRecord:
    """One stored tensor. ``group`` is the int4 group, 0 for other kinds; errors are in the weights' own unit."""

    name: str
    kind: str
    group: int
    elements: int
    rmse: float
    relative_l2: float  # ||w - stored|| / ||w||
    max_abs: float
    bits_per_weight: float  # scales and zeros included

    def __post_init__(self) -> None:
        where = f"tensor record {str(self.name)[:_MAX_NAME]!r}"
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= _MAX_NAME:
            raise CheckpointError(f"{where}: name is not a string of 1..{_MAX_NAME} characters")
        if self.kind not in KINDS:
            raise CheckpointError(f"{where}: kind is {str(self.kind)[:40]!r}, expected one of {KINDS}")
        groups = (32, 64, 128) if self.kind.startswith("int4") else (0,)
        if type(self.group) is not int or self.group not in groups:
            raise CheckpointError(f"{where}: group is {str(self.group)[:40]}, expected one of {groups} for {self.kind}")
        _check_integer(where, "elements", self.elements, 1, 1 << 48)
        for field in ("rmse", "relative_l2", "max_abs", "bits_per_weight"):
            _check_number(where, field, getattr(self, field), 0.0, 1e39)

    @classmethod
    def from_sums(cls, name: str, kind: str, error: ErrorSums, stored_bytes: int, group: int = 0) -> TensorRecord:
        """The record of a tensor whose stored form takes ``stored_bytes``, all its parts together."""
        bits = 8.0 * stored_bytes / max(error.elements, 1)
        return cls(name, kind, group, error.elements, error.rmse, error.relative_l2, error.max_abs, bits)


@dataclass(frozen=True)
class Receipt:
    """Contents of ``quality.json``: tensors in the order stored, and the measured agreement once there is one."""

    tensors: tuple[TensorRecord, ...]
    agreement: Mapping[str, Any] | None = None  # AgreementCounter.to_dict()

    def __post_init__(self) -> None:
        names = [record.name for record in self.tensors]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"quality receipt has tensor {twice!r} twice, expected each once")
        if len(names) > MAX_TENSORS:
            raise CheckpointError(f"quality receipt has {len(names)} tensors, expected at most {MAX_TENSORS}")
        if self.agreement is not None:
            _check_agreement(self.agreement)

    def totals(self) -> dict[str, dict[str, float]]:
        """Per kind: tensors, elements, rmse and max_abs over all elements, mean bits per weight."""
        return {kind: _total([r for r in self.tensors if r.kind == kind]) for kind in KINDS if self._has(kind)}

    def worst(self, count: int = 5) -> list[TensorRecord]:
        """The tensors of largest relative error, for a report."""
        return sorted(self.tensors, key=lambda record: -record.relative_l2)[:count]

    def with_agreement(self, counter: AgreementCounter) -> Receipt:
        """A copy that carries the measured agreement."""
        return dataclasses.replace(self, agreement=counter.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The json object: schema, version, totals (derived, for readers), agreement, tensors."""
        return {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "totals": self.totals(),
            "agreement": None if self.agreement is None else dict(self.agreement),
            "tensors": [dataclasses.asdict(record) for record in self.tensors],
        }

    @classmethod
    def from_dict(cls, data: Any, where: str = FILE_NAME) -> Receipt:
        """Strict inverse of ``to_dict``; ``totals`` must be an object but is recomputed, never believed."""
        _check_keys(where, data, ("schema", "version", "totals", "agreement", "tensors"))
        if data["schema"] != SCHEMA or type(data["version"]) is not int or data["version"] != SCHEMA_VERSION:
            what = f"{str(data['schema'])[:40]!r} version {str(data['version'])[:40]}"
            raise CheckpointError(f"{where} is of schema {what}, expected {SCHEMA!r} version {SCHEMA_VERSION}")
        if not isinstance(data["tensors"], list) or not isinstance(data["totals"], dict):
            raise CheckpointError(f"{where}: tensors must be an array and totals an object")
        if len(data["tensors"]) > MAX_TENSORS:
            raise CheckpointError(f"{where} has {len(data['tensors'])} tensors, expected at most {MAX_TENSORS}")
        fields = tuple(field.name for field in dataclasses.fields(TensorRecord))
        for position, item in enumerate(data["tensors"]):
            _check_keys(f"{where} tensors[{position}]", item, fields)
        try:
            return cls(tuple(TensorRecord(**item) for item in data["tensors"]), data["agreement"])
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def _has(self, kind: str) -> bool:
        return any(record.kind == kind for record in self.tensors)


def write_receipt(path: str | os.PathLike[str], receipt: Receipt) -> None:
    """Write json to ``path`` by way of a temporary beside it: a reader sees the old file or the whole new one."""
    target = Path(path)
    text = json.dumps(receipt.to_dict(), indent=1, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide a shared model's receipt
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def read_receipt(path: str | os.PathLike[str]) -> Receipt:
    """Read ``quality.json``. Raises ``CheckpointError`` naming the file and what is wrong with it."""
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_BYTES} bytes, expected a quality receipt")
    return Receipt.from_dict(_parse(str(path), raw), str(path))


def _parse(where: str, raw: bytes) -> Any:
    def refuse(token: str) -> Any:
        raise CheckpointError(f"{where} holds the number {token}, expected finite numbers")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise CheckpointError(f"{where} repeats a key in one object")
        return out

    try:
        return json.loads(raw.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad json, absurd integers, absurd nesting
        raise CheckpointError(f"{where} is not valid json: {str(error)[:200]}") from error


def _total(records: Iterable[TensorRecord]) -> dict[str, float]:
    records = list(records)
    elements = sum(r.elements for r in records)
    return {
        "tensors": len(records),
        "elements": elements,
        "rmse": math.sqrt(sum(r.rmse**2 * r.elements for r in records) / elements),
        "max_abs": max(r.max_abs for r in records),
        "bits_per_weight": sum(r.bits_per_weight * r.elements for r in records) / elements,
    }


def _check_keys(where: str, data: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{where} is {type(data).__name__}, expected a json object")
    unknown, missing = sorted(set(data) - set(keys)), sorted(set(keys) - set(data))
    if unknown or missing:
        raise CheckpointError(
            f"{where} has unknown keys {str(unknown)[:200]} and lacks {missing}, expected {list(keys)}"
        )


def _check_agreement(agreement: Any) -> None:
    where = "agreement"
    _check_keys(where, agreement, _AGREEMENT_KEYS)
    _check_integer(where, "positions", agreement["positions"], 1, 1 << 48)
    _check_number(where, "token_agreement", agreement["token_agreement"], 0.0, 1.0)
    _check_number(where, "kl_nats", agreement["kl_nats"], 0.0, 1e6)
    for key, limit in (("token_agreement_95", 1.0), ("kl_nats_95", 1e6)):
        pair = agreement[key]
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise CheckpointError(f"{where}: {key} is not an array [low, high]")
        for end in pair[:1] if key == "kl_nats_95" and pair[1] is None else pair:  # one position has no upper end
            _check_number(where, key, end, 0.0, limit)


def _check_number(where: str, name: str, value: Any, low: float, high: float) -> None:
    number = type(value) in (int, float)
    if not number or not low <= value <= high:
        raise CheckpointError(f"{where}: {name} is {str(value)[:40]}, expected a number {low:g}..{high:g}")


def _check_integer(where: str, name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise CheckpointError(f"{where}: {name} is {str(value)[:40]}, expected an integer {low}..{high}")
