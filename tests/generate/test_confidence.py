"""The map from evidence to confidence, and the file it is kept in, damaged in every way."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tinygptv_fast.errors import CheckpointError
from tinygptv_fast.generate.confidence import (
    FILE,
    MAX_FILE_BYTES,
    AnswerMap,
    Calibration,
    Evidence,
    evidence,
    logistic,
    read_calibration,
    softmax,
    write_calibration,
)

MODEL = "a" * 64
KNOTS = ((-1.0, 0.1), (0.5, 0.4), (2.0, 0.9))
MADE = Calibration(
    MODEL, AnswerMap({"words": 0.7, "places": 2.0}, 1.5, -0.25, KNOTS), 0.3, {"questions": 200, "form": "parts"}
)
BOX = "{<1><2><30><40>}"


def seen(**changes: Any) -> Evidence:
    return Evidence(**{"total": -1.0, "words": -0.5, "weakest": -0.25, "places": 0.0, "boxed": False, **changes})


def test_evidence_keeps_boxes_apart() -> None:
    pieces = ["red ", "{<1><2>", "<30><40>}", " ok", ""]
    found = evidence("".join(pieces), [len(piece) for piece in pieces], [-0.5, -1.0, -3.0, -0.125, -0.25])
    assert found == Evidence(-4.875, -0.875, -0.5, -2.0, True)
    plain = evidence("no", [2, 0], [-0.5, -0.25])
    assert plain == Evidence(-0.75, -0.75, -0.5, 0.0, False)
    two = evidence(BOX + BOX, [len(BOX)] * 2, [-1.0, -4.0])
    assert (two.places, two.words, two.weakest) == (-4.0, 0.0, 0.0)
    assert evidence("", [], []) == Evidence(0.0, 0.0, 0.0, 0.0, False)


def test_the_map_by_hand() -> None:
    smooth = AnswerMap({"words": 2.0, "weakest": 1.0}, 3.0, -1.0)
    assert smooth(seen()) == pytest.approx(1 / (1 + math.exp(-(3 - 1 - 0.25))))
    assert smooth(seen(boxed=True)) == pytest.approx(1 / (1 + math.exp(-(2 - 1 - 0.25))))
    stepped = AnswerMap({"total": 1.0}, 0.0, 0.0, KNOTS)
    assert [stepped(seen(total=z)) for z in (-9, -1, -0.25, 0.5, 2, 9)] == pytest.approx(
        [0.1, 0.1, 0.25, 0.4, 0.9, 0.9]
    )
    assert logistic(-1e9) >= 0 and logistic(1e9) == 1.0


def test_choices_add_up_and_keep_their_order() -> None:
    sure = MADE.choices([-2.0, -0.1, -0.4])
    assert sure is not None and sum(sure) == pytest.approx(1) and sure[1] > sure[2] > sure[0]
    assert sure == pytest.approx(softmax([-2.0, -0.1, -0.4], 0.3))
    assert softmax([0.0, -1e9], 1e-4) == pytest.approx([1, 0])
    assert Calibration(MODEL, MADE.answers).choices([-1.0]) is None


def test_written_and_read(tmp_path: Path) -> None:
    assert read_calibration(tmp_path, MODEL) is None
    assert write_calibration(tmp_path, MADE) == tmp_path / FILE
    assert read_calibration(tmp_path, MODEL) == MADE and [path.name for path in tmp_path.iterdir()] == [FILE]


def test_of_another_model_it_is_refused(tmp_path: Path) -> None:
    write_calibration(tmp_path, MADE)
    with pytest.raises(
        CheckpointError, match=r"was fitted for model 'aaaaaaaaaaaa', this is 'bbbbbbbbbbbb': remove it"
    ):
        read_calibration(tmp_path, "b" * 64)


def changed(path: tuple[Any, ...], value: Any) -> str:
    answers = {"slopes": {"words": 1.0}, "bias": 0.0, "boxed": 0.0, "knots": [[0, 0.1], [1, 0.2]]}
    data: Any = {
        "kind": "tinygptv_calibration", "version": 1, "model_id": MODEL, "answers": answers, "temperature": 1.0,
        "fitted": {"questions": 3},
    }  # fmt: skip
    data = copy.deepcopy(data)
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(data)


HOSTILE = {
    "other kind": changed(("kind",), "x"),
    "other version": changed(("version",), 2),
    "version true": changed(("version",), True),
    "unknown key": changed(("more",), 1),
    "model a list": changed(("model_id",), [MODEL]),
    "nan": changed(("answers", "bias"), math.nan),
    "infinity": changed(("answers", "bias"), math.inf),
    "huge": changed(("answers", "bias"), 1e30),
    "huge integer": changed(("answers", "bias"), 10**400),
    "a text": changed(("answers", "bias"), "0"),
    "a truth": changed(("answers", "bias"), True),
    "falling slope": changed(("answers", "slopes"), {"words": -1.0}),
    "unknown term": changed(("answers", "slopes"), {"luck": 1.0}),
    "slopes a list": changed(("answers", "slopes"), [1.0]),
    "one knot": changed(("answers", "knots"), [[0, 0.5]]),
    "falling knots": changed(("answers", "knots"), [[0, 0.5], [1, 0.4]]),
    "knots at one place": changed(("answers", "knots"), [[0, 0.4], [0, 0.5]]),
    "a knot of three": changed(("answers", "knots"), [[0, 0.4, 1], [1, 0.5, 1]]),
    "above one": changed(("answers", "knots"), [[0, 0.5], [1, 1.5]]),
    "many knots": changed(("answers", "knots"), [[n, n / 100] for n in range(65)]),
    "no temperature": changed(("temperature",), 0.0),
    "deep fitted": changed(("fitted",), {"x": {"y": 1}}),
    "long fitted": changed(("fitted",), {"x": "y" * 300}),
    "not json": "{",
    "a list": "[]",
    "twice": changed(("temperature",), 1.0)[:-1] + ', "temperature": 2.0}',
    "deep": "[" * 30_000,
    "too long": changed(("fitted",), {"x": "y" * MAX_FILE_BYTES}),
    "no utf-8": "\udcff",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(HOSTILE[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=FILE) as caught:
        read_calibration(tmp_path, MODEL)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))


def test_the_file_the_hostile_ones_are_made_from_is_good(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(changed(("temperature",), None))
    read = read_calibration(tmp_path, MODEL)
    assert read is not None and read.temperature is None and read.answers(seen()) == pytest.approx(0.1)
