"""Boxes: what the model writes (``{<x1><y1><x2><y2>}``, 0..100) and what a user wants (pixels), both ways.

Knows text and Pillow's drawing; knows no model, no template, no torch. Parsing never raises on model output: what
looks like a box and is none is listed in ``Boxes.dropped`` with the reason.

Bin ``k`` stands for the interval [k, k+1) hundredths of a side, because writing truncates (original:
coco_dataset.py, int(x / side * 100)). Reading takes its middle, (k + 0.5) / 100, so that reading and writing agree and
the mean error is halved; the original's demo takes the left edge, ``convention="edge"``.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, overload

from ..errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Convention = Literal["center", "edge"]
BINS = 100
UNNAMED = "object"
"""The category of boxes without label."""
_BOX = re.compile(r"\{\s*(?:<-?[0-9]+>\s*)+(\}?)")
_PHRASE = re.compile(r"<p>((?:(?!</?p>).)*)</p>\s*(?=\{)", re.DOTALL)
_JOINT = re.compile(r"\s*(?:<delim>\s*)?")
_NUMBER = re.compile(r"-?[0-9]+")


@dataclass(frozen=True)
class Box:
    """One box in float pixels of the upright (EXIF-rotated) original picture; (0, 0) is its top left corner.

    ``label``: the phrase it belongs to, or None. ``score``: 0..1 or None. ``image_index``: which picture of the
    prompt. ``width``, ``height``: size of that picture in pixels, if known; needed by ``xyxyn`` only.
    Of a box that the model wrote, ``score`` is the probability of its tokens given all before them (``probability`` is
    another name for it), and ``coordinate_probabilities`` that of each of the four numbers; they stay None where the
    tokens are not known.
    """

    x1: float
    y1: float
    x2: float
    y2: float
    label: str | None = None
    score: float | None = None
    image_index: int = 0
    width: float | None = field(default=None, kw_only=True)
    height: float | None = field(default=None, kw_only=True)
    coordinate_probabilities: tuple[float, float, float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("x1", "y1", "x2", "y2"):
            object.__setattr__(self, name, _finite(f"box.{name}", getattr(self, name)))
        if self.x1 > self.x2 or self.y1 > self.y2:
            raise InvalidArgumentError(f"box is {list(self.xyxy)}, expected x1 <= x2 and y1 <= y2")
        for name in ("width", "height"):
            value = getattr(self, name)
            if value is not None and _finite(f"box.{name}", value) <= 0:
                raise InvalidArgumentError(f"box.{name} is {value!r}, expected pixels > 0")

    @property
    def probability(self) -> float | None:
        """``score`` under the name that ``Answer`` uses."""
        return self.score

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def xywh(self) -> tuple[float, float, float, float]:
        """Left, top, width, height in pixels (COCO's form)."""
        return (self.x1, self.y1, self.x2 - self.x1, self.y2 - self.y1)

    @property
    def xyxyn(self) -> tuple[float, float, float, float]:
        """``xyxy`` as fractions of the picture, 0..1. Raises ``InvalidArgumentError`` if its size is not known."""
        if self.width is None or self.height is None:
            raise InvalidArgumentError("box.xyxyn needs the picture's size, expected Box(..., width=, height=)")
        return (self.x1 / self.width, self.y1 / self.height, self.x2 / self.width, self.y2 / self.height)

    @property
    def area(self) -> float:
        """Square pixels."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    def iou(self, other: Box) -> float:
        """Intersection over union of two boxes as areas (no +1; that is ``compat.boxes.iou``). 0 if both are empty."""
        across = max(0.0, min(self.x2, other.x2) - max(self.x1, other.x1))
        down = max(0.0, min(self.y2, other.y2) - max(self.y1, other.y1))
        union = self.area + other.area - across * down
        return across * down / union if union > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Json-ready: x1, y1, x2, y2, label, score, image_index and, if known, width, height and
        coordinate_probabilities."""
        out: dict[str, Any] = {name: getattr(self, name) for name in ("x1", "y1", "x2", "y2", "label", "score")}
        out["image_index"] = self.image_index
        if self.width is not None and self.height is not None:
            out.update(width=self.width, height=self.height)
        if self.coordinate_probabilities is not None:
            out["coordinate_probabilities"] = list(self.coordinate_probabilities)
        return out


@dataclass(frozen=True)
class Dropped:
    """A piece of model output that looks like a box and is not one: its text and why."""

    text: str
    reason: str


class Boxes(Sequence[Box]):
    """The boxes of one answer, in the order written. Immutable. ``dropped`` lists what could not be used."""

    def __init__(self, boxes: Iterable[Box] = (), *, dropped: Iterable[Dropped] = ()) -> None:
        self._boxes = tuple(boxes)
        self.dropped = tuple(dropped)

    def __len__(self) -> int:
        return len(self._boxes)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> Boxes: ...
    def __getitem__(self, index: int | slice) -> Box | Boxes:
        return Boxes(self._boxes[index]) if isinstance(index, slice) else self._boxes[index]

    def __iter__(self) -> Iterator[Box]:
        return iter(self._boxes)

    def __eq__(self, other: object) -> bool:
        return self._boxes == other._boxes if isinstance(other, Boxes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._boxes)

    def __repr__(self) -> str:
        return f"Boxes({list(self._boxes)!r})"

    def to_dict(self) -> list[dict[str, Any]]:
        """Json-ready list of ``Box.to_dict()``."""
        return [box.to_dict() for box in self._boxes]

    def draw(
        self, image: Any, *, image_index: int = 0, line_width: int | None = None, color: Literal["rgb", "bgr"] = "rgb"
    ) -> PILImage:
        """A new RGB picture: ``image`` with the boxes of picture ``image_index`` and their labels drawn on it.

        ``image``: anything ``ImageProcessor.load`` takes, in any mode it takes (``color`` is the channel order of an
        array): the picture the boxes were made for, or the same in another size if the boxes know theirs. Lines and
        letters grow with the picture; ``line_width`` in pixels overrides the former. Raises ``ImageError`` for an
        unreadable picture, ``InvalidArgumentError`` for the rest.
        """
        from .drawing import Style, draw_boxes
        from .image import ImageProcessor

        _whole("image_index", image_index, 0)
        if line_width is not None:
            _whole("line_width", line_width, 1)
        canvas = ImageProcessor(1).load(image, color).copy()
        shown = [box for box in self._boxes if box.image_index == image_index]
        scaled = [(_on_canvas(box, canvas.size), box.label) for box in shown]
        draw_boxes(canvas, scaled, Style.of(canvas.size, line_width))
        return canvas

    def to_coco(
        self,
        *,
        first_image_id: int = 0,
        first_annotation_id: int = 1,
        image_ids: Sequence[Any] | Mapping[int, Any] | None = None,
        categories: Mapping[str, int] | None = None,
    ) -> dict[str, list[dict[str, Any]]]:
        """The boxes as COCO json: ``images`` (sizes where known), ``annotations``, ``categories``.

        ``image_ids``: the id of each picture of the prompt, by its index; else picture ``i`` has
        ``first_image_id + i``. ``categories``: ids by name, which come out as given; else one per label, counted from
        1. Boxes without label belong to the category "object". ``first_annotation_id`` goes on from another answer's
        annotations.
        Raises ``InvalidArgumentError`` for a label or a picture that the arguments do not name.
        """
        _whole("first_image_id", first_image_id, 0)
        _whole("first_annotation_id", first_annotation_id, 0)
        category = self._categories(categories, first=1)
        images: dict[int, dict[str, Any]] = {}
        annotations = []
        for number, box in enumerate(self._boxes, first_annotation_id):
            image = images.setdefault(box.image_index, {"id": _image_id(box.image_index, image_ids, first_image_id)})
            if box.width is not None and box.height is not None:
                image.update(width=box.width, height=box.height)
            row: dict[str, Any] = {
                "id": number,
                "image_id": image["id"],
                "category_id": category[box.label or UNNAMED],
                "bbox": list(box.xywh),
                "area": box.area,
                "iscrowd": 0,
            }
            annotations.append(row if box.score is None else {**row, "score": box.score})
        rows = [{"id": number, "name": name} for name, number in category.items()]
        return {"images": list(images.values()), "annotations": annotations, "categories": rows}

    def to_supervision(self, *, categories: Mapping[str, int] | None = None) -> Any:
        """``supervision.Detections`` (xyxy in pixels, confidence if every box has a score, class ids by label).

        ``categories``: class ids by name; else labels count from 0 in the order they come. Raises ``UnsupportedError``
        if the package ``supervision`` is not installed, ``InvalidArgumentError`` for a label not in ``categories``.
        """
        import numpy as np

        try:
            supervision: Any = importlib.import_module("supervision")
        except ImportError as error:
            why = "" if isinstance(error, ModuleNotFoundError) and error.name == "supervision" else f" ({error})"
            raise UnsupportedError(
                f"to_supervision() needs the package supervision: pip install supervision{why}"
            ) from None
        order = self._categories(categories, first=0)
        if not self._boxes:
            return supervision.Detections.empty()
        names = [box.label or UNNAMED for box in self._boxes]
        scores = [box.score for box in self._boxes]
        return supervision.Detections(
            xyxy=np.array([box.xyxy for box in self._boxes], dtype=np.float32),
            confidence=None if None in scores else np.array(scores, dtype=np.float32),
            class_id=np.array([order[name] for name in names], dtype=int),
            data={"class_name": np.array(names)},
        )

    def _categories(self, given: Mapping[str, int] | None, first: int) -> dict[str, int]:
        """Ids by name: ``given``, checked, or the labels counted from ``first``."""
        names = list(dict.fromkeys(box.label or UNNAMED for box in self._boxes))
        if given is None:
            return {name: number for number, name in enumerate(names, first)}
        if not isinstance(given, Mapping):
            raise InvalidArgumentError(f"categories is {type(given).__name__}, expected a dict of names and ids")
        for name, number in given.items():
            _whole(f"categories[{name!r}]", number, 0)
        missing = [name for name in names if name not in given]
        if missing:
            raise InvalidArgumentError(f"categories lacks {missing[0]!r}, expected an id for every label of the boxes")
        return dict(given)


def parse_boxes(
    text: str,
    width: float,
    height: float,
    *,
    label: str | None = None,
    image_index: int = 0,
    convention: Convention = "center",
) -> Boxes:
    """The boxes in a model's answer, in pixels of a ``width`` x ``height`` picture.

    ``<p>phrase</p>{...}<delim>{...}`` gives boxes labelled with the phrase (white space trimmed); boxes outside such a
    group get ``label``. Not boxes, hence in ``.dropped``: another number of coordinates than four, coordinates outside
    0..100, a right edge left of the left edge. Any text is accepted; none raises.
    """
    scale_x, scale_y = _side("width", width), _side("height", height)
    if convention not in ("center", "edge"):
        raise InvalidArgumentError(f"convention is {convention!r}, expected 'center' or 'edge'")
    shift = 0.5 if convention == "center" else 0.0
    boxes: list[Box] = []
    dropped: list[Dropped] = []
    for match, phrase in _groups(text):
        bins, reason = _read(match.group())
        if reason is not None:
            dropped.append(Dropped(match.group(), reason))
            continue
        x1, y1, x2, y2 = (min((k + shift) / BINS, 1.0) for k in bins)
        pixels = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
        name = label if phrase is None else phrase
        boxes.append(Box(*pixels, name, None, image_index, width=scale_x, height=scale_y))
    return Boxes(boxes, dropped=dropped)


def box_spans(text: str) -> list[list[tuple[int, int]]]:
    """Where ``text`` has the boxes that ``parse_boxes`` finds, in its order: (start, end) in characters of the whole
    ``{...}``, then of each of its four numbers."""
    found = []
    for match in _BOX.finditer(text):
        if _read(match.group())[1] is None:
            numbers = _NUMBER.finditer(text, match.start(), match.end())
            found.append([match.span(), *(number.span() for number in numbers)])
    return found


def format_box(box: Box | Sequence[float], width: float, height: float) -> str:
    """``{<x1><y1><x2><y2>}`` of a box in pixels (``Box`` or x1, y1, x2, y2): truncated hundredths of the sides.

    Parts outside the picture are cut off. Raises ``InvalidArgumentError`` for a box that is not four numbers, is
    inverted, or lies outside altogether.
    """
    scale_x, scale_y = _side("width", width), _side("height", height)
    box = as_box(box)
    if box.x1 > scale_x or box.y1 > scale_y or box.x2 < 0 or box.y2 < 0:
        raise InvalidArgumentError(
            f"box is {list(box.xyxy)}, expected one that meets the {scale_x:g}x{scale_y:g} picture"
        )
    sides = (scale_x, scale_y, scale_x, scale_y)
    bins = [min(max(int(value / side * BINS), 0), BINS) for value, side in zip(box.xyxy, sides, strict=True)]
    return "{" + "".join(f"<{k}>" for k in bins) + "}"


def as_box(box: Box | Sequence[float]) -> Box:
    """A ``Box`` from a ``Box`` or four numbers x1, y1, x2, y2 in pixels."""
    if isinstance(box, Box):
        return box
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or isinstance(box, (str, bytes)):
        raise InvalidArgumentError(f"box is {box!r}, expected a Box or four numbers x1, y1, x2, y2 in pixels")
    x1, y1, x2, y2 = numbers
    return Box(x1, y1, x2, y2)


def phrases(text: str) -> str:
    """``text`` for a reader: boxes and ``<delim>`` taken out, ``<p>phrase</p>`` left as its phrase, spaces tidied."""
    plain = re.sub(r"</?p>|<delim>", "", _BOX.sub("", text))
    return re.sub(r" +([.,;:!?])", r"\1", re.sub(r"[ \t]{2,}", " ", plain)).strip()


def _groups(text: str) -> Iterator[tuple[re.Match[str], str | None]]:
    """(match, phrase or None) for every box-like piece of ``text``, in order."""
    position = 0
    phrase: str | None = None
    tags = {match.end(): match for match in _PHRASE.finditer(text)}
    for match in _BOX.finditer(text):
        if match.start() in tags:
            phrase = tags[match.start()].group(1).strip()
        elif _JOINT.fullmatch(text, position, match.start()) is None:
            phrase = None  # other text in between: the group is over
        yield match, phrase
        position = match.end()


def _read(written: str) -> tuple[list[int], str | None]:
    """The integers of a box-like piece of text, and why it is no box (None: it is one)."""
    bins = [_bin(number) for number in _NUMBER.findall(written)]
    return bins, _why_not(bins) if written.endswith("}") else "no closing brace"


def _bin(digits: str) -> int:
    return int(digits) if len(digits) <= 6 else 10**6  # no need to convert what is out of range anyhow


def _why_not(bins: list[int]) -> str | None:
    if len(bins) != 4:
        return f"{len(bins)} coordinate{'s' * (len(bins) != 1)}, expected 4"
    if min(bins) < 0 or max(bins) > BINS:
        return f"coordinates outside 0..{BINS}"
    if bins[0] > bins[2] or bins[1] > bins[3]:
        return "x1 > x2 or y1 > y2"
    return None


def _on_canvas(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """``box.xyxy`` in pixels of a picture of ``size``, which is that of the box unless it knows of another."""
    if box.width is None or box.height is None:
        return box.xyxy
    across, down = size[0] / box.width, size[1] / box.height
    return (box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)


def _image_id(index: int, given: Sequence[Any] | Mapping[int, Any] | None, first: int) -> Any:
    if given is None:
        return first + index
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, Mapping)):
        raise InvalidArgumentError(f"image_ids is {given!r}, expected a list or a dict of ids by picture index")
    try:
        return given[index]
    except (IndexError, KeyError):
        raise InvalidArgumentError(f"image_ids has no id for picture {index}, expected one for every picture") from None


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(f"{name} is {value!r}, expected an integer >= {least}")


def _finite(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (str, bytes)) or not math.isfinite(number):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a finite number")
    return number


def _side(name: str, value: Any) -> float:
    number = _finite(name, value)
    if number <= 0:
        raise InvalidArgumentError(f"{name} is {value!r}, expected pixels > 0")
    return number
