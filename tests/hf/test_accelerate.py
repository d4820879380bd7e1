"""What ``accelerate`` and ``generate`` take, and the sentence each mistake gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PhiForCausalLM

import tinygptv_fast as tgv
from hf.support import phi_config, prompts, random_phi
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.hf.architecture import read_shape
from tinygptv_fast.hf.model import AcceleratedPhi

ROOT = Path(__file__).resolve().parents[2]
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 119}


def test_transformers_is_imported_by_accelerate_alone() -> None:
    code = "import sys, tinygptv_fast as tgv; tgv.hf, tgv.accelerate; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the model --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"num_attention_heads": 6, "hidden_size": 60}, "head_dim is 10"),
        ({"partial_rotary_factor": 0.2}, "partial_rotary_factor is 0.2"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"hidden_size": 66}, "hidden_size is 66"),
        ({"max_position_embeddings": 0}, "max_positions is 0"),
    ],
)
def test_a_config_that_cannot_run_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    config = phi_config()
    fields = {**config.to_dict(), **changes}
    rope = {"rope_theta": 1e4, "partial_rotary_factor": fields.get("partial_rotary_factor", 0.5)}
    fields |= {"rope_parameters": {**rope, "rope_type": "default"}}

    class Config:
        """Fields as transformers has them, without its own checks."""

    values = Config()
    values.__dict__.update(fields)
    with pytest.raises(UnsupportedError, match=words):
        read_shape(values, [])


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_scaled_rotary_positions_are_refused(field: str) -> None:
    class Config:
        """As of either major."""

    values = Config()
    values.__dict__.update({**phi_config().to_dict(), "rope_parameters": None, "rope_theta": 1e4})
    setattr(values, field, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5})
    with pytest.raises(UnsupportedError, match=f"{field} is .*linear"):
        read_shape(values, [])


def test_models_that_cannot_run_are_refused(phi: PhiForCausalLM) -> None:
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2,
        )
    ).eval()  # fmt: skip
    with pytest.raises(UnsupportedError, match="model_type is 'llama'"):
        tgv.accelerate(llama)
    for wrong in ("microsoft/phi-2", None, torch.nn.Linear(2, 2)):
        with pytest.raises(InvalidArgumentError, match=r"model is .*expected"):
            tgv.accelerate(wrong)
    with pytest.raises(InvalidArgumentError, match="does not generate"):
        tgv.accelerate(phi.model)
    strange = random_phi()
    strange.model.layers[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedError, match=r"layers\.0\.extra\.weight"):
        tgv.accelerate(strange)
    poisoned = random_phi()
    poisoned.lm_head.weight.data[3, 4] = float("nan")
    with pytest.raises(CheckpointError, match=r"text\.head\.weight holds NaN"):
        tgv.accelerate(poisoned)
    with pytest.raises(UnsupportedError, match="float64"):
        tgv.accelerate(random_phi().double())
    with pytest.raises(InvalidArgumentError, match="in training with resid_pdrop"):
        tgv.accelerate(random_phi(resid_pdrop=0.1).train())
    with tgv.accelerate(phi, kv_tokens=256) as once, pytest.raises(InvalidArgumentError, match="accelerated already"):
        tgv.accelerate(once)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"quantization": "int3"}, "quantization is 'int3'"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"dtype": torch.float16}, "dtype is torch.float16"),
        ({"dtype": "float32", "quantization": "int4"}, "expected only one of them"),
        ({"optimize_memory": 1}, "optimize_memory is 1"),
        ({"threads": 0}, "threads is 0"),
        ({"max_sequences": None}, "max_sequences is None"),
        ({"kv_tokens": 2.5}, r"kv_tokens is 2\.5"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], words: str, phi: PhiForCausalLM) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        tgv.accelerate(phi, **arguments)


# --- memory and forms -------------------------------------------------------------------------------------------------
def test_optimize_memory_frees_the_torch_weights(phi: PhiForCausalLM) -> None:
    twin = random_phi()
    with tgv.accelerate(twin, optimize_memory=True, kv_tokens=512, threads=1) as ours:
        assert sum(p.numel() for p in twin.parameters()) == 0
        assert torch.equal(ours.generate(prompts("one").ids, **GREEDY), phi.generate(prompts("one").ids, **GREEDY))
        with pytest.raises(UnsupportedError, match=r"padding on the right.*pad on the left"):
            ours.generate(**prompts("right").keywords(), **GREEDY)
        with pytest.raises(UnsupportedError, match="get_input_embeddings"):
            ours.get_input_embeddings()


def test_tied_weights_are_freed_once_both_are_packed() -> None:
    plain, twin = random_phi(tie_word_embeddings=True), random_phi(tie_word_embeddings=True)
    with tgv.accelerate(twin, optimize_memory=True, kv_tokens=512, threads=1) as ours:
        assert torch.equal(ours.generate(prompts("one").ids, **GREEDY), plain.generate(prompts("one").ids, **GREEDY))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"quantization": "int8"}, 0.05), ({"quantization": "int4"}, 0.4), ({"dtype": "bfloat16"}, 0.03)],
)
def test_rounded_weights_stay_near(arguments: dict[str, Any], error: float, phi: PhiForCausalLM) -> None:
    """Relative L2 of the logits, some times what the rounding of one matrix costs."""
    ids = prompts("three").ids
    with tgv.accelerate(phi, kv_tokens=512, threads=1, **arguments) as ours:
        expected, actual = phi(ids).logits.detach(), ours(ids).logits
        assert float((actual - expected).norm() / expected.norm()) < error
        engine = ours.generate(**prompts("left").keywords(), **GREEDY)
        ours.native = False
        assert torch.equal(engine, ours.generate(**prompts("left").keywords(), **GREEDY))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_values(dtype: torch.dtype, phi: PhiForCausalLM) -> None:
    theirs = random_phi().to(dtype)
    exact = random_phi()
    exact.load_state_dict({name: value.float() for name, value in theirs.state_dict().items()})
    with tgv.accelerate(theirs, dtype="float32", kv_tokens=512, threads=1) as ours:
        assert ours.dtype == dtype
        ids = prompts("three").ids
        torch.testing.assert_close(ours(ids).logits, exact(ids).logits.detach(), rtol=0, atol=1e-4)
        assert torch.equal(ours.generate(ids, **GREEDY), exact.generate(ids, **GREEDY))


# --- the object -------------------------------------------------------------------------------------------------------
def test_it_is_a_model_of_the_cpu(accelerated: AcceleratedPhi, phi: PhiForCausalLM) -> None:
    assert accelerated.device.type == "cpu" and accelerated.dtype == torch.float32
    assert accelerated.config.hidden_size == phi.config.hidden_size and accelerated.can_generate()
    assert accelerated.to("cpu") is accelerated and accelerated.eval() is accelerated
    assert accelerated.info["quantization"] == "none"
    for use in (
        lambda: accelerated.to("cuda"),
        lambda: accelerated.to(dtype=torch.float16),
        accelerated.cuda,
        accelerated.half,
        accelerated.bfloat16,
        lambda: accelerated.save_pretrained("somewhere"),
    ):
        with pytest.raises(UnsupportedError, match=r"accelerate (it )?again"):
            use()
    with pytest.raises(UnsupportedError, match="train"):
        accelerated.train()
    embeddings = accelerated.get_input_embeddings()(prompts("one").ids)
    assert torch.equal(embeddings, phi.get_input_embeddings()(prompts("one").ids))


def test_a_generation_config_is_merged_as_in_torch(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    config = GenerationConfig(max_new_tokens=9, repetition_penalty=1.5, eos_token_id=3, pad_token_id=0, do_sample=False)
    for keywords in ({}, {"repetition_penalty": 1.1}, {"max_new_tokens": 4, "num_beams": 2}):
        expected = phi.generate(**prompts("left").keywords(), generation_config=config, **keywords)
        actual = accelerated.generate(**prompts("left").keywords(), generation_config=config, **keywords)
        assert torch.equal(actual, expected)
    accelerated.generation_config.max_length = 11
    try:
        assert accelerated.generate(prompts("one").ids, do_sample=False, eos_token_id=[]).shape == (1, 11)
    finally:
        accelerated.generation_config.max_length = phi.generation_config.max_length


def test_padding_is_inferred_as_in_torch(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    """Without attention_mask, ids that equal pad_token_id are padding, unless they end a row."""
    for kind in ("left", "right"):
        for pad in (0, 3):
            ids = torch.where(prompts(kind).ids == 0, pad, prompts(kind).ids)
            keywords = {**GREEDY, "eos_token_id": 3, "pad_token_id": pad}
            assert torch.equal(accelerated.generate(ids, **keywords), phi.generate(ids, **keywords))


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"max_new_token": 3}, "no argument 'max_new_token'; the nearest is 'max_new_tokens'"),
    "unknown 2": ({"atention_mask": None}, "the nearest is 'attention_mask'"),
    "attentions": ({"output_attentions": True}, "output_attentions is True"),
    "hidden states": ({"output_hidden_states": True}, "output_hidden_states is True"),
    "positions": ({"position_ids": torch.zeros(1, 7)}, "position_ids is Tensor"),
    "static cache": ({"cache_implementation": "static"}, "cache_implementation is 'static'"),
    "mask type": ({"attention_mask": [[1] * 7]}, "attention_mask is list, expected a torch.Tensor"),
    "mask shape": (
        {"attention_mask": torch.ones(1, 5, dtype=torch.int64)},
        "attention_mask is .1, 5., expected .1, 7.",
    ),
    "mask of nothing": ({"attention_mask": torch.zeros(1, 7, dtype=torch.int64)}, "is all 0"),
    "config type": ({"generation_config": {"max_length": 3}}, "generation_config is dict"),
    "custom": ({"custom_generate": "somebody/something"}, "custom_generate is 'somebody/something'"),
    "beams": ({"num_beams": 0}, "num_beams is 0, expected an integer >= 1"),
    "length": ({"max_new_tokens": 2.5}, r"max_new_tokens is 2\.5, expected an integer >= 1"),
    "top_p": ({"top_p": 1.5, "do_sample": True}, r"top_p is 1\.5, expected a number in 0\.\.1"),
    "top_k": ({"top_k": "many"}, "top_k is 'many', expected an integer >= 0"),
    "returned": ({"num_return_sequences": 3}, "num_return_sequences"),
    "temperature": ({"temperature": -1.0, "do_sample": True}, "temperature"),
    "penalty": ({"repetition_penalty": -0.5}, "penalty"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_argument_of_generate_is_named(name: str, accelerated: AcceleratedPhi) -> None:
    keywords, words = MISTAKES[name]
    with pytest.raises((ValueError, UnsupportedError), match=words):
        accelerated.generate(prompts("one").ids, **{**GREEDY, **keywords})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_ids": torch.tensor([[5, 120]])}, r"input_ids has 120, expected 0\.\.119"),
        ({"input_ids": torch.tensor([[5, -1]])}, "input_ids has -1"),
        ({"input_ids": torch.tensor([5, 6])}, r"input_ids is \[2\], expected a tensor \[B, T\]"),
        ({"input_ids": torch.tensor([[5.0]])}, "input_ids is torch.float32"),
        ({}, "exactly one of the two"),
        ({"inputs_embeds": torch.zeros(1, 3, 5)}, r"inputs_embeds is \[1, 3, 5\]"),
        ({"input_ids": torch.tensor([[5]]), "logits_to_keep": 4}, "logits_to_keep is 4"),
        ({"input_ids": torch.tensor([[5]]), "labels": torch.tensor([[5]])}, "labels is Tensor"),
        ({"input_ids": torch.tensor([[5]]), "token_type": 1}, "no argument 'token_type'"),
        ({"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, 1, 1, 1)}, "attention_mask is"),
    ],
)
def test_a_wrong_argument_of_forward_is_named(given: dict[str, Any], words: str, accelerated: AcceleratedPhi) -> None:
    with pytest.raises((InvalidArgumentError, UnsupportedError), match=words):
        accelerated(**given)


def test_the_example_runs() -> None:
    script = ROOT / "examples" / "drop_in_transformers.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "equal: True" in done.stdout
