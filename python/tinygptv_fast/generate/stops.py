"""Stop strings on a stream of text: nothing after a stop string, or that may still become one, is let out."""

from __future__ import annotations

from collections.abc import Sequence


class StopWatch:
    """Feed text as it is decoded; get back what is safe to show."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def put(self, text: str) -> str:
        """Add ``text``; returns the part that can no longer belong to a stop string. Sets ``stopped`` at the first."""
        if self.stopped:
            return ""
        self._held += text
        cuts = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if cuts:
            self.stopped = True
            out, self._held = self._held[: min(cuts)], ""
            return out
        keep = self._longest_prefix()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def end(self) -> str:
        """The text still held when generation ends without a stop string."""
        out, self._held = self._held, ""
        return out

    def _longest_prefix(self) -> int:
        """Length of the longest end of the held text that begins some stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
