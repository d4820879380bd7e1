"""Ctrl-C while training: the first asks for a stop between two steps, the second ends the program at once. Of several
processes each is told twice, by the terminal and by torchrun, which itself ends those that take too long.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """``asked`` becomes True at the first Ctrl-C."""

    asked = False


@contextmanager
def stop_on_interrupt(*, patient: bool = False) -> Iterator[StopRequest]:
    """Within the block the first SIGINT or SIGTERM sets ``asked``; the handlers before it are then back in place.
    patient: further ones do nothing more until the block ends."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        request.asked = True
        if not patient:
            restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
