"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Files and outputs of the original implementation on tiny random weights (tests/golden/README.md)."""
    return GOLDEN


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    # Tiny tensors: more threads only wait for each other.
    torch.set_num_threads(2)
