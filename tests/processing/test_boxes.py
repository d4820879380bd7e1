"""processing.boxes: reading and writing box text, the forms of a box, drawing and export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from tinygptv_fast.errors import ImageError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.processing.boxes import Box, Boxes, Dropped, as_box, box_spans, format_box, parse_boxes, phrases
from tinygptv_fast.processing.drawing import place_label

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
        with pytest.raises(InvalidArgumentError, match="expected one that meets the 100x200 picture"):
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


MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16")


@pytest.mark.parametrize("mode", MODES)
def test_draw_takes_any_mode(mode: str) -> None:
    picture = Image.new("I;16", (120, 90), 40000) if mode == "I;16" else Image.new("RGB", (120, 90), "teal")
    if picture.mode != mode:
        picture = Image.new("I", (120, 90), 40000) if mode == "I" else _in_mode(picture, mode)
    before = picture.tobytes()
    boxes = Boxes([Box(20, 30, 100, 80, "cup")])
    out = boxes.draw(picture)
    assert (out.mode, out.size) == ("RGB", (120, 90)) and picture.tobytes() == before
    assert out.tobytes() != Boxes().draw(picture).tobytes()


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    if mode == "PA":
        return picture.convert("P").convert("PA")
    return Image.new("LAB", picture.size, (120, 90, 90)) if mode == "LAB" else picture.convert(mode)


def test_draw_leaves_an_array_alone() -> None:
    array = np.full((60, 80, 3), 255, np.uint8)
    array.flags.writeable = False
    out = np.asarray(Boxes([Box(10, 10, 50, 50)]).draw(array, color="bgr"))
    assert array.min() == 255 and out.min() < 255


@pytest.mark.parametrize("ground", ["black", "white", "#e6194b", "#3cb44b", "#808000", "gray"])
def test_labels_and_lines_can_be_read_on_any_ground(ground: str) -> None:
    """The letters' plate has letters far from it in brightness, and a line that could vanish has a casing."""
    picture = Image.new("RGB", (300, 300), ground)
    for number in range(9):
        boxes = [Box(60, 100 + k, 200, 250, f"{k}HH") for k in range(number)]
        plain = np.asarray(Boxes([*boxes, Box(60, 100, 200, 250)]).draw(picture)).astype(int)
        assert (abs(plain[150] - np.asarray(picture).astype(int)[150]).sum(axis=1) > 150).any()
    labelled = np.asarray(Boxes([Box(60, 100, 200, 250, "HHHH")]).draw(picture).convert("L")).astype(int)
    plate = labelled[86:100, 60:90]
    assert plate.max() - plate.min() > 100


def test_sizes_scale_with_the_picture_and_boxes_with_another_size() -> None:
    def lines(side: int) -> int:
        out = np.asarray(Boxes([Box(0.25 * side, 0.25 * side, 0.75 * side, 0.75 * side)]).draw(_white(side)))
        return int((out[side // 2, : side // 2] != 255).any(axis=1).sum())

    assert lines(2000) == 10 * lines(200)
    boxes = parse_boxes("{<10><20><80><90>}", 1000, 500)
    drawn = (np.asarray(boxes.draw(_white(100, 50))) != 255).any(axis=2)
    ys, xs = np.nonzero(drawn)
    assert abs(xs.min() - 10.5) < 2 and abs(xs.max() - 80.5) < 2 and abs(ys.max() - 45.25) < 2


def _white(width: int, height: int | None = None) -> Image.Image:
    return Image.new("RGB", (width, height or width), "white")


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 400)] * 4), max_size=12), st.integers(1, 600), st.integers(1, 60))
def test_labels_stay_inside_and_apart_while_there_is_room(
    corners: list[tuple[int, ...]], width: int, height: int
) -> None:
    taken: list[tuple[float, float, float, float]] = []
    for x1, y1, x2, y2 in corners:
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        place = place_label(box, (width, height), (640, 480), taken)
        assert (place[2] - place[0], place[3] - place[1]) == (width, height)
        assert min(place) >= 0 and place[2] <= 640 and place[3] <= 480
        taken.append(place)


def test_labels_of_equal_boxes_do_not_cover_each_other() -> None:
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(4):
        place = place_label((100, 100, 300, 300), (150, 20), (400, 400), taken)
        assert all(place[3] <= other[1] or other[3] <= place[1] or place[0] >= other[2] for other in taken)
        taken.append(place)


@pytest.mark.parametrize("settings", [{"line_width": 0}, {"line_width": 1.5}, {"image_index": -1}])
def test_what_draw_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{next(iter(settings))} is .*, expected an integer >="):
        Boxes().draw(_white(9), **settings)


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


def test_coco_takes_the_ids_of_a_data_set() -> None:
    boxes = Boxes([*parse_boxes(TEXT, 100, 200), Box(1, 2, 3, 5, "cup", None, 1)])
    coco = boxes.to_coco(image_ids=[139, "x9"], categories={"a tree": 64, "cup": 47, "dog": 18}, first_annotation_id=5)
    assert [row["id"] for row in coco["images"]] == [139, "x9"]
    assert coco["categories"] == [{"id": 64, "name": "a tree"}, {"id": 47, "name": "cup"}, {"id": 18, "name": "dog"}]
    assert [row["category_id"] for row in coco["annotations"]] == [47, 47, 64, 47]
    assert [row["id"] for row in coco["annotations"]] == [5, 6, 7, 8]
    assert boxes.to_coco(image_ids={0: 1, 1: 2})["annotations"][-1]["image_id"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"categories": {"cup": 1}}, "categories lacks 'a tree', expected an id for every label"),
        ({"categories": ["cup"]}, "categories is list, expected a dict"),
        ({"categories": {"cup": "1", "a tree": 2}}, r"categories\['cup'\] is '1', expected an integer"),
        ({"image_ids": []}, "image_ids has no id for picture 0"),
        ({"image_ids": "7"}, "image_ids is '7', expected a list or a dict"),
        ({"first_image_id": -1}, "first_image_id is -1"),
    ],
)
def test_what_coco_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        parse_boxes(TEXT, 100, 100).to_coco(**settings)


def test_supervision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UnsupportedError, match="pip install supervision"):
        Boxes().to_supervision()


def test_supervision() -> None:
    """Against the package itself, which is an extra."""
    out = parse_boxes(TEXT, 100, 100).to_supervision()
    assert out.xyxy.shape == (3, 4) and out.xyxy.dtype == np.float32 and out.confidence is None
    assert out.class_id.tolist() == [0, 0, 1] and out.data["class_name"].tolist() == ["cup", "cup", "a tree"]
    named = parse_boxes(TEXT, 100, 100).to_supervision(categories={"a tree": 64, "cup": 47})
    assert named.class_id.tolist() == [47, 47, 64]
    scored = Boxes([Box(0, 0, 1, 1, None, 0.5)]).to_supervision()
    assert scored.confidence.tolist() == [0.5] and scored.data["class_name"].tolist() == ["object"]
    assert len(Boxes().to_supervision()) == 0


@hypothesis_settings(deadline=None)
@given(st.text(alphabet="{<>}0123456789-p/ cup,", max_size=60))
def test_spans_are_those_of_the_boxes(text: str) -> None:
    boxes, spans = parse_boxes(text, 100, 100, convention="edge"), box_spans(text)
    assert len(spans) == len(boxes)
    for box, (whole, *numbers) in zip(boxes, spans, strict=True):
        assert text[whole[0]] == "{" and text[whole[1] - 1] == "}"
        assert [float(int(text[start:end])) for start, end in numbers] == pytest.approx(list(box.xyxy))


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
