"""The data sets by name. Each module is one set: how its files are read and how answers are scored."""

from __future__ import annotations

from types import MappingProxyType

from ...errors import InvalidArgumentError
from ..benchmark import Benchmark
from . import captions, gqa, hateful_memes, iconqa, refcoco, vizwiz, vqa, vsr

_ALL = (
    gqa.GQA,
    vsr.VSR,
    iconqa.ICONQA,
    vizwiz.VIZWIZ,
    hateful_memes.HATEFUL_MEMES,
    vqa.OKVQA,
    vqa.VQAV2,
    refcoco.REFCOCO,
    refcoco.REFCOCO_PLUS,
    refcoco.REFCOCOG,
    captions.CAPTIONS,
)

BENCHMARKS = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
"""Every data set: gqa, vsr, iconqa, vizwiz, hateful-memes, okvqa, vqav2, refcoco, refcoco+, refcocog, captions."""


def get_benchmark(name: str) -> Benchmark:
    """The data set of this name. Raises InvalidArgumentError listing the names."""
    if name not in BENCHMARKS:
        raise InvalidArgumentError(f"SET is {name!r}, expected one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
