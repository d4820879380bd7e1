"""LayerNorm, RMSNorm and the sum of branches at Phi-2's width on one thread, after checking the answers.

    python benchmarks/norm.py [--save] [--tokens 1 256] [--isas avx512vnni avx2]

Bytes are those of each input and output once. Everything lies in a cache, as between the phases of a model step.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from quantize_common import append
from rows_common import microseconds, native, record
from tinygptv_fast import _native, reference

WIDTH, EPS = 2560, 1e-5


def measure(isa: str, tokens: int) -> list[dict[str, Any]]:
    x, attention, mlp = (torch.randn(tokens, WIDTH) for _ in range(3))
    weight, bias, out = torch.randn(WIDTH), torch.randn(WIDTH), torch.empty(tokens, WIDTH)
    calls = {
        "layer_norm": (
            lambda: native.layer_norm(out.numpy(), x.numpy(), weight.numpy(), bias.numpy(), EPS, isa),
            lambda: reference.layer_norm(x, weight, bias, EPS),
            2,
        ),
        "rms_norm": (
            lambda: native.rms_norm(out.numpy(), x.numpy(), weight.numpy(), EPS, isa),
            lambda: reference.rms_norm(x, weight, EPS),
            2,
        ),
        "add_branches": (
            lambda: native.add_branches(out.numpy(), attention.numpy(), mlp.numpy(), weight.numpy(), EPS, isa),
            lambda: reference.add_branches(x, attention, mlp, weight, EPS),
            4,
        ),
    }
    records = []
    for name, (call, twin, arrays) in calls.items():
        out.copy_(x)
        call()
        if not torch.allclose(out, twin(), rtol=1e-5, atol=1e-5):
            raise SystemExit(f"{name} on {isa} differs from its twin")
        moved = 4 * WIDTH * (arrays * tokens + 1)
        if name == "add_branches":
            out.zero_()  # repeated calls add up: x stays far from infinity
        records.append(record("norm", f"{name} [{tokens},{WIDTH}]", isa, moved, microseconds(call)))
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--isas", nargs="+", default=_native.isas(), choices=_native.isas())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.tokens) < 1:
        parser.error("--tokens must be positive")
    torch.manual_seed(0)
    records = [r for isa in arguments.isas for tokens in arguments.tokens for r in measure(isa, tokens)]
    if arguments.save:
        append("norm.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
