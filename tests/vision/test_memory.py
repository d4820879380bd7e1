"""What a tower loaded from a mapped file keeps in memory, seen from outside in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from tinygptv_fast.checkpoint.dtypes import code_of
from tinygptv_fast.checkpoint.names import Part
from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile
from tinygptv_fast.checkpoint.writer import SafetensorsWriter

from .conftest import needs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROGRAM = """
import json, sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
import torch
torch.set_num_threads(1)
from vision_weights import real_config, write_directory
from vision import memory_here
config = real_config(56, "int8", layers=3)
write_directory(Path({folder!r}), config)
print(json.dumps(memory_here(Path({folder!r}), config)))
"""


@needs("int8")
def test_int8_weights_are_held_once(tmp_path: Path) -> None:
    """Three blocks of the real widths and the whole Q-Former: 185 MB of int8. A second copy, or one in float32, or the
    pages of the file, would more than double what is held."""
    program = PROGRAM.format(benchmarks=str(BENCHMARKS), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["stored_bytes"] > 180e6
    assert figures["loaded_bytes"] < 1.15 * figures["stored_bytes"], figures
    assert figures["file_pages_bytes"] < 0.2 * figures["stored_bytes"], figures


def test_released_tensors_can_be_read_again(tmp_path: Path) -> None:
    values = {"a": torch.arange(3000, dtype=torch.float32), "b": torch.arange(9000).to(torch.int8).view(90, 100)}
    parts = [Part(n, tuple(v.shape), code_of(v.dtype)) for n, v in values.items()]
    writer = SafetensorsWriter(tmp_path / "w", parts, {})
    for name, tensor in values.items():
        writer.write(name, tensor)
    writer.finish()
    file = SafetensorsFile(tmp_path / "w")
    views = {name: file.tensor(name) for name in values}
    for _ in range(2):
        for name, tensor in values.items():
            assert torch.equal(views[name], tensor)
            file.release(name)
