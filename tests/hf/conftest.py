"""One random Phi and its accelerated twin for all tests of the folder, and what must hold after each of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from transformers import PhiForCausalLM

import tinygptv_fast as tgv
from hf.support import random_phi
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


def check_idle(model: AcceleratedPhi) -> None:
    """Nothing of a call is left behind."""
    if model.stats()["sequences"]["sequences"]:
        gc.collect()  # of a result that held its cache
    stats = model.stats()
    assert stats["running"] == stats["waiting"] == 0
    assert stats["sequences"]["sequences"] == 0 and stats["sequences"]["promised"] == 0
    assert stats["kv_pages_referenced"] == stats["kv_pages_promised"] == 0
