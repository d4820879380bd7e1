"""The decoder step on random weights of Phi-2's size: decode against the read bandwidth, batches, prefill.

    python benchmarks/decoder.py [--group 32] [--contexts 64 1024] [--batches 1 2 3 4 8] [--prompts 64 256 1024]

A decode figure is the bytes that a block of 32 tokens must read (packed matrices once a token, K and V of the context
so far, scales included) over its time, as a fraction of the mean of two probes of the read bandwidth (1 GB on huge
pages), one directly before and one directly after. Blocks whose probes differ by more than 5 % are dropped and
counted; the median of the others is printed. Knows the step alone: no sampling, no requests.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time

import numpy as np

from tinygptv_fast import _native
from tinygptv_fast.config import TextConfig

BLOCK = 32
STEADY = 1.05


def kv_bytes_per_position(config: TextConfig, kind: str) -> int:
    element = {"int8": 1, "f16": 2, "bf16": 2, "f32": 4}[kind]
    row = config.head_dim * element + (2 if kind == "int8" else 0)
    return 2 * config.layers * config.heads * row


def ids(count: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(count).integers(0, 1000, count)]


def fill(decoder: _native.Decoder, context: int, room: int) -> int:
    sequence = decoder.start(context + room)
    tokens = ids(context)
    for at in range(0, context, 256):
        decoder.step([(sequence, tokens[at : at + 256], 0)])
    return int(sequence)


def decode_block(decoder: _native.Decoder, sequences: list[int]) -> float:
    start = time.perf_counter()
    for token in range(BLOCK):
        decoder.step([(sequence, [token], 1) for sequence in sequences])
    return time.perf_counter() - start


def measure_decode(decoder: _native.Decoder, config: TextConfig, step_bytes: int, kind: str, context: int,
                   batch: int, probe: _native.BandwidthProbe, blocks: int) -> dict[str, object]:  # fmt: skip
    sequences = [fill(decoder, context, BLOCK * 2) for _ in range(batch)]
    per_position = kv_bytes_per_position(config, kind)
    fractions, rates, dropped = [], [], 0
    decode_block(decoder, sequences)
    for _ in range(blocks):
        for sequence in sequences:
            decoder.truncate(sequence, context)
        before = probe.measure(1)
        seconds = decode_block(decoder, sequences)
        after = probe.measure(1)
        positions = batch * sum(context + i + 1 for i in range(BLOCK))
        moved = BLOCK * step_bytes + positions * per_position
        rates.append(batch * BLOCK / seconds)
        if max(before, after) > STEADY * min(before, after):
            dropped += 1
        else:
            fractions.append(moved / seconds / ((before + after) / 2))
    for sequence in sequences:
        decoder.release(sequence)
    return {
        "what": "decode", "context": context, "batch": batch, "tokens_per_second": statistics.median(rates),
        "fraction_of_bandwidth": statistics.median(fractions) if fractions else None, "blocks": len(fractions),
        "dropped": dropped, "bandwidth_gbs": probe.measure(3) / 1e9,
    }  # fmt: skip


def measure_prefill(decoder: _native.Decoder, step_bytes: int, length: int, rounds: int) -> dict[str, object]:
    times = []
    for _ in range(rounds):
        sequence, tokens = decoder.start(length), ids(length)
        start = time.perf_counter()
        for at in range(0, length, 256):
            decoder.step([(sequence, tokens[at : at + 256], 1 if at + 256 >= length else 0)])
        times.append(time.perf_counter() - start)
        decoder.release(sequence)
    return {"what": "prefill", "tokens": length, "tokens_per_second": length / statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--kv", default="int8")
    parser.add_argument("--isa", default="")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--contexts", type=int, nargs="*", default=[64, 1024, 1950])
    parser.add_argument("--batches", type=int, nargs="*", default=[2, 3, 4, 8])
    parser.add_argument("--prompts", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--blocks", type=int, default=9)
    arguments = parser.parse_args()
    config = TextConfig()
    matrix = ("int4", arguments.group, True)
    weights = _native.Weights.random(dataclasses.asdict(config), {"body": matrix, "head": matrix, "embedding": "int8"})
    decoder = _native.Decoder(
        weights, kv_kind=arguments.kv, kv_tokens=8192, threads=arguments.threads, isa=arguments.isa
    )
    probe = _native.BandwidthProbe(arguments.threads)
    for context in arguments.contexts:
        line = measure_decode(decoder, config, weights.step_bytes, arguments.kv, context, 1, probe, arguments.blocks)
        print(json.dumps(line), flush=True)
    for batch in arguments.batches:
        line = measure_decode(decoder, config, weights.step_bytes, arguments.kv, 64, batch, probe, 3)
        print(json.dumps(line), flush=True)
    for length in arguments.prompts:
        print(json.dumps(measure_prefill(decoder, weights.step_bytes, length, 3)), flush=True)


if __name__ == "__main__":
    main()
