"""Accuracy on public data sets: read their own files, ask in batches, score as the original does and as the field does.

Modules, each importing only those before it: ``question``, ``files``, ``records``; ``statistics``; ``benchmark``;
``sets`` (one file per data set, its reader and its scorers); ``asking``, ``answers``, ``run``; ``figures``, ``paper``,
``comparison``, ``plots``; ``markdown``, ``thumbnails``, ``page``, ``report``; ``world``.
"""

from __future__ import annotations

from .report import write_reports
from .run import Settings, evaluate
from .sets import BENCHMARKS, get_benchmark

__all__ = ["BENCHMARKS", "Settings", "evaluate", "get_benchmark", "write_reports"]
