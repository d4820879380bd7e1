"""The ops on tensors of a GPU: right beside float64, on the caller's stream, and what a call costs.

python benchmarks/gpu_ops.py FOLDER-OF-THE-INSTALLED-PACKAGE [--device cuda]

right    every op on sizes of the released model against torch in float64, bounds as in tests/native/test_cuda_ops.py;
         once on a stream of its own, behind a kernel that takes long, whose result it must see.
us       microseconds a call: put on the stream one by one, and replayed in a graph of torch's (16 calls each).

Prints one JSON line an op; exit code 1 where one is not right. Needs numpy and torch with CUDA. --device cpu runs the
emulation at TINYGPTV_CUDA_EMULATION on small sizes, to try the program; it times nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

CALLS = 16
HALF = 2.0**-11


@dataclass(frozen=True)
class Case:
    """``call`` gives what ``truth`` (float64) is, within ``bound`` of the magnitude of what is summed."""

    name: str
    call: Callable[[], Any]
    truth: Any
    bound: Any


def products(device: str, width: int, hidden: int) -> list[Case]:
    import torch

    from tinygptv_fast import ops
    from tinygptv_fast.quantize.int4 import dequantize_int4, quantize_int4
    from tinygptv_fast.quantize.int8 import dequantize_int8, quantize_int8

    plain = torch.randn(hidden, width) * 0.05
    int4, int8 = quantize_int4(plain, 128, True), quantize_int8(plain)
    forms: list[tuple[str, Any, torch.Tensor, torch.dtype]] = [
        ("int4_matmul", ops.pack_int4(int4, device=device), dequantize_int4(int4), torch.float16),
        ("int8_matmul", ops.pack_int8(int8, device=device), dequantize_int8(int8), torch.float16),
    ]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        forms.append(("matmul", ops.pack_float(plain, dtype=dtype, device=device), plain.to(dtype), dtype))
    cases = []
    for rows in (1, 8, 256) if device == "cuda" else (1, 20):
        for name, packed, weights, dtype in forms:
            x = torch.randn(rows, width).to(dtype).to(device)
            w, x64 = weights.double().to(device), x.double()
            unit = 2.0**-8 if dtype == torch.bfloat16 else HALF
            call = functools.partial(getattr(ops, name), x, packed)
            bound = (unit + 2.0**-23 * width) * (x64.abs() @ w.abs().T) + 1e-6
            cases.append(Case(f"{name}_{str(dtype)[6:]}_{rows}", call, x64 @ w.T, bound))
    return cases


def rows(device: str, width: int) -> list[Case]:
    import torch

    from tinygptv_fast import ops

    x, weight, bias = (torch.randn(size, device=device) for size in ((64, width), (width,), (width,)))
    norm = torch.nn.functional.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    square = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    table = torch.randn(500, width, device=device).half()
    ids = torch.randint(0, 500, (64,), device=device)

    def near(truth: torch.Tensor) -> torch.Tensor:
        return 2.0**-14 * (1 + truth.abs())

    found = table[ids].double()
    return [
        Case("layer_norm", lambda: ops.layer_norm(x, weight, bias), norm, near(norm)),
        Case("rms_norm", lambda: ops.rms_norm(x, weight), square, near(square)),
        Case("embedding", lambda: ops.embedding(ids, table), found, 0 * found),
    ]


def attention(device: str, heads: int, context: int) -> list[Case]:
    """Eight sequences of one token, and one of many."""
    import torch

    from tinygptv_fast import ops

    S, D, per_sequence = 8, 80, context // 16
    k, v = (torch.randn(S * per_sequence, heads, 16, D, device=device).half() for _ in range(2))
    tables = torch.randperm(S * per_sequence, device=device).to(torch.int32).view(S, per_sequence)
    last = torch.full((S,), context - 1, dtype=torch.int32, device=device)
    q = torch.randn(S, heads, D, device=device).half()

    def attend(q: torch.Tensor, sequence: int, hidden: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, H, D] over a whole context, and what its error may be."""
        pages = tables[sequence].long()
        keys, values = (x[pages].transpose(1, 2).reshape(context, heads, D).double() for x in (k, v))
        weights = (torch.einsum("thd,nhd->htn", q.double(), keys) * D**-0.5 + hidden).softmax(-1)
        truth = torch.einsum("htn,nhd->thd", weights, values)
        return truth, 2 * HALF * torch.einsum("htn,nhd->thd", weights, values.abs()) + 1e-4

    parts = [attend(q[s : s + 1], s, 0.0) for s in range(S)]
    tokens = min(64, context)
    chunk = torch.randn(tokens, heads, D, device=device).half()
    place = torch.arange(context - tokens, context, device=device)[:, None]
    later = torch.arange(context, device=device)[None] > place
    causal = torch.zeros(tokens, context, dtype=torch.float64, device=device).masked_fill(later, float("-inf"))
    truth, bound = attend(chunk, 0, causal)
    return [
        Case(
            "paged_attention_batch",
            lambda: ops.paged_attention(q, k, v, tables, last),
            torch.cat([t for t, _ in parts]),
            torch.cat([b for _, b in parts]),
        ),
        Case(
            "paged_attention_prompt",
            lambda: ops.paged_attention(chunk, k, v, tables[0], context - tokens),
            truth,
            bound,
        ),
    ]


def right(case: Case) -> bool:
    return bool(((case.call().double() - case.truth).abs() <= case.bound).all())


def on_the_callers_stream(width: int) -> bool:
    """A stream of one's own, on which the input is not ready when the op is asked for."""
    import torch

    from tinygptv_fast import ops

    stream, weight = torch.cuda.Stream(), torch.ones(width, device="cuda")
    with torch.cuda.stream(stream):
        slow = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            slow = slow @ slow * 0.01
        x = slow[:64, :width].contiguous().nan_to_num() + 1
        y = ops.rms_norm(x, weight)
    stream.synchronize()
    wanted = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return bool(torch.allclose(y, wanted, rtol=1e-4, atol=1e-4))


def microseconds(call: Callable[[], Any]) -> dict[str, float]:
    import torch

    def timed(run: Callable[[], Any]) -> float:
        best = float("inf")
        for _ in range(5):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            best = min(best, 1e6 * (time.perf_counter() - begun) / CALLS)
        return best

    def one_by_one() -> None:
        for _ in range(CALLS):
            call()

    one_by_one()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one_by_one()
    graph.replay()
    return {"us": timed(one_by_one), "us_in_a_graph": timed(graph.replay)}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    given = parser.parse_args(arguments)
    sys.path.insert(0, given.folder)
    import torch

    torch.manual_seed(0)
    big = given.device == "cuda"
    width, hidden, heads, context = (2560, 10240, 32, 2048) if big else (128, 192, 2, 96)
    cases = [
        *products(given.device, width, hidden),
        *rows(given.device, width),
        *attention(given.device, heads, context),
    ]
    good = True
    for case in cases:
        line: dict[str, Any] = {"name": case.name, "right": right(case)}
        if big:
            line |= microseconds(case.call)
        good &= line["right"]
        print(json.dumps(line), flush=True)
    if big:
        line = {"name": "callers_stream", "right": on_the_callers_stream(width)}
        good &= line["right"]
        print(json.dumps(line))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
