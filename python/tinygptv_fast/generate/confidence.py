"""How likely an answer is to be right: the map from an answer's log-probabilities that ``calibration.json`` holds.

Reads, checks, writes and applies the map. Fitting one is ``diagnosis.fitting``; ``tinygptv calibrate`` does all of it.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..processing.boxes import box_spans

FILE = "calibration.json"
KIND, VERSION = "tinygptv_calibration", 1
MAX_FILE_BYTES, MAX_KNOTS = 1 << 16, 64
TERMS = ("total", "words", "weakest", "places")
_LARGEST = 1e6
_TEMPERATURES = (1e-4, 1e4)


@dataclass(frozen=True)
class Evidence:
    """What is known of an answer without its picture, in nats, all <= 0.

    total: sum of the tokens' log-probabilities. words: the same of the tokens outside boxes. weakest: the lowest of
    those. places: the lowest mean over the tokens of one box. 0 where there is nothing to sum. boxed: there is a box.
    """

    total: float
    words: float
    weakest: float
    places: float
    boxed: bool


def evidence(text: str, widths: Sequence[int], logprobs: Sequence[float]) -> Evidence:
    """The evidence of an answer. ``text`` as the tokens wrote it, ``widths``: characters that each token added."""
    spans = [whole for whole, *_ in box_spans(text)]
    ends = list(accumulate(widths))
    outside, inside = [], [[] for _ in spans]  # type: tuple[list[float], list[list[float]]]
    for end, width, logprob in zip(ends, widths, logprobs, strict=True):
        within = [i for i, (first, last) in enumerate(spans) if end > first and end - width < last and width]
        for index in within:
            inside[index].append(logprob)
        if not within:
            outside.append(logprob)
    places = [sum(each) / len(each) for each in inside if each]
    return Evidence(sum(logprobs), sum(outside), min(outside, default=0.0), min(places, default=0.0), bool(spans))


@dataclass(frozen=True)
class AnswerMap:
    """Evidence → probability of being right, never falling where a log-probability rises.

    score z = bias + Σ slopes[term] · term (+ boxed, where there is a box), slopes >= 0. knots: (z, p), both rising; p
    between two of them is linear, outside constant. No knots: p = 1 / (1 + exp(-z)).
    """

    slopes: Mapping[str, float]
    bias: float
    boxed: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()

    def score(self, found: Evidence) -> float:
        """z, in nats of log-odds where there are no knots."""
        terms = sum(slope * getattr(found, name) for name, slope in self.slopes.items())
        return self.bias + terms + (self.boxed if found.boxed else 0.0)

    def __call__(self, found: Evidence) -> float:
        """The probability that an answer with this evidence is right, 0..1."""
        z = self.score(found)
        return _between(self.knots, z) if self.knots else logistic(z)


@dataclass(frozen=True)
class Calibration:
    """The content of ``calibration.json``.

    model_id: content hash of the weights it was fitted for. answers: the map of free answers. temperature: of the
    softmax over the choices' mean log-probabilities; None where no choices were among the questions. fitted: counts and
    errors of the fit, for people.
    """

    model_id: str
    answers: AnswerMap
    temperature: float | None = None
    fitted: Mapping[str, float | str] = field(default_factory=dict)

    def choices(self, means: Sequence[float]) -> list[float] | None:
        """For each choice the probability that it is right, given that one of them is. ``means``: the mean
        log-probability of each one's tokens. The order is that of ``means``."""
        return None if self.temperature is None else softmax(means, self.temperature)


def softmax(means: Sequence[float], temperature: float) -> list[float]:
    """exp(mean / temperature), normalised."""
    best = max(means)
    parts = [math.exp(max((mean - best) / temperature, -700.0)) for mean in means]
    return [part / sum(parts) for part in parts]


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)) without overflow."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(max(z, -700.0)) / (1 + math.exp(max(z, -700.0)))


def _between(knots: Sequence[tuple[float, float]], z: float) -> float:
    at = bisect_right(knots, z, key=lambda knot: knot[0])
    if at == 0 or at == len(knots):
        return knots[min(at, len(knots) - 1)][1]
    (z0, p0), (z1, p1) = knots[at - 1], knots[at]
    return p0 + (p1 - p0) * (z - z0) / (z1 - z0)


