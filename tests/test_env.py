"""Environment variables: defaults, good values, and every bad value named."""

from __future__ import annotations

import os

import pytest

from tinygptv_fast import env
from tinygptv_fast.errors import ConfigError


def test_nothing_set_means_the_defaults() -> None:
    assert env.read_settings({}) == env.Settings()


def test_good_values() -> None:
    found = env.read_settings(
        {"TINYGPTV_THREADS": "4", "TINYGPTV_LOG": "debug", "TINYGPTV_TRACEBACK": "1", "NO_COLOR": "1", "PATH": "/bin"}
    )
    assert (found.threads, found.log_level, found.traceback, found.color) == (4, "debug", True, False)
    assert found.unknown == ()


def test_no_emulation_is_found_unless_it_is_named() -> None:
    assert env.read_settings({}).cuda_emulation == ""
    named = env.read_settings({"TINYGPTV_CUDA_EMULATION": "/x/lib.so"})
    assert (named.cuda_emulation, named.unknown) == ("/x/lib.so", ())


@pytest.mark.parametrize("name", ["cuda_graphs", "cuda_early_starts"])
def test_what_a_gpu_does_unless_it_is_told_not_to(name: str) -> None:
    variable = f"TINYGPTV_{name.upper()}"
    assert getattr(env.read_settings({}), name) and getattr(env.read_settings({variable: "1"}), name)
    assert not getattr(env.read_settings({variable: "0"}), name)
    with pytest.raises(ConfigError, match=f"{variable} is 'no', expected one of 0, 1"):
        env.read_settings({variable: "no"})


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [("", env.HUB), ("https://hf-mirror.com/", "https://hf-mirror.com"), ("http://127.0.0.1:80/hub", None)],
)
def test_the_hub_and_its_mirrors(given: str, endpoint: str | None) -> None:
    assert env.read_settings({"HF_ENDPOINT": given}).hub_endpoint == (endpoint or given)


@pytest.mark.parametrize(("given", "offline"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("", False)])
def test_being_offline(given: str, offline: bool) -> None:
    assert env.read_settings({"HF_HUB_OFFLINE": given}).hub_offline is offline


def test_an_empty_no_color_is_not_set() -> None:
    assert env.read_settings({"NO_COLOR": ""}).color


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many", "1025", "9" * 5000, "٣", " 2"])
def test_bad_threads(value: str) -> None:
    with pytest.raises(ConfigError, match="TINYGPTV_THREADS"):
        env.read_settings({"TINYGPTV_THREADS": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TINYGPTV_LOG", "LOUD"),
        ("TINYGPTV_TRACEBACK", "yes"),
        ("TINYGPTV_CPU_ISA", "sse9"),
        ("HF_ENDPOINT", "hub"),
        ("HF_HUB_OFFLINE", "perhaps"),
    ],
)
def test_other_bad_values(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        env.read_settings({name: value})


def test_typing_errors_are_listed_and_build_settings_are_not() -> None:
    found = env.read_settings({"TINYGPTV_TREADS": "2", "TINYGPTV_CUDA": "all", "OTHER": "x"})
    assert found.unknown == ("TINYGPTV_TREADS",)


def test_torch_waits_passively_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    env.let_torch_wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    env.let_torch_wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
