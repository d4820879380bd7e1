"""``python -m tinygptv_fast.bench.child '{...}'``: one fresh process's start, measured from inside, as one json line.

Imports what a user of text imports and nothing else: torch is in the figures where the library loads it.
Argument: directory, kv_dtype, threads, prompt (text), fill (a longer prompt, or null), picture (whether it sees one of
noise before all that, with the vision side loaded).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> int:
    """Times in seconds of the monotonic clock, which the parent shares; memory in bytes."""
    import tinygptv_fast

    from .resident import resident_bytes

    after_import = resident_bytes()
    asked = json.loads(sys.argv[1])
    from ..generate import TinyGPTV

    imported = time.monotonic()
    rss_imports = resident_bytes()
    model = TinyGPTV.from_pretrained(
        asked["directory"], vision=asked["picture"], kv_dtype=asked["kv_dtype"], threads=asked["threads"] or None
    )
    loaded = time.monotonic()
    if asked["picture"]:
        model.encode_image(_noise())
    first = model.generate(None, asked["prompt"], max_new_tokens=1, template="raw")
    answered = time.monotonic()
    out = {
        "version": tinygptv_fast.__version__,
        "imported": imported,
        "loaded": loaded,
        "answered": answered,
        "prompt_tokens": first.usage.prompt,
        "rss_after_import": after_import,
        "rss_after_imports": rss_imports,
    }
    if asked["fill"]:
        filled = model.generate(None, asked["fill"], max_new_tokens=1, template="raw")
        out["filled_tokens"] = filled.usage.prompt + filled.usage.generated
        out["high_water"] = resident_bytes("VmHWM")
        out["stats"] = {key: value for key, value in model.stats().items() if isinstance(value, (int, float))}
    out["torch"] = "torch" in sys.modules
    model.close()
    print(json.dumps(out), flush=True)
    return 0


def _noise() -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))


if __name__ == "__main__":
    sys.exit(main())
