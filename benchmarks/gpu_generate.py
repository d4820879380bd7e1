"""The shipped demo model on the GPU beside the CPU, text alone: the same ids in the exact mode, then int4's rate, with
captured graphs and without, and with kernels that wait for the one before to end before they start.

python benchmarks/gpu_generate.py FOLDER-OF-THE-INSTALLED-PACKAGE

Prints one JSON line a result; exit code 1 where ids differ. Needs numpy, pillow and tokenizers, not torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

PROMPTS = ("[vqa] What colour is the ball?", "Describe this image in detail.", "[refer] the red star")
TOKENS = 32


def main(folder: str) -> int:
    sys.path.insert(0, folder)
    import tinygptv_fast as tgv

    def answers(
        graphs: bool = True, early_starts: bool = True, **settings: Any
    ) -> tuple[list[list[int]], float, dict[str, Any]]:
        os.environ["TINYGPTV_CUDA_GRAPHS"] = str(int(graphs))
        os.environ["TINYGPTV_CUDA_EARLY_STARTS"] = str(int(early_starts))
        with tgv.TinyGPTV.from_pretrained("demo", vision=False, kv_tokens=2048, **settings) as model:
            asked: list[Any] = [
                {"prompt": prompt, "max_new_tokens": TOKENS, "min_length": TOKENS} for prompt in PROMPTS
            ]
            model.generate_batch(asked)
            begun = time.perf_counter()
            found = model.generate_batch(asked)
            seconds = time.perf_counter() - begun
            ids = [list(one.token_ids) for one in found]  # type: ignore[union-attr]
            return ids, sum(map(len, ids)) / seconds, model.info

    expected, *_ = answers(dtype="float32")
    runs: tuple[tuple[str, dict[str, Any]], ...] = (
        ("exact", {"dtype": "float32"}),
        ("int4", {}),
        ("int4_without_early_starts", {"early_starts": False}),
        ("int4_without_graphs", {"graphs": False}),
    )
    for name, settings in runs:
        ids, rate, info = answers(device="cuda", **settings)
        same = ids == expected
        result = {
            "name": f"generate_{name}",
            "gpu": info["gpu"],
            "same_ids_as_the_cpu": same,
            "tokens_per_second": rate,
            "graph_seconds": info.get("graph_seconds"),
            "graph_bytes": info.get("graph_bytes"),
        }
        print(json.dumps(result))
        if name == "exact" and not same:
            print(f"the exact mode says {ids}, expected {expected}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
