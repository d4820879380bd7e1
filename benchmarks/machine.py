"""The roof of this machine: read bandwidth by number of threads, as one json line each.

Batch-1 decoding reads all weights once per token, so no token rate can pass this divided by the weights' bytes.
"""

from __future__ import annotations

import argparse
import json

from tinygptv_fast import _native
from tinygptv_fast.bench.runner import git_hash


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", help="default: one, and all physical cores")
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the buffer read")
    arguments = parser.parse_args()
    for threads in arguments.threads or sorted({1, _native.physical_cores()}):
        rate = _native.read_bandwidth(threads=threads, bytes=arguments.mebibytes << 20, passes=9)
        line = {"name": "read_bandwidth", "threads": threads, "gbytes_per_s": round(rate / 1e9, 2)}
        print(json.dumps({**line, "cpu": _native.cpu_brand(), "git": git_hash()}), flush=True)


if __name__ == "__main__":
    main()
