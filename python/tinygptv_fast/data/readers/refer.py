"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of REFER, and the same backwards: from the box to the words.

The expressions are a pickle. It is hostile until shown otherwise: ``checkpoint.safe_pickle`` builds containers, text
and numbers from it and refuses every other name it holds; nothing of the file is imported or run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoint import safe_pickle
from ...errors import CheckpointError, DataError
from .faults import Reason
from .items import Ids, Item
from .pictures import Picture, check_name_form, name_of
from .pools import IDENTIFY, REFER
from .reading import Reading
from .record import Ask, Record, where
from .texts import box_text, usable

_MAX_BYTES = 256 << 20  # the real files have 5 to 20 MB
_MAX_OPCODES = 40_000_000  # the real files have some millions


@dataclass(frozen=True)
class ReferSettings:
    """folder: with ``refs(SPLIT_BY).p`` and ``instances.json``. split_by: "unc" for RefCOCO and RefCOCO+, "umd" (or
    "google") for RefCOCOg. split: which part of it."""

    folder: Path
    images: tuple[Path, ...]
    split_by: str = "unc"
    split: str = "train"
    image_name: str = "COCO_train2014_{12}.jpg"
    clean: bool = True

    def __post_init__(self) -> None:
        check_name_form(self.image_name, "image_name")

    @property
    def refs(self) -> Path:
        return self.folder / f"refs({self.split_by}).p"


def read_refer(settings: ReferSettings, reading: Reading) -> list[Record]:
    """[refer]: one of an object's expressions → its box (coco_dataset.py, ReferCOCODataset)."""
    return _read(settings, reading, lambda words, box: Ask((box,), words, REFER), "refer")


def read_identify(settings: ReferSettings, reading: Reading) -> list[Record]:
    """[identify]: an object's box → one of its expressions (InvReferCOCODataset)."""
    return _read(settings, reading, lambda words, box: Ask(words, (box,), IDENTIFY), "identify")


def _read(settings: ReferSettings, reading: Reading, ask: Any, task: str) -> list[Record]:
    boxes = _boxes(settings.folder / "instances.json", reading)
    refs, ids = _refs(settings.refs, reading), Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        if item.text("split") != settings.split:
            return
        ids.add(item, "ref_id")
        number = item.id("ann_id")
        if number not in boxes:
            item.fail(f"its ann_id {number} is not in instances.json")
        picture = reading.picture(name_of(settings.image_name, item.id("image_id")), item)
        made = ask(_words(item, reading, settings.clean), _box(boxes[number], picture, item))
        yield Record(str(settings.refs), index, (made,), picture, task)

    return reading.collect(settings.refs, refs, parse)


def _words(item: Item, reading: Reading, clean: bool) -> tuple[str, ...]:
    """The expressions for one object; one that cannot be used is counted, the others remain."""
    out: list[str] = []
    for sentence in item.items("sentences"):
        with reading.sparing():
            out.append(usable(sentence.text("raw"), "expression", sentence.where, clean=clean))
    if not out:
        item.fail("it has no expression that can be used", Reason.EMPTY)
    return tuple(out)


def _box(given: tuple[str, list[float]], picture: Picture, item: Item) -> str:
    image, xywh = given
    if image != item.id("image_id"):
        item.fail(f"it is about picture {item.id('image_id')}, its box in picture {image}")
    return box_text(xywh, picture, item.where)


def _boxes(path: Path, reading: Reading) -> dict[str, tuple[str, list[float]]]:
    """annotation's id → (image_id, [x, y, width, height]). Nothing uses an annotation that no expression names, so a
    bad one is reported where it is."""
    out: dict[str, tuple[str, list[float]]] = {}
    for index, data in enumerate(reading.records(path, of="annotations")):
        with reading.sparing():
            item = Item(where(f"{path}: annotations", index), data)
            out[item.id("id")] = (item.id("image_id"), item.numbers("bbox", 4))
    return out


def _refs(path: Path, reading: Reading) -> list[Any]:
    raw = reading.raw(path)
    if len(raw) > _MAX_BYTES:
        raise DataError(f"{path} has {len(raw)} bytes, expected at most {_MAX_BYTES}")
    key = hashlib.sha256(raw).hexdigest()
    if key not in reading.shared:  # the set that reads the same file backwards finds it here
        reading.shared[key] = _unpickled(path, raw)
    found: list[Any] = reading.shared[key]
    return found


def _unpickled(path: Path, raw: bytes) -> list[Any]:
    try:
        data, _ = safe_pickle.load(path, raw, {}, _no_persistent_id, plain=True, max_opcodes=_MAX_OPCODES)
    except CheckpointError as error:
        raise DataError(str(error)) from error
    if not isinstance(data, list):
        raise DataError(f"{path} holds {type(data).__name__}, expected a list of referring expressions")
    return data


def _no_persistent_id(value: Any) -> Any:
    raise CheckpointError("it refers to an object outside the file; refused")
