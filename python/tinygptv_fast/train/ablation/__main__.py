"""``python -m tinygptv_fast.train.ablation``."""

from __future__ import annotations

import sys

from .command import main

sys.exit(main())
