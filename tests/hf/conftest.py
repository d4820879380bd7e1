"""One random Phi and its accelerated twin for all tests of the folder, and what must hold after each of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, PhiForCausalLM

import tinygptv_fast as tgv
from hf.support import random_phi
from tinygptv_fast.hf import TinyGPTVForConditionalGeneration, TinyGPTVProcessor, register
from tinygptv_fast.hf.model import AcceleratedPhi


@pytest.fixture(scope="session")
def phi() -> PhiForCausalLM:
    return random_phi()


@pytest.fixture(scope="session")
def _accelerated(phi: PhiForCausalLM) -> Iterator[AcceleratedPhi]:
    with tgv.accelerate(phi, kv_tokens=4096, threads=1) as model:
        yield model


@pytest.fixture
def accelerated(_accelerated: AcceleratedPhi) -> Iterator[AcceleratedPhi]:
    """Of ``phi``, exact. After the test no request runs and no sequence is held."""
    _accelerated.native = True
    yield _accelerated
    check_idle(_accelerated)


@pytest.fixture(scope="session")
def demo() -> Iterator[tgv.TinyGPTV]:
    """The shipped model, as ``TinyGPTV``."""
    with tgv.TinyGPTV.from_pretrained("demo", threads=1) as model:
        yield model


@pytest.fixture(scope="session")
def auto_processor(demo: tgv.TinyGPTV) -> TinyGPTVProcessor:
    """Of its directory, by the Auto class."""
    register()
    return AutoProcessor.from_pretrained(demo.info["path"])


@pytest.fixture(scope="session")
def _auto(demo: tgv.TinyGPTV) -> Iterator[TinyGPTVForConditionalGeneration]:
    register()
    with AutoModelForImageTextToText.from_pretrained(demo.info["path"], threads=1, kv_tokens=4096) as model:
        yield model


@pytest.fixture
def auto(_auto: TinyGPTVForConditionalGeneration) -> Iterator[TinyGPTVForConditionalGeneration]:
    """Its directory by the Auto class. After the test no request runs and no sequence is held."""
    _auto.native = True
    yield _auto
    check_idle(_auto)


def check_idle(model: AcceleratedPhi | TinyGPTVForConditionalGeneration) -> None:
    """Nothing of a call is left behind."""
    if model.stats()["sequences"]["sequences"]:
        gc.collect()  # of a result that held its cache
    stats = model.stats()
    assert stats["running"] == stats["waiting"] == 0
    assert stats["sequences"]["sequences"] == 0 and stats["sequences"]["promised"] == 0
    assert stats["kv_pages_referenced"] == stats["kv_pages_promised"] == 0
