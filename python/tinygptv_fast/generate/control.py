"""What ends a request before its time: its deadline, or somebody who cancels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import InvalidArgumentError


class Interrupted(Exception):
    """A request ended before it was submitted; ``reason`` is "deadline" or "cancelled". Never leaves the package."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Control:
    """The clock and the cancel flag of one request, from the moment of the call. Any thread may cancel."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self._deadline: float | None = None
        self._cancelled = False
        self._action: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def set_deadline(self, milliseconds: Any) -> None:
        """Count ``milliseconds`` (None: no deadline) from the call. Raises InvalidArgumentError."""
        if milliseconds is None:
            return
        number = isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool)
        if not number or not 0 < milliseconds < float("inf"):
            raise InvalidArgumentError(f"deadline_ms is {milliseconds!r}, expected a number > 0")
        self._deadline = self.started + milliseconds / 1e3

    def remaining(self) -> float | None:
        """Seconds until the deadline, negative after it; None without one."""
        return None if self._deadline is None else self._deadline - time.perf_counter()

    def elapsed_ms(self) -> float:
        """Milliseconds since the call."""
        return 1e3 * (time.perf_counter() - self.started)

    def check(self) -> None:
        """Raises Interrupted once the deadline has passed or somebody cancelled."""
        if self._cancelled:
            raise Interrupted("cancelled")
        remaining = self.remaining()
        if remaining is not None and remaining <= 0:
            raise Interrupted("deadline")

    def attach(self, action: Callable[[], None]) -> None:
        """``action`` cancels what is under way from now on; called at once if that was asked for already."""
        with self._lock:
            self._action = action
            cancelled = self._cancelled
        if cancelled:
            action()

    def cancel(self) -> None:
        """End the request. Twice, or after its end: nothing happens."""
        with self._lock:
            self._cancelled, action = True, self._action
        if action is not None:
            action()