# -- the file ----------------------------------------------------------------------------------------------------------
def write_calibration(directory: str | os.PathLike[str], calibration: Calibration) -> Path:
    """Write ``calibration.json`` into a model directory, atomically. Returns its path."""
    answers = calibration.answers
    data = {
        "kind": KIND,
        "version": VERSION,
        "model_id": calibration.model_id,
        "answers": {
            "slopes": dict(answers.slopes),
            "bias": answers.bias,
            "boxed": answers.boxed,
            "knots": [list(knot) for knot in answers.knots],
        },
        "temperature": calibration.temperature,
        "fitted": dict(calibration.fitted),
    }
    path = Path(directory) / FILE
    partial = path.with_name(f".{FILE}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_calibration(directory: str | os.PathLike[str], model_id: str) -> Calibration | None:
    """The calibration in a model directory whose weights have ``model_id``; None where there is no such file.

    Raises CheckpointError for a file that is damaged, of another version, or made for other weights.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return None
    data = _fields(path, "it", _parse(path), ("kind", "version", "model_id", "answers", "temperature", "fitted"))
    if data["kind"] != KIND or type(data["version"]) is not int or data["version"] != VERSION:
        raise CheckpointError(f"{path} is not a calibration of version {VERSION}")
    if not isinstance(data["model_id"], str) or data["model_id"] != model_id:
        raise CheckpointError(
            f"{path} was fitted for model {str(data['model_id'])[:12]!r}, this is {model_id[:12]!r}: "
            "remove it, or fit one for this model with 'tinygptv calibrate'"
        )
    temperature = data["temperature"]
    if temperature is not None:
        temperature = _number(path, "temperature", temperature, *_TEMPERATURES)
    return Calibration(model_id, _answers(path, data["answers"]), temperature, _fitted(path, data["fitted"]))


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, expected at most {MAX_FILE_BYTES}")
        text = path.read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as json: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key stands there twice")
    return out


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of json")


def _fields(path: Path, where: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise CheckpointError(f"{path}: {where} is {_short(value)}, expected an object with {', '.join(names)}")
    return value


def _answers(path: Path, value: Any) -> AnswerMap:
    data = _fields(path, "answers", value, ("slopes", "bias", "boxed", "knots"))
    slopes, knots = data["slopes"], data["knots"]
    if not isinstance(slopes, dict) or not set(slopes) <= set(TERMS):
        raise CheckpointError(f"{path}: slopes is {_short(slopes)}, expected numbers of {', '.join(TERMS)}")
    if not isinstance(knots, list) or len(knots) > MAX_KNOTS or len(knots) == 1:
        raise CheckpointError(f"{path}: knots is {_short(knots)}, expected none, or 2..{MAX_KNOTS} pairs")
    read = [_knot(path, knot) for knot in knots]
    if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(read)):
        raise CheckpointError(f"{path}: knots do not rise, expected a map that never falls")
    return AnswerMap(
        {name: _number(path, name, slope, 0.0, _LARGEST) for name, slope in slopes.items()},
        _number(path, "bias", data["bias"], -_LARGEST, _LARGEST),
        _number(path, "boxed", data["boxed"], -_LARGEST, _LARGEST),
        tuple(read),
    )


def _knot(path: Path, value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise CheckpointError(f"{path}: a knot is {_short(value)}, expected [score, probability]")
    return _number(path, "a knot", value[0], -_LARGEST, _LARGEST), _number(path, "a knot", value[1], 0.0, 1.0)


def _fitted(path: Path, value: Any) -> dict[str, float | str]:
    """Told on by ``TinyGPTV.info``, computed with by nobody."""
    good = isinstance(value, dict) and len(value) <= 32
    if not good or not all(isinstance(v, (int, float, str)) and len(str(k) + str(v)) <= 200 for k, v in value.items()):
        raise CheckpointError(f"{path}: fitted is {_short(value)}, expected at most 32 numbers and short texts")
    return dict(value)


def _number(path: Path, name: str, value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise CheckpointError(f"{path}: {name} is {_short(value)}, expected a number in {least:g}..{most:g}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
