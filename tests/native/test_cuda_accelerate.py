"""``accelerate`` on a GPU: the CUDA library compiled for the CPU computes, and what no test here has, the tensors of a
GPU, is checked on one by ``benchmarks/gpu_check.sh`` (benchmarks/gpu_accelerate.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PhiForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

import tinygptv_fast as tgv
from hf.conftest import check_idle
from hf.support import FavourEven, StopAtSum, prompts, random_phi, score_difference, sequences_of
from tinygptv_fast import _native
from tinygptv_fast.errors import CapacityError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.hf.cache import NativeCache
from tinygptv_fast.hf.devices import home_of, to_device, to_host
from tinygptv_fast.hf.model import AcceleratedPhi

VARIABLE = "TINYGPTV_CUDA_EMULATION"
pytestmark = pytest.mark.filterwarnings("ignore:.*emulation on the CPU:RuntimeWarning")
# Sizes that the CUDA kernels take.
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2}
SMALL: dict[str, Any] = {"max_sequences": 4, "kv_tokens": 1024, "threads": 1}
GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
SCORES = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.fixture(scope="module")
def wide() -> PhiForCausalLM:
    # Deviations such that q.k has one near 1 and branches keep their scale: scores then differ by rounding alone.
    return random_phi(std=0.1, **WIDE)


@pytest.fixture(scope="module")
def library(cpp_build: Path) -> Iterator[str]:
    """Every test of this file computes on the emulation when it says device="cuda"."""
    path = str(cpp_build / "csrc" / "tests" / "libtinygptv_cuda_emulated.so")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, path)
        yield path


@pytest.fixture(scope="module")
def _on_cuda(wide: PhiForCausalLM, library: str) -> Iterator[AcceleratedPhi]:
    with tgv.accelerate(wide, device="cuda", **SMALL) as model:
        yield model


@pytest.fixture
def on_cuda(_on_cuda: AcceleratedPhi) -> Iterator[AcceleratedPhi]:
    """Of ``wide``, exact. After the test no request runs and no sequence is held."""
    _on_cuda.native = True
    yield _on_cuda
    check_idle(_on_cuda)


CALLS: dict[str, tuple[str, dict[str, Any], str]] = {
    "greedy": ("left", {}, "native"),
    "penalty": ("left", {"repetition_penalty": 1.3}, "native"),
    "beams": ("left", {"num_beams": 3}, "loop"),
    "scores": ("left", SCORES, "loop"),
    "processor": ("left", {"logits_processor": [FavourEven()]}, "loop"),
    "criterion": ("three", {"stopping_criteria": [StopAtSum()]}, "loop"),
    "right": ("right", {}, "torch"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_give_what_torch_gives(name: str, on_cuda: AcceleratedPhi, wide: PhiForCausalLM) -> None:
    kind, keywords, route = CALLS[name]
    keywords = {**GREEDY, **prompts(kind).keywords(), **keywords}
    expected, found = wide.generate(**keywords), on_cuda.generate(**keywords)
    assert on_cuda.last_route.split(":")[0] == route
    assert torch.equal(sequences_of(found), sequences_of(expected))
    assert score_difference(found, expected) < 1e-4


def test_embeddings_and_a_cache_that_goes_on(on_cuda: AcceleratedPhi, wide: PhiForCausalLM) -> None:
    ids = prompts("three").ids
    vectors = wide.get_input_embeddings()(ids).detach()
    expected = wide.generate(inputs_embeds=vectors, **GREEDY)
    assert torch.equal(on_cuda.generate(inputs_embeds=vectors, **GREEDY), expected)
    first = on_cuda(ids[:, :4])
    second = on_cuda(ids[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, wide(ids).logits[:, 4:].detach(), rtol=0, atol=1e-4)
    first.past_key_values.release()


def test_sampling_repeats_the_cpu(on_cuda: AcceleratedPhi, wide: PhiForCausalLM) -> None:
    keywords = {**prompts("left").keywords(), "max_new_tokens": 6, "do_sample": True, "temperature": 0.8, "top_k": 20}
    torch.manual_seed(5)
    found = on_cuda.generate(**keywords)
    with tgv.accelerate(wide, **SMALL) as cpu:
        torch.manual_seed(5)
        assert torch.equal(found, cpu.generate(**keywords))
        assert (cpu.info["device"], on_cuda.info["device"]) == ("cpu", "cuda")
    assert "emulation" in on_cuda.info["gpu"]


@pytest.mark.parametrize(
    ("arguments", "dtype", "error"),
    [({"quantization": "int8"}, torch.float32, 0.05), ({"quantization": "int4"}, torch.float32, 0.4),
     ({"dtype": "bfloat16"}, torch.float32, 0.03), ({}, torch.float16, 0.01)],
)  # fmt: skip
def test_other_forms(
    arguments: dict[str, Any], dtype: torch.dtype, error: float, library: str, wide: PhiForCausalLM
) -> None:
    """Relative L2 of the logits, some times what the rounding of one matrix costs."""
    ids = prompts("three").ids
    with tgv.accelerate(random_phi(std=0.1, **WIDE).to(dtype), device="cuda", **SMALL, **arguments) as ours:
        expected, found = wide(ids).logits.detach(), ours(ids).logits
        assert float((found - expected).norm() / expected.norm()) < error
        assert ours.info["dtype"] == ("float16" if dtype == torch.float16 else ours.info["dtype"])


def test_memory_is_shared_by_the_two_caches(library: str, wide: PhiForCausalLM, monkeypatch: Any) -> None:
    """Without kv_tokens: full contexts for both where they fit, and less where not."""
    small = {name: value for name, value in SMALL.items() if name != "kv_tokens"}
    with tgv.accelerate(wide, device="cuda", **small) as ours:
        assert ours.info["kv_tokens"] == 4 * 128
    plan, asked = _native.cuda_memory_plan, []

    def crowded(*given: Any, **more: Any) -> dict[str, int]:
        found = plan(*given, **more)
        asked.append(more["steps"])
        return {**found, "free_bytes": 0 if more["steps"] else found["free_bytes"]}

    monkeypatch.setattr(_native, "cuda_memory_plan", crowded)
    with pytest.raises(CapacityError, match="no room on the GPU: needed are 0 bytes of weights"):
        tgv.accelerate(wide, device="cuda", **small)
    assert asked[0] is None and asked[-1] == (256, 64)


def test_it_belongs_to_its_device(on_cuda: AcceleratedPhi) -> None:
    assert on_cuda.computes_on == "cuda" and on_cuda.device.type == "cpu"
    assert on_cuda.to("cuda") is on_cuda and on_cuda.cuda() is on_cuda
    with pytest.raises(UnsupportedError, match="packed for a GPU, accelerate again"):
        on_cuda.to("cpu")


@pytest.mark.parametrize("device", ["meta", "cuda:1", 7, "gpu", 2.5])
def test_other_devices_are_named(device: Any, wide: PhiForCausalLM) -> None:
    with pytest.raises(InvalidArgumentError, match=r"device is .*expected None, 'cpu' or 'cuda'"):
        tgv.accelerate(wide, device=device)


def test_a_model_without_weights_is_refused(wide: PhiForCausalLM) -> None:
    with torch.device("meta"):
        empty = PhiForCausalLM(wide.config).eval()
    with pytest.raises(UnsupportedError, match="is on meta, expected the CPU or a GPU"):
        tgv.accelerate(empty)


def test_without_a_gpu_there_is_one_error(wide: PhiForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(_native, "cuda_why_not", lambda: "planted")
    with pytest.raises(UnsupportedError, match="device is 'cuda', but it cannot be used: planted"):
        tgv.accelerate(wide, device="cuda")


# --- tensors ----------------------------------------------------------------------------------------------------------
def test_tensors_that_hold_nothing_are_refused(on_cuda: AcceleratedPhi) -> None:
    with pytest.raises(InvalidArgumentError, match="inputs is on meta, expected the CPU or a GPU"):
        on_cuda.generate(torch.zeros(1, 3, dtype=torch.int64, device="meta"), **GREEDY)
    with pytest.raises(InvalidArgumentError, match="mask is on meta"):
        on_cuda(torch.zeros(1, 3, dtype=torch.int64), attention_mask=torch.ones(1, 3, device="meta"))


def test_results_go_where_the_prompt_was() -> None:
    """With "meta" in the GPU's place: the way there alone, which copies nothing."""
    meta = torch.device("meta")
    assert home_of({"attention_mask": torch.ones(1), "inputs": torch.ones(1, device=meta)}) == meta
    assert home_of({"inputs_embeds": None}).type == "cpu"
    assert to_host({"a": torch.ones(2), "b": 3}) == {"a": pytest.approx(torch.ones(2)), "b": 3}
    cache = object.__new__(NativeCache)
    output = CausalLMOutputWithPast(logits=torch.ones(1, 2), past_key_values=cache, hidden_states=(torch.ones(1),))
    moved = to_device(output, meta)
    assert type(moved) is CausalLMOutputWithPast and moved.past_key_values is cache
    assert moved.logits.device == moved.hidden_states[0].device == meta and moved.loss is None
    assert to_device(output, torch.device("cpu")) is output
