"""Fixtures shared by all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"

# A shell that starts a job in the background lets it ignore Ctrl-C, and its children with it; tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Files and outputs of the original implementation on tiny random weights (tests/golden/README.md)."""
    return GOLDEN


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny tensors: a second thread only waits for the first, and for minutes when the machine is busy.
    torch.set_num_threads(1)
