"""Captions: cc_sbu_align (stage 3), TextCaps and COCO captions (stage 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .items import Ids, Item
from .pools import CAPTION
from .reading import Reading
from .record import Ask, Record
from .texts import usable


@dataclass(frozen=True)
class AlignSettings:
    """folder: with ``filter_cap.json`` and ``image/``."""

    folder: Path

    @property
    def images(self) -> tuple[Path, ...]:
        return (self.folder / "image",)


def read_align(settings: AlignSettings, reading: Reading) -> list[Record]:
    """MiniGPT-4's second-stage data: ``{"annotations": [{"image_id": "2", "caption": ...}]}``, ``image/2.jpg``.

    Captions stay as they are; the stage's config has the prompts (cc_sbu_dataset.py, CCSBUAlignDataset).
    """
    path, ids = settings.folder / "filter_cap.json", Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        picture = reading.picture(f"{ids.add(item, 'image_id')}.jpg", item)
        caption = usable(item.text("caption"), "caption", item.where)
        yield Record(str(path), index, (Ask((caption,), wordings=()),), picture)

    return reading.collect(path, reading.records(path, of="annotations"), parse)


@dataclass(frozen=True)
class CaptionSettings:
    """annotations: the json file; images: folders of pictures; clean: texts through the original's clean-up."""

    annotations: Path
    images: tuple[Path, ...]
    clean: bool = True


def read_textcaps(settings: CaptionSettings, reading: Reading) -> list[Record]:
    """``TextCaps_0.1_train.json``: ``{"data": [{"image_id", "caption_str", "caption_id"}]}``, five captions or so of
    each picture (text_caps.py)."""
    path, ids = settings.annotations, Ids()

    def parse(item: Item, index: int) -> Iterator[Record]:
        if "caption_id" in item:
            ids.add(item, "caption_id")
        picture = reading.picture(f"{item.id('image_id')}.jpg", item)
        caption = usable(item.text("caption_str"), "caption_str", item.where, clean=settings.clean)
        yield Record(str(path), index, (Ask((caption,), wordings=CAPTION),), picture, "caption")

    return reading.collect(path, reading.records(path, of="data"), parse)


def read_coco_captions(settings: CaptionSettings, reading: Reading) -> list[Record]:
    """``coco_karpathy_train.json``: ``[{"image": "train2014/COCO_train2014_...jpg", "caption": ...}]``, of which the
    original keeps those with "train" in the picture's name (caption_datasets.py, COCOCaptionDataset)."""
    path = settings.annotations

    def parse(item: Item, index: int) -> Iterator[Record]:
        name = item.text("image")
        if "train" in name:
            picture = reading.picture(name.split("/")[-1], item)
            caption = usable(item.text("caption"), "caption", item.where, clean=settings.clean)
            yield Record(str(path), index, (Ask((caption,), wordings=CAPTION),), picture, "caption")

    return reading.collect(path, reading.records(path), parse)
