"""``past_key_values`` and direct forward passes: what was computed is used again, exactly."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PhiForCausalLM

import tinygptv_fast as tgv
from hf.support import prompts
from tinygptv_fast.errors import CapacityError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.hf.cache import NativeCache
from tinygptv_fast.hf.model import AcceleratedPhi

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 119}


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["one", "three"])
def test_logits_of_all_positions(kind: str, phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    ids = prompts(kind).ids
    embeddings = phi.get_input_embeddings()(ids)
    expected = phi(ids).logits
    close(accelerated(ids).logits, expected)
    close(accelerated(inputs_embeds=embeddings.detach()).logits, expected)
    close(accelerated(ids, logits_to_keep=2).logits, expected[:, -2:])
    close(accelerated(ids, logits_to_keep=torch.tensor([1, 3])).logits, expected[:, [1, 3]])
    assert accelerated(ids, use_cache=False).past_key_values is None
    assert isinstance(accelerated(ids, return_dict=False), tuple)


def test_a_long_prompt_is_cut_into_steps() -> None:
    from hf.support import random_phi

    theirs = random_phi(max_position_embeddings=1024, std=0.2)
    ids = torch.randint(6, 120, (2, 700), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :300] = 0
    with tgv.accelerate(theirs, kv_tokens=4096, threads=1) as ours:
        actual, expected = ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits
        close(actual[mask == 1], expected[mask == 1])
        assert float(actual[mask == 0].abs().max()) == 0


def test_step_by_step(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    """A prompt in three parts, one of them with padding, equals the whole."""
    given = prompts("left")
    assert given.mask is not None
    cache = None
    for first, last in ((0, 6), (6, 7), (7, 9)):
        out = accelerated(given.ids[:, first:last], attention_mask=_filled(given.mask[:, :last]), past_key_values=cache)
        cache = out.past_key_values
    assert cache.get_seq_length() == 9 and cache is out.past_key_values
    close(out.logits[:, -1], phi(given.ids, attention_mask=_filled(given.mask)).logits[:, -1])


def _filled(mask: torch.Tensor) -> torch.Tensor:
    """Rows that begin with padding and have a token by column 5."""
    return mask.clone().index_fill_(1, torch.tensor([5]), 1) if mask.shape[1] > 5 else mask


@pytest.mark.parametrize("beams", [1, 3])
def test_a_conversation_goes_on_where_it_was(beams: int, phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    given = prompts("left")
    first = accelerated.generate(**given.keywords(), return_dict_in_generate=True, **GREEDY)
    assert isinstance(first.past_key_values, NativeCache)
    more = torch.randint(6, 120, (3, 4), generator=torch.Generator().manual_seed(8))
    ids = torch.cat([first.sequences, more], dim=1)
    mask = torch.cat([given.mask, torch.ones(3, ids.shape[1] - 9, dtype=torch.int64)], dim=1)
    cache = first.past_key_values
    if beams > 1:
        cache.batch_repeat_interleave(beams)
    fed = accelerated.stats()["sequences"]["sequences"]
    again = accelerated.generate(ids, attention_mask=mask, past_key_values=cache, num_beams=beams, **GREEDY)
    assert torch.equal(again, phi.generate(ids, attention_mask=mask, num_beams=beams, **GREEDY))
    assert fed == 3 * beams and accelerated.last_route.startswith("loop")
    del first, cache
    gc.collect()  # memory goes back with the last reference: the fixture looks


def test_a_prompt_is_shared_by_copies(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    """transformers' way to reuse a prompt: fill a cache once, then a deep copy for each question."""
    ids = prompts("one").ids
    filled = accelerated(ids).past_key_values
    for seed in (1, 2):
        whole = torch.cat([ids, torch.randint(6, 120, (1, 5), generator=torch.Generator().manual_seed(seed))], dim=1)
        actual = accelerated.generate(whole, past_key_values=copy.deepcopy(filled), **GREEDY)
        assert torch.equal(actual, phi.generate(whole, **GREEDY))
    assert filled.get_seq_length() == 7


def test_rows_are_chosen_and_cropped(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    ids = prompts("three").ids
    cache = accelerated(ids).past_key_values
    cache.reorder_cache(torch.tensor([2, 2, 0]))
    cache.crop(6)
    assert cache.get_seq_length() == 6 and cache.max_batch_size == 3
    close(accelerated(ids[[2, 2, 0], 6:], past_key_values=cache).logits, phi(ids[[2, 2, 0]]).logits[:, 6:])
    cache.crop(-2)
    assert cache.get_seq_length() == 7
    cache.batch_select_indices(torch.tensor([1]))
    close(accelerated(ids[2:, 7:], past_key_values=cache).logits, phi(ids[2:]).logits[:, 7:])
    cache.reset()
    assert accelerated.stats()["sequences"]["sequences"] == 0


def test_caches_of_others_are_refused(phi: PhiForCausalLM, accelerated: AcceleratedPhi) -> None:
    ids = prompts("one").ids
    torch_cache = phi(ids, use_cache=True).past_key_values
    assert isinstance(torch_cache, DynamicCache)
    with pytest.raises(UnsupportedError, match="past_key_values is DynamicCache"):
        accelerated.generate(ids, past_key_values=torch_cache, **GREEDY)
    with tgv.accelerate(phi, kv_tokens=256, threads=1) as other:
        cache = other(ids).past_key_values
        with pytest.raises(InvalidArgumentError, match="another model"):
            accelerated(ids, past_key_values=cache)
        with pytest.raises(InvalidArgumentError, match="rows, expected the 1"):
            other(prompts("three").ids, past_key_values=cache)


def test_capacity_is_said_and_nothing_kept(phi: PhiForCausalLM) -> None:
    with tgv.accelerate(phi, kv_tokens=128, threads=1) as small:
        with pytest.raises(CapacityError, match="larger kv_tokens than 128"):
            small.generate(prompts("three").ids, num_beams=4, **GREEDY)
        assert small.stats()["sequences"]["sequences"] == 0
        assert small.generate(prompts("one").ids, num_beams=2, **GREEDY).shape == (1, 13)
    with tgv.accelerate(phi, kv_tokens=32, threads=1) as tiny, pytest.raises(CapacityError, match="kv_tokens is 32"):
        tiny.generate(prompts("one").ids, **{**GREEDY, "max_new_tokens": 60})
    with tgv.accelerate(phi, kv_tokens=2048, threads=1) as ours:
        keywords = {**GREEDY, "max_new_tokens": 123, "eos_token_id": [], "return_dict_in_generate": True}
        with pytest.raises(UnsupportedError, match=r"129 positions.*max_position_embeddings is 128"):
            ours.generate(prompts("one").ids, **keywords)
