"""Text on the native engine never imports torch, whether the model could see or not: each program runs in a process of
its own, where that is an error.

The rest of the suite imports torch itself, so nothing there would notice.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise AssertionError("torch is imported")

sys.meta_path.insert(0, NoTorch())
"""

# A small model is packed at every start: with SMALL_BYTES = 0 it goes through the cache like a large one.
ASKING = """
import asyncio
import tinygptv_fast
from tinygptv_fast.engine import weights

weights.SMALL_BYTES = 0
for load, source in (("auto", "packed"), ("auto", "cache"), ("mmap", "mapped")):
    with tinygptv_fast.TinyGPTV.from_pretrained("demo", vision=load == "auto", load=load, threads=1) as model:
        assert model.info["weights_from"] == source, model.info["weights_from"]
        answer = model.generate(None, "What is red?", max_new_tokens=4)
        assert len(answer.token_ids) == 4 or answer.finish_reason == "stop"
        *_, last = model.stream(None, "What is red?", max_new_tokens=4)
        assert last.answer.token_ids == answer.token_ids
        same = asyncio.run(model.agenerate(None, "What is red?", max_new_tokens=4))
        assert same.token_ids == answer.token_ids
        requests = [{"prompt": "red", "max_new_tokens": 2}, {"prompt": "circle", "temperature": 1.0, "seed": 1}]
        assert all(isinstance(one, tinygptv_fast.Answer) for one in model.generate_batch(requests))
        assert len(model.rank(None, "Which?", ["red", "blue"])) == 2
        assert model.generate(None, "Which?", choices=["red", "blue"]).text in ("red", "blue")
        assert model.generate(None, "red", num_beams=2, max_new_tokens=2).text is not None
        model.stats()
for wrong in (1, None):
    try:
        tinygptv_fast.TinyGPTV.from_pretrained("demo", dtype=wrong)
    except tinygptv_fast.errors.InvalidArgumentError:
        pass
    else:
        raise AssertionError(f"dtype={wrong} was taken")
assert "torch" not in sys.modules
"""

COMMAND = """
from tinygptv_fast.cli import main

sys.argv = ["tinygptv", "ask", "none", "What is red?", "--model", "demo", "--max-new-tokens", "4"]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("program", [ASKING, COMMAND], ids=["library", "command"])
def test_text_never_imports_torch(program: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TINYGPTV_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", GUARD + program], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
