"""Is a model directory whole and what it claims to be? Every hash, every number, every original key.

``verify_directory`` needs the directory alone; ``verify_tensors`` remakes every weight from the original's files and
compares. Both return what they found and raise only for directories that cannot be opened at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.directory import REPORT, ModelDirectory, open_directory
from ..checkpoint.names import FLOAT_CODES
from ..errors import CheckpointError, TinyGPTVError
from ..generate.confidence import FILE as CALIBRATION
from ..generate.confidence import read_calibration
from ..processing.image import ImageProcessor
from ..processing.tokenizer import Tokenizer
from ..quantize.measure import measure
from .weights import OriginalSource

Progress = Callable[[int, int, str], None]
STATUSES = ("loaded", "folded", "dropped")
_BLOCK = 1 << 24  # elements checked at a time
# What a conversion's receipt and a second measurement of the same tensor may differ by: sums in another order.
_RECEIPT_TOLERANCE = 1e-3
_EXACT = 1e-6  # relative: float32 folds computed in blocks of another size
# A tensor further than this from its source is not a rounding of it, whatever its receipt says (a permuted or
# unrelated matrix is near 1.4).
_LARGEST_ERROR = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 8e-3, "int8": 0.5, "int4": 0.5}


@dataclass
class Verification:
    """``problems`` are sentences, empty when all is well; ``keys`` are the lines of the conversion's ledger."""

    path: Path
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    set_to_zero: list[dict[str, Any]] = field(default_factory=list)
    tensors: int = 0
    hashes_checked: int = 0

    @property
    def ok(self) -> bool:
        """No problem found."""
        return not self.problems

    def counts(self) -> dict[str, int]:
        """How many original keys had which status."""
        found = Counter(str(line.get("status")) for line in self.keys)
        return {**{status: found[status] for status in STATUSES}, "set_to_zero": len(self.set_to_zero)}

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        return {
            "path": str(self.path),
            "ok": self.ok,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "tensors": self.tensors,
            "hashes_checked": self.hashes_checked,
            "summary": self.counts(),
            "keys": list(self.keys),
            "set_to_zero": list(self.set_to_zero),
        }


@dataclass(frozen=True)
class TensorCheck:
    """One tensor against the original's files. ``expected``: relative error the receipt records for it."""

    name: str
    kind: str
    relative_l2: float
    max_abs: float
    expected: float | None
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        return dict(vars(self))


def verify_directory(path: str | os.PathLike[str] | ModelDirectory, progress: Progress | None = None) -> Verification:
    """Check hashes of all files and tensors, that every number is finite, and the small files against each other.

    Missing, extra and mis-shaped tensors make the directory unreadable: ``CheckpointError`` lists them all.
    """
    directory = path if isinstance(path, ModelDirectory) else open_directory(path)
    out = Verification(directory.path)
    _check_hashes(directory, out)
    _check_finite(directory, out, progress)
    for check in (_check_receipt, _check_ledger, _check_small_files):
        try:
            check(directory, out)
        except (TinyGPTVError, OSError) as error:
            out.problems.append(str(error))
    return out


def verify_tensors(
    directory: ModelDirectory, originals: OriginalSource, progress: Progress | None = None
) -> list[TensorCheck]:
    """Remake every tensor from the original's files and compare it with what is stored, one tensor at a time."""
    recorded = {record.name: record.relative_l2 for record in directory.quality.tensors}
    names, out = directory.names(), []
    for index, name in enumerate(names):
        kind = directory.kind(name)
        found = measure(originals.tensor(name), directory.dequantized(name))
        expected = recorded.get(name)
        bound = _EXACT + (expected or 0.0) * (1 + _RECEIPT_TOLERANCE)
        good = found.relative_l2 <= min(bound, _LARGEST_ERROR[kind])
        out.append(TensorCheck(name, kind, found.relative_l2, found.max_abs, expected, good))
        if progress is not None:
            progress(index + 1, len(names), name)
    return out


