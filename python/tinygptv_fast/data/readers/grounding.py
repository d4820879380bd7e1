"""Phrases and where they are: Visual Genome's regions and Flickr30k's boxes as the original's json files hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...processing.boxes import parse_boxes
from .items import Ids, Item
from .pools import DETECTION, GROUNDING, REFER
from .reading import Reading
from .record import Ask, Record
from .texts import box_text, boxed, usable

MAX_AREA = 16384  # pixels; vg_dataset.py takes smaller regions only, "following OFA"


@dataclass(frozen=True)
class GenomeSettings:
    """folder: with ``region_descriptions.json``, ``image_data.json``, ``VG_100K/`` and ``VG_100K_2/``. max_area: only
    regions of fewer pixels are taken."""

    folder: Path
    max_area: int = MAX_AREA
    clean: bool = True

    def __post_init__(self) -> None:
        if self.max_area < 1:
            raise ConfigError(f"max_area is {self.max_area}, expected pixels >= 1")

    @property
    def images(self) -> tuple[Path, ...]:
        return (self.folder,)


def read_genome(settings: GenomeSettings, reading: Reading) -> list[Record]:
    """One [refer] question for every small region (vg_dataset.py). A picture's file is the end of its address."""
    names = _file_names(settings.folder / "image_data.json", reading)
    path, ids = settings.folder / "region_descriptions.json", Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        for region in item.items("regions"):
            with reading.sparing():
                yield from _region(region, index, item.id("id") if "id" in item else region.id("image_id"))

    def _region(region: Item, index: int, image: str) -> Iterator[Record]:
        ids.add(region, "region_id")
        box = [region.number(name) for name in ("x", "y", "width", "height")]
        if box[2] * box[3] >= settings.max_area:
            return
        if image not in names:
            region.fail(f"its picture {image} is not in image_data.json")
        picture = reading.picture(names[image], region)
        phrase = usable(region.text("phrase"), "phrase", region.where, clean=settings.clean)
        ask = Ask((box_text(box, picture, region.where),), (phrase,), REFER)
        yield Record(str(path), index, (ask,), picture, "refer")

    return reading.collect(path, reading.records(path), parse)


def _file_names(path: Path, reading: Reading) -> dict[str, str]:
    """image_id → ``VG_100K/2.jpg``, the last two parts of its address."""
    out: dict[str, str] = {}
    for index, data in enumerate(reading.records(path)):
        with reading.sparing():
            item = Item(f"{path}: record {index}", data)
            number = item.id("image_id" if "image_id" in item else "id")
            out[number] = "/".join(item.text("url").split("/")[-2:])
    return out


@dataclass(frozen=True)
class FlickrSettings:
    """annotations: the json file; images: the folder of ``flickr30k-images``."""

    annotations: Path
    images: tuple[Path, ...]


def read_flickr_captions(settings: FlickrSettings, reading: Reading) -> list[Record]:
    """``groundedcaption.json``: ``[{"image_id", "grounded_caption": "<p>A man</p> {<1><2><3><4>} ..."}]``,
    [grounding]."""
    return _flickr(settings, reading, lambda item: (None, item.text("grounded_caption")), GROUNDING, "grounding")


def read_flickr_phrases(settings: FlickrSettings, reading: Reading) -> list[Record]:
    """``captiontobbox.json``: ``[{"image_id", "caption", "output"}]``, every phrase of a caption, [detection]."""
    return _flickr(settings, reading, lambda item: (item.text("caption"), item.text("output")), DETECTION, "detection")


def read_flickr_objects(settings: FlickrSettings, reading: Reading) -> list[Record]:
    """``phrasetobbox.json``: ``[{"image_id", "phrase", "bbox": "{<1><2><3><4>}"}]``, one phrase, [detection]."""

    def answer(item: Item) -> tuple[str, str]:
        return item.text("phrase"), f"<p>{item.text('phrase')}</p> {item.text('bbox')}"

    return _flickr(settings, reading, answer, DETECTION, "detection")


def _flickr(
    settings: FlickrSettings, reading: Reading, texts: Any, wordings: tuple[str, ...], task: str
) -> list[Record]:
    """texts: item → what is asked about (None: the wording is a whole question), and the answer, which has boxes."""
    path = settings.annotations

    def parse(item: Item, index: int) -> Iterator[Record]:
        asked, answer = texts(item)
        picture = reading.picture(f"{item.id('image_id')}.jpg", item)
        fills = ("",) if asked is None else (usable(asked, "phrase", item.where),)
        answer = boxed(answer, "answer", item.where)
        if not parse_boxes(answer, 100, 100):
            item.fail("its answer has no box, expected {<x1><y1><x2><y2>}")
        yield Record(str(path), index, (Ask((answer,), fills, wordings),), picture, task)

    return reading.collect(path, reading.records(path), parse)
