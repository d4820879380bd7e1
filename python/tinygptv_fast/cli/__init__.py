"""The command line ``tinygptv``: arguments in, text or json out. All work is done by the modules it calls.

Importing this package, ``--help``, ``--version`` and argument errors do not import torch. Exit codes: 0 done, 2 bad
input or a request this build cannot serve (one line on stderr, no traceback), 130 interrupted, 1 an error of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tinygptv`` with ``argv`` (default: the process's arguments). Returns the exit code."""
    try:
        from . import run  # here, so that Ctrl-C while Python still imports is no traceback either

        return run.main(argv)
    except KeyboardInterrupt:
        print("tinygptv: interrupted", file=sys.stderr)
        return 130