def _check_hashes(directory: ModelDirectory, out: Verification) -> None:
    stated = directory.hashes
    out.hashes_checked = len(stated["files"]) + len(stated["tensors"])
    for mismatch in directory.verify_hashes():
        out.problems.append(f"{mismatch.name}: sha256 is {mismatch.found}, expected {mismatch.expected}")
    present = {p.name for p in directory.path.iterdir() if p.is_file()}
    try:
        read_calibration(directory.path, directory.content_hash)
    except CheckpointError as error:
        out.problems.append(str(error))
    known = {"model.safetensors", "hashes.json", "quality.json", CALIBRATION}
    for name in sorted(present - set(stated["files"]) - known):
        out.notes.append(f"{name} is not part of the model and was not checked")


def _check_finite(directory: ModelDirectory, out: Verification, progress: Progress | None) -> None:
    names = directory.names()
    out.tensors = len(names)
    for index, name in enumerate(names):
        quantized = directory.kind(name) not in FLOAT_CODES
        values = directory.quantized(name).scales if quantized else directory.tensor(name)
        bad = _not_finite(values)
        if bad:
            what = "scales" if quantized else "values"
            out.problems.append(f"tensor {name} holds {bad} {what} that are NaN or infinite")
        if progress is not None:
            progress(index + 1, len(names), name)


def _not_finite(values: torch.Tensor) -> int:
    flat = values.reshape(-1)
    return sum(int((~torch.isfinite(flat[start : start + _BLOCK])).sum()) for start in range(0, flat.numel(), _BLOCK))


def _check_receipt(directory: ModelDirectory, out: Verification) -> None:
    recorded = {record.name: record for record in directory.quality.tensors}
    for name in sorted(set(recorded) ^ set(directory.names())):
        where = "not in the model" if name in recorded else "not in the receipt"
        out.problems.append(f"quality.json: tensor {name} is {where}")
    for name in directory.names():
        if name in recorded and not recorded[name].kind.startswith(directory.kind(name)):
            out.problems.append(
                f"quality.json: tensor {name} is recorded as {recorded[name].kind}, stored as {directory.kind(name)}"
            )


def _check_ledger(directory: ModelDirectory, out: Verification) -> None:
    if "tensors" not in directory.report:
        out.notes.append(f"{REPORT} lists no original files: the model was not converted from any")
        return
    lines, zeros = directory.report["tensors"], directory.report.get("set_to_zero", [])
    if not _is_ledger(lines, zeros):
        out.problems.append(f"{REPORT} is malformed, expected one object with file, tensor and status per original key")
        return
    out.keys, out.set_to_zero = lines, zeros
    targets = {line["target"] for line in lines if "target" in line} | {line["target"] for line in zeros}
    for name in sorted(set(directory.names()) - targets):
        out.problems.append(f"{REPORT}: tensor {name} has no source")
    for name in sorted(targets - set(directory.names())):
        out.problems.append(f"{REPORT}: {name} is named as a target, but the model has no such tensor")


def _is_ledger(lines: Any, zeros: Any) -> bool:
    if not isinstance(lines, list) or not isinstance(zeros, list):
        return False
    good = all(isinstance(x, dict) and x.get("status") in STATUSES and {"file", "tensor"} <= set(x) for x in lines)
    reasons = all("reason" in x if x["status"] == "dropped" else "target" in x for x in lines) if good else False
    return good and reasons and all(isinstance(x, dict) and {"target", "reason"} <= set(x) for x in zeros)


def _check_small_files(directory: ModelDirectory, out: Verification) -> None:
    tokenizer = Tokenizer.from_file(directory.tokenizer_file)
    if tokenizer.size > directory.config.text.vocab_size:
        out.problems.append(
            f"tokenizer.json has {tokenizer.size} tokens, expected at most {directory.config.text.vocab_size}"
        )
    template = directory.template
    if directory.chat_template != template.jinja():
        out.problems.append(f"chat_template.jinja is not the template {template.name!r} of generation_config.json")
    if directory.config.vision is not None:
        size = ImageProcessor.from_dict(directory.preprocessor).image_size
        if size != directory.config.vision.image_size:
            out.problems.append(
                f"preprocessor_config.json makes {size} px pictures, config.json expects "
                f"{directory.config.vision.image_size}"
            )
