"""Writes the checkpoint that every engine's file is made from: stock Phi-2's sizes, random float16 weights, one seed.

    python checkpoint.py OUT

The weights are those of benchmarks/make_full_size.py, scaled so that activations and logits are of ordinary size; q, k
and v are apart, as Hugging Face's Phi has them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from make_full_size import Maker, Sizes, write_phi

SEED = 0


def main() -> None:
    write_phi(Path(sys.argv[1]), Maker(Sizes(), SEED, outliers=False), split=True, wrote=lambda count: None)


if __name__ == "__main__":
    main()
