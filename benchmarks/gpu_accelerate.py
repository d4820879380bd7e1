"""``accelerate`` over a Phi of transformers whose weights and prompts are on the GPU: the ids of torch's own generate
there, results on the GPU, and both rates.

python benchmarks/gpu_accelerate.py FOLDER-OF-THE-INSTALLED-PACKAGE [--device cuda]

The model is random, of Phi-2's width with --layers of its layers. Prints one JSON line a result; exit code 1 where ids
or devices differ. Needs torch, transformers and numpy.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

TOKENS, ROWS, COLUMNS = 32, 3, 24


def random_phi(layers: int, width: int, device: str) -> Any:
    """Weights of deviations at which every token says something else and rounding moves no argmax."""
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(7)
    heads = width // 80
    config = PhiConfig(
        vocab_size=512, hidden_size=80 * heads, intermediate_size=320 * heads, num_hidden_layers=layers,
        num_attention_heads=heads, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = PhiForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        gain = 1.0 if "norm" in name and "weight" in name else 0.0
        torch.nn.init.normal_(parameter, mean=gain, std=0.05)
    return model.to(device)


def rate(call: Any, device: str) -> tuple[Any, float]:
    """What ``call`` gives the second time, and its tokens per second then."""
    import torch

    call()
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    found = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return found, ROWS * TOKENS / (time.perf_counter() - begun)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=2560)
    given = parser.parse_args(arguments)
    sys.path.insert(0, given.folder)
    import torch

    import tinygptv_fast as tgv

    theirs = random_phi(given.layers, given.width, given.device)
    ids = torch.randint(6, 512, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(3)).to(given.device)
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    asked: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "do_sample": False,
                             "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}  # fmt: skip
    with torch.no_grad():
        expected, torch_rate = rate(lambda: theirs.generate(**asked), given.device)
    with tgv.accelerate(theirs, kv_tokens=1024) as ours:
        for route in ("native", "loop"):
            ours.native = route == "native"
            found, our_rate = rate(lambda: ours.generate(**asked), given.device)
            right = found.device == ids.device and torch.equal(found, expected)
            print(json.dumps({"name": f"accelerate_{route}", "computes_on": ours.computes_on, "right": right,
                              "tokens_per_second": our_rate, "torch_tokens_per_second": torch_rate}))  # fmt: skip
            if not right or ours.computes_on != given.device:
                print(f"on {found.device}: {found.tolist()}, expected on {ids.device}: {expected.tolist()}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
