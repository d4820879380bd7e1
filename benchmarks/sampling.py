"""One token from 51,200 logits on one thread, with the settings people use, after comparing it with the twin's.

    python benchmarks/sampling.py [--save] [--isas avx512vnni avx2] [--vocab 51200]

"random" logits are normal with standard deviation 2.5, a flat distribution that filters cut late; "peaked" ones have
twenty ids 14 higher, as a language model's; "equal" ones are all the same: the worst for a selection. The log-
probability is part of every call. Bytes are the logits, once: they lie in a cache.
"""

from __future__ import annotations

import argparse
from itertools import count
from typing import Any

import numpy as np
import torch

from quantize_common import append
from rows_common import microseconds, native, record
from tinygptv_fast import _native, reference

HISTORY = 500
DEFAULTS: dict[str, Any] = {
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}  # fmt: skip
CASES: list[tuple[str, dict[str, Any]]] = [
    ("random", {}),
    ("random", {"repetition_penalty": 1.1}),
    ("random", {"temperature": 0.8}),
    ("random", {"temperature": 0.8, "top_k": 50}),
    ("random", {"temperature": 0.8, "top_k": 50, "top_p": 0.9}),
    ("random", {"temperature": 0.8, "top_k": 5000}),
    ("random", {"temperature": 0.8, "top_p": 0.9}),
    ("random", {"temperature": 0.8, "min_p": 0.05}),
    ("peaked", {"temperature": 0.8, "top_p": 0.9}),
    ("equal", {"temperature": 0.8, "top_k": 50}),
    ("equal", {"temperature": 0.8, "top_p": 0.9}),
]


def make_logits(kind: str, vocab: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if kind == "equal":
        return torch.zeros(vocab)
    logits = torch.randn(vocab, generator=generator) * 2.5
    if kind == "peaked":
        logits[torch.randperm(vocab, generator=generator)[:20]] += 14
    return logits


def measure(isa: str, kind: str, options: dict[str, Any], vocab: int) -> dict[str, Any]:
    logits = make_logits(kind, vocab)
    generator = torch.Generator().manual_seed(4)
    penalised = "repetition_penalty" in options
    history = torch.randint(0, vocab, (HISTORY,), generator=generator).tolist() if penalised else []
    buffer, settings = logits.numpy(), DEFAULTS | options
    positions = count()

    def call(position: int) -> Any:
        return native.sample(
            buffer, **settings, logit_bias=[], banned=[], history=history, position=position, seed=1, sample=0, isa=isa
        )

    for position in range(3):
        wanted = reference.sample(logits, **options, history=history, position=position, seed=1)
        if call(position)[0] != wanted[0]:
            raise SystemExit(f"{options} on {isa}: the token differs from the twin's")
    what = ", ".join([kind, *(f"{k} {v}" for k, v in options.items())])
    return record("sampling", what, isa, 4 * vocab, microseconds(lambda: call(next(positions))))


def measure_logprobs(isa: str, vocab: int) -> list[dict[str, Any]]:
    logits = make_logits("random", vocab)
    out, ids, best = np.empty((1, vocab), np.float32), np.empty(20, np.int32), np.empty(20, np.float32)
    native.log_softmax(out, logits[None].numpy(), isa)
    native.top_logprobs(ids, best, logits.numpy(), isa)
    truth = reference.log_softmax(logits[None])
    if not np.allclose(out, truth, rtol=0, atol=1e-5) or ids.tolist() != reference.top_logprobs(logits, 20)[0].tolist():
        raise SystemExit(f"log-probabilities on {isa} differ from their twins")
    softmax = microseconds(lambda: native.log_softmax(out, logits[None].numpy(), isa))
    top = microseconds(lambda: native.top_logprobs(ids, best, logits.numpy(), isa))
    return [
        record("sampling", "log_softmax", isa, 8 * vocab, softmax),
        record("sampling", "top 20 logprobs", isa, 4 * vocab, top),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=51200)
    parser.add_argument("--isas", nargs="+", default=[_native.best_isa()], choices=_native.isas())
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.vocab < HISTORY:
        parser.error(f"--vocab must be {HISTORY} or more")
    torch.set_num_threads(1)
    records: list[dict[str, Any]] = []
    for isa in arguments.isas:
        records += [measure(isa, kind, options, arguments.vocab) for kind, options in CASES]
        records += measure_logprobs(isa, arguments.vocab)
    if arguments.save:
        append("sampling.jsonl", records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
