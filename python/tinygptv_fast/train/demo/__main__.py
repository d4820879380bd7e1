"""``python -m tinygptv_fast.train.demo``."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
