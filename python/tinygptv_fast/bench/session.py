"""What every section is handed: options, subject, instruments and the roof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .blocks import Blocks, measure
from .instruments import Instruments
from .options import Options
from .subject import Subject


@dataclass
class Session:
    """One run. peak: int8 operations per second, None without such instructions. note: shows what is done now."""

    options: Options
    subject: Subject
    instruments: Instruments
    peak: float | None
    note: Callable[[str], None] = field(default=lambda text: None)

    def blocks(
        self, what: str, work: Callable[[], object], keep: int, prepare: Callable[[], object] | None = None
    ) -> Blocks:
        """``blocks.measure`` with this session's instruments, telling ``what`` and which block."""
        return measure(self.instruments, work, keep, prepare=prepare, note=lambda text: self.note(f"{what}, {text}"))
