"""processing.boxes: reading and writing box text, the forms of a box, drawing and export."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinygptv_fast.errors import ImageError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.processing.boxes import Box, Boxes, Dropped, as_box, format_box, parse_boxes, phrases

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/golden/boxes.json").read_text())
SIDES = st.floats(1, 10_000) | st.integers(1, 100_000)
BIN = st.integers(0, 100)


def text_of(*bins: int) -> str:
    return "{" + "".join(f"<{k}>" for k in bins) + "}"


def bins_of(box: Box) -> list[int]:
    """Of a 100 x 100 picture."""
    return [min(int(value), 100) for value in box.xyxy]


@pytest.mark.parametrize("row", GOLDEN["box_text_from_pixels"], ids=lambda row: row["text"])
def test_text_from_pixels_is_the_originals(row: dict[str, Any]) -> None:
    x, y, w, h = row["bbox_xywh"]
    assert format_box((x, y, x + w, y + h), *row["image_size"]) == row["text"]


@given(st.tuples(BIN, BIN), st.tuples(BIN, BIN), SIDES, SIDES, st.sampled_from(["center", "edge"]))
def test_round_trip_keeps_the_bin(xs: tuple[int, int], ys: tuple[int, int], w: float, h: float, form: Any) -> None:
    text = text_of(min(xs), min(ys), max(xs), max(ys))
    (box,) = parse_boxes(text, w, h, convention=form)
    if form == "center":  # an edge may fall to the bin before it by rounding, a middle never
        assert format_box(box, w, h) == text
    again = parse_boxes(format_box(box, w, h), w, h, convention=form)
    moved = np.abs(np.subtract(again[0].xyxy, box.xyxy)) / (w, h, w, h)
    assert (moved <= (1e-9 if form == "center" else 0.01 + 1e-9)).all()


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), SIDES, SIDES)
def test_pixels_come_back_within_half_a_bin(corners: list[float], w: float, h: float) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    box = Box(x1 * w, y1 * h, x2 * w, y2 * h)
    (back,) = parse_boxes(format_box(box, w, h), w, h)
    assert (np.abs(np.subtract(back.xyxyn, (x1, y1, x2, y2))) <= 0.005 + 1e-6).all()


def test_middle_of_the_bin_and_the_originals_edge() -> None:
    (box,) = parse_boxes("{<0><20><50><100>}", 200, 100)
    assert box.xyxy == pytest.approx((1.0, 20.5, 101.0, 100.0))
    (edge,) = parse_boxes("{<0><20><50><100>}", 200, 100, convention="edge")
    assert edge.xyxy == (0.0, 20.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no box", []),
        ("{<10><20><30><40>}", [(None, [10, 20, 30, 40])]),
        ("<p>a dog</p>{<1><2><3><4>}", [("a dog", [1, 2, 3, 4])]),
        (
            "<p>dog</p>{<1><2><3><4>}<delim>{<5><6><7><8>} and <p>cat</p>{<9><10><11><12>}",
            [("dog", [1, 2, 3, 4]), ("dog", [5, 6, 7, 8]), ("cat", [9, 10, 11, 12])],
        ),
        ("<p>a</p>{<1><2><3><4>}<p>b</p>{<5><6><7><8>}", [("a", [1, 2, 3, 4]), ("b", [5, 6, 7, 8])]),
        ("<p>a</p>{<1><2><3><4>}{<5><6><7><8>}", [("a", [1, 2, 3, 4]), ("a", [5, 6, 7, 8])]),
        ("<p>a</p>{<1><2><3><4>} then {<5><6><7><8>}", [("a", [1, 2, 3, 4]), (None, [5, 6, 7, 8])]),
        ("<p>x</p> {<1><2><3><4>} tail } end", [("x", [1, 2, 3, 4])]),
        ("<p> line\nbreak </p>{<1><2><3><4>}", [("line\nbreak", [1, 2, 3, 4])]),
        ("<p>a<p>b</p>{<1><2><3><4>}", [("b", [1, 2, 3, 4])]),
        ("<p></p>{<0><0><100><100>}", [("", [0, 0, 100, 100])]),
        ("<p>x</p><p>y</p>{<1><2><3><4>}", [("y", [1, 2, 3, 4])]),
        ("<p>no box</p> here {<1><2><3><4>}", [(None, [1, 2, 3, 4])]),
        ("{ <1> <2>\n<3> <4> }", [(None, [1, 2, 3, 4])]),
        ("{<5><5><5><5>}", [(None, [5, 5, 5, 5])]),
    ],
)
def test_parse(text: str, expected: list[tuple[str | None, list[int]]]) -> None:
    boxes = parse_boxes(text, 100, 100)
    assert [(box.label, bins_of(box)) for box in boxes] == expected
    assert boxes.dropped == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{<1><2><3>}", "3 coordinates, expected 4"),
        ("{<1>}", "1 coordinate, expected 4"),
        ("{<1><2><3><4><5>}", "5 coordinates, expected 4"),
        ("{<-3><5><20><100>}", "coordinates outside 0..100"),
        ("{<3><5><20><101>}", "coordinates outside 0..100"),
        ("{<" + "9" * 5000 + "><5><20><30>}", "coordinates outside 0..100"),
        ("{<30><20><10><40>}", "x1 > x2 or y1 > y2"),
        ("{<10><40><30><20>}", "x1 > x2 or y1 > y2"),
        ("{<10><20><30><40>", "no closing brace"),
        ("{<10><20>", "no closing brace"),
    ],
)
def test_dropped_with_the_reason(text: str, reason: str) -> None:
    boxes = parse_boxes(f"<p>a</p>{text}<delim>{{<1><2><3><4>}}", 100, 100)
    assert boxes.dropped == (Dropped(text, reason),)
    assert [(box.label, bins_of(box)) for box in boxes] == [("a", [1, 2, 3, 4])]


PIECES = st.sampled_from(
    ["<p>", "</p>", "{", "}", "<", ">", "<delim>", "<12>", "<7>", "<101>", "-", " ", "x", "é", "9"]
)


@given(st.lists(PIECES, max_size=60).map("".join) | st.text())
def test_no_text_raises(text: str) -> None:
    for box in parse_boxes(text, 640, 480):
        assert 0 <= box.x1 <= box.x2 <= 640 and 0 <= box.y1 <= box.y2 <= 480
    phrases(text)


@pytest.mark.parametrize(
    "unit", ["{", "{<1>", "{<1> ", "<p>", "<p>a</p>", "{<1><2><3><4>", "<delim>", "{" + " " * 9, "{<1><2>}  "]
)
def test_long_junk_is_read_in_linear_time(unit: str) -> None:
    """No assertion on time: a quadratic or worse pattern would hang here."""
    assert len(parse_boxes(unit * 20_000, 100, 100)) == 0
    assert len(parse_boxes("{<1><2><3><4>}" + " " * 100_000 + "{<1><2><3><4>}", 100, 100)) == 2
    assert len(parse_boxes("{<1><2><3><4>}" + " " * 100_000 + "x{<1><2><3><4>}", 100, 100)) == 2


def test_labels_and_image_index() -> None:
    (box,) = parse_boxes("{<1><2><3><4>}", 50, 60, label="the cup", image_index=2)
    assert (box.label, box.image_index, box.width, box.height, box.score) == ("the cup", 2, 50, 60, None)


def test_box_forms() -> None:
    box = Box(10, 20, 40, 60, "cup", 0.5, 1, width=100, height=200)
    assert box.xyxy == (10.0, 20.0, 40.0, 60.0)
    assert box.xywh == (10.0, 20.0, 30.0, 40.0)
    assert box.xyxyn == (0.1, 0.1, 0.4, 0.3)
    assert box.area == 1200
    assert json.loads(json.dumps(box.to_dict())) == {
        "x1": 10, "y1": 20, "x2": 40, "y2": 60, "label": "cup", "score": 0.5, "image_index": 1,
        "width": 100, "height": 200,
    }  # fmt: skip
    assert "width" not in Box(1, 2, 3, 4).to_dict()
    with pytest.raises(InvalidArgumentError, match="needs the picture's size"):
        _ = Box(1, 2, 3, 4).xyxyn
    with pytest.raises(AttributeError):
        box.x1 = 3  # type: ignore[misc]


def test_iou() -> None:
    assert Box(0, 0, 10, 10).iou(Box(5, 5, 15, 15)) == pytest.approx(25 / 175)
    assert Box(0, 0, 1, 1).iou(Box(2, 2, 3, 3)) == 0.0 == Box(1, 1, 1, 1).iou(Box(1, 1, 1, 1))


@pytest.mark.parametrize(
    "corners", [(3, 0, 1, 1), (0, 3, 1, 1), (0, 0, float("nan"), 1), (0, 0, "1", 1), (0, 0, None, 1)]
)
def test_impossible_boxes(corners: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="box"):
        Box(*corners)


@pytest.mark.parametrize("value", ["1234", [1, 2, 3], [1, 2, 3, 4, 5], None, 5, ["a", 1, 2, 3], {}])
def test_what_is_no_box(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a Box or four numbers"):
        as_box(value)


def test_format_cuts_at_the_picture_and_refuses_what_lies_outside() -> None:
    assert format_box((-5, -5, 105, 205), 100, 200) == "{<0><0><100><100>}"
    assert format_box(np.array([10.0, 20.0, 30.0, 40.0]), 100, 100) == "{<10><20><30><40>}"
    for box in ((101, 0, 102, 1), (0, 201, 1, 202), (-3, 0, -1, 1), (0, -3, 1, -1)):
        with pytest.raises(InvalidArgumentError, match="outside the 100x200 picture"):
            format_box(box, 100, 200)
    for side in (0, -1, float("inf"), "100"):
        with pytest.raises(InvalidArgumentError, match="width is"):
            format_box((0, 0, 1, 1), side, 100)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="convention is 'middle'"):
        parse_boxes("", 1, 1, convention="middle")  # type: ignore[arg-type]


TEXT = "<p>cup</p>{<10><40><50><90>}<delim>{<60><40><90><80>} by <p>a tree</p>{<0><0><99><99>}"


def test_boxes_are_a_sequence() -> None:
    boxes = parse_boxes(TEXT, 100, 100)
    assert len(boxes) == 3 and boxes[0] in boxes and boxes[-1].label == "a tree"
    assert isinstance(boxes[:2], Boxes) and list(boxes[:2]) == list(boxes)[:2]
    assert boxes == parse_boxes(TEXT, 100, 100) and hash(boxes) == hash(parse_boxes(TEXT, 100, 100))
    assert boxes != list(boxes) and "cup" in repr(boxes) and not Boxes()
    assert [row["label"] for row in boxes.to_dict()] == ["cup", "cup", "a tree"]


def test_draw_marks_the_edges_and_leaves_the_picture_alone() -> None:
    picture = Image.new("RGB", (200, 100), "white")
    out = parse_boxes("{<10><20><80><90>}", 200, 100).draw(picture)
    assert out.size == (200, 100) and np.asarray(picture).min() == 255
    changed = (np.asarray(out) != 255).any(axis=2)
    ys, xs = np.nonzero(changed)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (21, 20, 161, 90)
    assert not changed[30:80, 30:150].any()


def test_draw_labels_in_any_script() -> None:
    picture = Image.new("RGB", (300, 200), "white")
    plain = Boxes([Box(50, 80, 200, 150)]).draw(picture)
    for label in ("cup", "猫 😀 é", "two\nlines", "x" * 500):
        labelled = Boxes([Box(50, 80, 200, 150, label)]).draw(picture)
        above = (np.asarray(labelled) != np.asarray(plain)).any(axis=2)
        assert above[60:80, 50:60].any() and not above[155:].any()
    assert Boxes([Box(0, 0, 300, 200, "at the edge")]).draw(picture).size == (300, 200)


def test_draw_colours_by_label_and_image_index() -> None:
    picture = Image.new("RGB", (100, 100), "white")
    boxes = parse_boxes(TEXT, 100, 100)
    assert np.array_equal(np.asarray(boxes.draw(picture, image_index=1)), np.asarray(picture))
    out = np.asarray(Boxes([Box(10, 40, 50, 90), Box(60, 40, 90, 80), Box(5, 5, 95, 95, "t")]).draw(picture))
    assert (out[60, 10] == out[60, 60]).all() and (out[60, 10] != out[60, 95]).any()


def test_draw_takes_any_picture(golden_dir: Path) -> None:
    path = golden_dir / "images/img0.png"
    assert parse_boxes(TEXT, 83, 61).draw(path).size == (83, 61)
    with pytest.raises(ImageError, match="does not exist"):
        Boxes().draw("nowhere.png")


def test_coco() -> None:
    boxes = Boxes([*parse_boxes(TEXT, 100, 200), Box(1, 2, 3, 5, None, 0.25, 1)])
    coco = json.loads(json.dumps(boxes.to_coco(first_image_id=7)))
    assert coco["images"] == [{"id": 7, "width": 100, "height": 200}, {"id": 8}]
    assert coco["categories"] == [{"id": 1, "name": "cup"}, {"id": 2, "name": "a tree"}, {"id": 3, "name": "object"}]
    assert [row["category_id"] for row in coco["annotations"]] == [1, 1, 2, 3]
    last = coco["annotations"][-1]
    assert last == {
        "id": 4,
        "image_id": 8,
        "category_id": 3,
        "bbox": [1, 2, 2, 3],
        "area": 6,
        "iscrowd": 0,
        "score": 0.25,
    }
    assert "score" not in coco["annotations"][0]
    assert Boxes().to_coco() == {"images": [], "annotations": [], "categories": []}


def test_supervision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UnsupportedError, match="pip install supervision"):
        Boxes().to_supervision()


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with the constructor of supervision.Detections."""

    class Detections(types.SimpleNamespace):
        @classmethod
        def empty(cls) -> Detections:
            return cls(xyxy=np.empty((0, 4), np.float32))

    monkeypatch.setitem(sys.modules, "supervision", types.SimpleNamespace(Detections=Detections))
    out = parse_boxes(TEXT, 100, 100).to_supervision()
    assert out.xyxy.shape == (3, 4) and out.xyxy.dtype == np.float32 and out.confidence is None
    assert out.class_id.tolist() == [0, 0, 1] and out.data["class_name"].tolist() == ["cup", "cup", "a tree"]
    scored = Boxes([Box(0, 0, 1, 1, None, 0.5)]).to_supervision()
    assert scored.confidence.tolist() == [0.5] and scored.data["class_name"].tolist() == ["object"]
    assert Boxes().to_supervision().xyxy.shape == (0, 4)


def test_phrases() -> None:
    assert phrases(TEXT) == "cup by a tree"
    assert phrases("a <p>cup</p>{<1><2><3><4>} , red.") == "a cup, red."
    assert phrases("plain text") == "plain text"


def test_no_torch_and_no_pillow_needed_to_import() -> None:
    import subprocess

    names = ["processing.boxes", "processing.templates", "processing.prompt", "compat.boxes", "compat.vqa"]
    code = "import sys, " + ", ".join(f"tinygptv_fast.{name}" for name in [*names, "compat.conversation"])
    code += "; print([name for name in ('torch', 'PIL', 'cv2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
