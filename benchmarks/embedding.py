"""Token embeddings of Phi-2's size on one thread, after checking the answers.

    python benchmarks/embedding.py [--save] [--tokens 1 256]

Bytes are one row of the table and one of the result per token. Ids are random, so rows come from memory.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from typing import Any

import torch

from quantize_common import append
from rows_common import microseconds, native, record
from tinygptv_fast import reference

VOCAB, WIDTH, BATCHES = 51200, 2560, 64


def measure(kind: str, tokens: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(tokens)
    scales = None
    if kind == "int8":
        table = torch.randint(-127, 128, (VOCAB, WIDTH), dtype=torch.int8, generator=generator)
        scales = torch.rand(VOCAB, generator=generator)
    else:
        table = torch.randn(VOCAB, WIDTH, generator=generator).to(getattr(torch, kind))
    out = torch.empty(tokens, WIDTH)
    ids = torch.randint(0, VOCAB, (BATCHES, tokens), dtype=torch.int32, generator=generator)
    rows = table.view(torch.float16).numpy() if kind == "bfloat16" else table.numpy()
    name = {"float32": "f32", "bfloat16": "bf16", "int8": "int8"}[kind]
    given = None if scales is None else scales.numpy()

    native.embedding(out.numpy(), ids[0].numpy(), rows, given, name)
    if not torch.equal(out, reference.embedding(ids[0], table, scales)):
        raise SystemExit(f"embedding of {kind} differs from its twin")
    batches = cycle(ids)
    times = microseconds(lambda: native.embedding(out.numpy(), next(batches).numpy(), rows, given, name))
    moved = tokens * WIDTH * (4 + table.element_size())
    return record("embedding", f"{kind} [{tokens},{WIDTH}]", "any", moved, times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.tokens) < 1:
        parser.error("--tokens must be positive")
    records = [measure(kind, tokens) for kind in ("float32", "bfloat16", "int8") for tokens in arguments.tokens]
    if arguments.save:
        append("embedding.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
