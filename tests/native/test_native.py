"""The module ``_native``: what it says about this machine and how its errors arrive."""

from __future__ import annotations

import os
import threading

import pytest

from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, TinyGPTVError, UnsupportedError

# Names of /proc/cpuinfo for our names.
FLAGS = {
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512dq": "avx512dq",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
}


def test_build_info_is_complete() -> None:
    info = _native.build_info()
    assert set(info) == {"version", "compiler", "cuda"}
    assert info["version"]
    assert info["cuda"] in ("off", "native", "all")
    assert _native.cuda_built() == (info["cuda"] != "off")


def test_cpu_features_agree_with_the_kernel() -> None:
    features = _native.cpu_features()
    assert set(features) == set(FLAGS)
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        line = next((line for line in file if line.startswith("flags")), None)
    assert line is not None or not any(features.values())
    flags = set((line or "").split())
    assert {name for name, present in features.items() if present} == {n for n, flag in FLAGS.items() if flag in flags}


def test_affinity_and_cores() -> None:
    assert set(_native.affinity_cpus()) == os.sched_getaffinity(0)
    assert 1 <= _native.physical_cores() <= len(os.sched_getaffinity(0))
    assert _native.cgroup_cpu_quota() >= 0


def test_read_bandwidth_is_plausible() -> None:
    rate = _native.read_bandwidth(threads=1, bytes=16 << 20, passes=3)
    assert 1e7 < rate < 1e13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": -1}, "threads is -1"),
        ({"passes": 0}, "passes is 0"),
        ({"bytes": -5}, "bytes is 0"),
        ({"threads": 100_000}, "threads is 100000"),
    ],
)
def test_bad_arguments_raise_our_errors(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _native.read_bandwidth(**arguments)


def test_the_gil_is_released() -> None:
    """Another Python thread makes progress while a native computation runs."""
    stop, steps = threading.Event(), 0

    def count() -> None:
        nonlocal steps
        while not stop.is_set():
            steps += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before = steps
        _native.read_bandwidth(threads=1, bytes=64 << 20, passes=30)
        during = steps - before
    finally:
        stop.set()
        thread.join()
    assert during > 0


def test_without_a_gpu_every_cuda_call_gives_the_reason() -> None:
    reason = _native.cuda_why_not()
    if not reason:
        assert _native.cuda_device_count() >= 1
        assert _native.cuda_device_info(0)["multiprocessors"] >= 1
        return
    with pytest.raises(UnsupportedError) as caught:
        _native.cuda_device_info(0)
    assert str(caught.value) == reason
    assert isinstance(caught.value, TinyGPTVError)
