"""``python -m tinygptv_fast``: the command line, and what ``torchrun -m`` starts."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
