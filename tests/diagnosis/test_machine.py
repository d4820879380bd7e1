"""What the machine report reads from the system, and the predictions made from sizes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tinygptv_fast.checkpoint.directory import ModelDirectory
from tinygptv_fast.config import ModelConfig, QuantizationConfig, TextConfig
from tinygptv_fast.diagnosis.machine import inspect_machine
from tinygptv_fast.diagnosis.settings import RELEASED, kv_bytes, predict, predict_one, reference_bytes, stored_bytes
from tinygptv_fast.memory import read_memory

GIB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    meminfo = (
        f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\nHugePages_Total: 0\n"
    )
    for name, text in {"proc/meminfo": meminfo, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_without_limits(tmp_path: Path) -> None:
    mode = "always [madvise] never\n"
    found = read_memory(system(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": mode}))
    assert (found.total_bytes, found.usable_bytes, found.limit_bytes) == (16 * GIB, 8 * GIB, None)
    assert found.huge_pages == "madvise"


def test_the_smallest_limit_of_nested_v2_groups_counts(tmp_path: Path) -> None:
    found = read_memory(
        system(
            tmp_path,
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/job/memory.current": f"{3 * GIB}\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
            },
        )
    )
    assert (found.limit_bytes, found.usable_bytes) == (4 * GIB, GIB)


def test_v1_groups(tmp_path: Path) -> None:
    found = read_memory(
        system(
            tmp_path,
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/box\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",  # v1's "no limit"
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{GIB // 2}\n",
            },
        )
    )
    assert (found.limit_bytes, found.usable_bytes) == (2 * GIB, 2 * GIB - GIB // 2)


def test_usable_memory_is_never_negative(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "2000\n",
    }
    assert read_memory(system(tmp_path, files)).usable_bytes == 0


def test_this_machine() -> None:
    found = inspect_machine(1)
    assert found.threads == 1 and found.read_bandwidth is not None and found.read_bandwidth > 1e8
    assert 1 <= found.physical_cores <= found.logical_cpus
    assert 0 < found.memory.usable_bytes <= found.memory.total_bytes
    assert found.packages["torch"] and found.instruction_sets
    assert bool(found.gpus) is not bool(found.cuda_why_not)
    json.dumps(found.to_dict(), allow_nan=False)


def test_bandwidth_only_when_asked_for() -> None:
    assert inspect_machine(1, measure_bandwidth=False).read_bandwidth is None


def test_int4_bytes_per_token_of_the_released_model() -> None:
    """Body 2.5166e9 and head 0.131e9 weights at 4.5 bits, and float32 norms and biases of a few MB."""
    found = predict_one(
        dataclasses.replace(RELEASED, quantization=QuantizationConfig(text="int4", vision="int8")),
        usable_bytes=GIB,
        read_bandwidth=30e9,
    )
    weights = 32 * (3 * 2560 * 2560 + 2560 * 2560 + 2 * 2560 * 10240) + 51200 * 2560
    small = found.token_bytes - weights * 4.5 / 8
    assert 0 < small < 0.01e9
    assert found.decode_limit == pytest.approx(30e9 / found.token_bytes)
    assert not found.fits and found.memory_bytes > found.file_bytes > found.token_bytes


def test_predicted_bytes_are_those_of_a_real_directory(directory: ModelDirectory) -> None:
    size = (directory.path / "model.safetensors").stat().st_size
    header = int.from_bytes((directory.path / "model.safetensors").read_bytes()[:8], "little")
    # What remains is alignment between tensors, at most 64 bytes before each.
    tensors = len(stored_bytes(directory.config))
    assert 0 <= size - 8 - header - sum(stored_bytes(directory.config).values()) <= 3 * 64 * tensors


def test_smaller_settings_need_less_and_fit_first() -> None:
    found = predict(RELEASED, usable_bytes=5 * 10**9, read_bandwidth=None)
    assert [(one.text, one.vision) for one in found][:2] == [("int4", "int8"), ("int4", "bfloat16")]
    sizes = [one.memory_bytes for one in found if one.vision == "int8"]
    assert sizes == sorted(sizes) and len(found) == 9
    assert found[0].fits and not found[-1].fits and found[0].decode_limit is None


def test_text_only_models_have_no_vision_settings() -> None:
    config = ModelConfig(text=TextConfig())
    assert len(predict(config, usable_bytes=GIB, read_bandwidth=1e9)) == 3


def test_keys_and_values_and_the_reference_backend() -> None:
    assert kv_bytes(RELEASED, 1) == 327_680
    assert kv_bytes(RELEASED, 10**9) == 327_680 * RELEASED.text.max_positions
    assert reference_bytes(RELEASED) > 4 * 3.7e9
