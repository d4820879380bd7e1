"""compat.boxes against every row the original produced (golden boxes.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinygptv_fast.compat import boxes
from tinygptv_fast.errors import InvalidArgumentError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/golden/boxes.json").read_text())


@pytest.mark.parametrize("row", GOLDEN["extract_substrings"], ids=lambda row: row["text"])
def test_extract_substrings(row: dict[str, Any]) -> None:
    assert boxes.extract_substrings(row["text"]) == row["out"]


@pytest.mark.parametrize("row", GOLDEN["visualize"]["rows"], ids=lambda row: row["generation"])
def test_visualize(row: dict[str, Any]) -> None:
    out = boxes.visualize(row["image_size"], row["generation"])
    assert (list(out.drawn_size) if out.drawn_size else None) == row["drawn_size"]
    assert json.loads(json.dumps(out.calls)) == row["calls"]
    assert out.generation_colored == row["generation_colored"]
    assert row["error"] is None


def test_colours() -> None:
    assert [list(colour) for colour in boxes.COLOURS] == GOLDEN["visualize"]["colors"]


@pytest.mark.parametrize(
    ("text", "width"),
    [("  dog", 47), ("", 1), ("~", 13), ("  a tree", 70), ("  wheel123", 94), ("é", 10), ("  café 猫", 69), ("\t", 10)],
)
def test_label_width_is_opencvs(text: str, width: int) -> None:
    """Widths measured with cv2.getTextSize (4.14, FONT_HERSHEY_COMPLEX, 0.5, 1)."""
    assert boxes._text_width(text) == width


def test_labels_move_out_of_each_others_way() -> None:
    """Worked by hand from the demo's rule: the third box has the first's phrase and place and gets no label of its own;
    the second phrase's label would cover the first's and goes down by its height of 20, twice because touching edges
    count as covering. The same calls came from the original's function under OpenCV 4.14."""
    text = "<p>dog</p>{<10><20><30><40>} <p>cat</p>{<10><20><30><60>} <p>dog</p>{<10><20><30><40>}"
    out = boxes.visualize((100, 100), text)
    labels = [call for call in out.calls if "text" in call]
    assert labels == [{"text": "  dog", "org": (49, 93)}, {"text": "  cat", "org": (49, 133)}]


def test_a_label_stops_at_the_lower_edge() -> None:
    text = "".join(f"<p>{name}</p>{{<10><96><30><99>}} " for name in "ab")
    labels = [call for call in boxes.visualize((100, 100), text).calls if "text" in call]
    assert [label["org"][1] for label in labels] == [479 - 6, 500 - 6]


@pytest.mark.parametrize("row", GOLDEN["mask2bbox"], ids=str)
def test_mask2bbox(row: dict[str, Any]) -> None:
    if row["shape"] is None:
        assert boxes.mask2bbox(None) == row["out"]
        return
    mask = np.zeros(row["shape"], dtype=np.uint8)
    if row["filled"] is not None:
        x1, y1, x2, y2 = row["filled"]
        mask[y1:y2, x1:x2] = 255
    assert boxes.mask2bbox(Image.fromarray(mask)) == row["out"]


def test_identify_message() -> None:
    mask = Image.new("RGB", (100, 100), "white")
    assert boxes.identify_message("[identify] what is this", mask) == "[identify] what is this{<0><0><99><99>}"
    boxed = "[identify] what is this {<4><50><30><65>}"
    assert boxes.identify_message(boxed, mask) == boxed
    assert boxes.identify_message("[vqa] what is this", mask) == "[vqa] what is this"


@pytest.mark.parametrize("row", GOLDEN["escape_markdown"], ids=lambda row: row["text"])
def test_markdown(row: dict[str, Any]) -> None:
    assert boxes.escape_markdown(row["text"]) == row["escaped"]
    assert boxes.reverse_escape(row["escaped"]) == row["back"]


@pytest.mark.parametrize("row", GOLDEN["iou"], ids=lambda row: f"{row['a']}-{row['b']}")
def test_iou(row: dict[str, Any]) -> None:
    assert boxes.iou(row["a"], row["b"]) == row["iou"]


@pytest.mark.parametrize("row", GOLDEN["box_text_from_pixels"], ids=lambda row: row["text"])
def test_box_text_from_pixels(row: dict[str, Any]) -> None:
    assert boxes.box_text_from_pixels(row["bbox_xywh"], row["image_size"]) == row["text"]


@pytest.mark.parametrize("row", GOLDEN["refcoco_scoring"]["rows"], ids=lambda row: row["raw"])
def test_refcoco_scoring(row: dict[str, Any]) -> None:
    item = GOLDEN["refcoco_scoring"]["item"]
    score = boxes.score_refcoco(
        row["raw"],
        width=item["width"],
        height=item["height"],
        bbox_xywh=item["bbox"],
        res=GOLDEN["refcoco_scoring"]["res"],
    )
    assert score.cleaned == row["cleaned"]
    assert score.accepted == row["accepted"]
    assert score.error == row.get("error")
    assert (list(score.box) if score.box else None) == row.get("pred_px")
    assert score.iou == row.get("iou")
    assert score.hit == row.get("hit", False)


def test_refcoco_accuracy() -> None:
    item = {"width": 640, "height": 480, "bbox_xywh": (64.0, 96.0, 320.0, 288.0)}
    scores = [boxes.score_refcoco(raw, **item) for raw in ("{<10><20><60><80>}", "{<70><70><99><99>}", "no idea")]
    assert boxes.refcoco_accuracy(scores) == pytest.approx(100 / 3)
    with pytest.raises(InvalidArgumentError, match="scores is empty"):
        boxes.refcoco_accuracy([])
