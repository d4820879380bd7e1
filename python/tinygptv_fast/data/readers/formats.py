"""Every format by name: its settings and its reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from . import captions, conversations, grounding, refer, vqa, webdataset
from .reading import Reading
from .record import Record


class Records(Protocol):
    """What a reader returns. ``[i]`` raises BadRecord where a record is read only when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


@dataclass(frozen=True)
class Format:
    """settings: a dataclass of what the config says; read: the records for such settings."""

    name: str
    settings: type[Any]
    read: Callable[[Any, Reading], Records]


_ALL = (
    Format("webdataset", webdataset.ShardSettings, webdataset.read_shards),
    Format("cc_sbu_align", captions.AlignSettings, captions.read_align),
    Format("textcaps", captions.CaptionSettings, captions.read_textcaps),
    Format("coco_captions", captions.CaptionSettings, captions.read_coco_captions),
    Format("vqav2", vqa.PairSettings, vqa.read_pair),
    Format("okvqa", vqa.PairSettings, vqa.read_pair),
    Format("lavis_vqa", vqa.ListSettings, vqa.read_lavis),
    Format("aokvqa", vqa.ListSettings, vqa.read_aokvqa),
    Format("gqa", vqa.ListSettings, vqa.read_gqa),
    Format("ocrvqa", vqa.ListSettings, vqa.read_ocrvqa),
    Format("refcoco", refer.ReferSettings, refer.read_refer),
    Format("invrefcoco", refer.ReferSettings, refer.read_identify),
    Format("visual_genome", grounding.GenomeSettings, grounding.read_genome),
    Format("flickr_grounded_caption", grounding.FlickrSettings, grounding.read_flickr_captions),
    Format("flickr_caption_to_phrase", grounding.FlickrSettings, grounding.read_flickr_phrases),
    Format("flickr_object_to_phrase", grounding.FlickrSettings, grounding.read_flickr_objects),
    Format("llava", conversations.LlavaSettings, conversations.read_llava),
    Format("unnatural_instructions", conversations.TextSettings, conversations.read_unnatural),
)

FORMATS = MappingProxyType({format.name: format for format in _ALL})
"""Name → format."""


def folders(settings: Any) -> Sequence[Path]:
    """Where the pictures of a data set are looked for; none for shards and text."""
    found: Sequence[Path] = getattr(settings, "images", ())
    return found
