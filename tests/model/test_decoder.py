"""The native decoder step against the reference, and against itself however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.support import ids, pack, random_backbone, small_config, stored_tensors
from tinygptv_fast import _native
from tinygptv_fast.errors import CapacityError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.reference.quantized_phi import quantized_logits

LENGTH = 300  # past one cut of the attention


def decoder(weights: _native.Weights, **settings: object) -> _native.Decoder:
    return _native.Decoder(weights, **{"threads": 1, "kv_tokens": 2048, "max_logit_rows": 256, **settings})


def run(stepper: _native.Decoder, tokens: list[int], chunks: list[int]) -> np.ndarray:
    """Logits of every position, the prompt cut into ``chunks`` (the last one repeats)."""
    sequence, out, at = stepper.start(len(tokens)), [], 0
    while at < len(tokens):
        chunk = tokens[at : at + chunks[min(len(out), len(chunks) - 1)]]
        out.append(stepper.step([(sequence, chunk, len(chunk))]))
        at += len(chunk)
    stepper.release(sequence)
    return np.concatenate(out)


CONFIGS = {
    "tinygptv": {},
    "stock_phi": {"qk_norm": False, "post_attention_norm": False},
    "head_dim_80": {"width": 160, "heads": 2, "head_dim": 80, "rotary_dims": 32},
    "no_rotary": {"rotary_dims": 0},
    "odd_sizes": {"width": 20, "heads": 1, "head_dim": 20, "mlp_width": 33, "vocab_size": 7, "rotary_dims": 20},
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("isa", _native.isas())
def test_exact_mode_equals_the_reference(changes: dict[str, object], isa: str) -> None:
    config = small_config(**changes)
    model = random_backbone(config)
    tokens = ids(LENGTH, config.vocab_size)
    expected = model.logits(model(model.embed(torch.tensor(tokens))[None]))[0].numpy()
    stepper = decoder(pack(config, stored_tensors(model, "f32"), "f32"), kv_kind="f32", isa=isa)
    found = run(stepper, tokens, [256, 1, 17])
    # 2e-4: what the original's recorded outputs are held to; logits here are of order 1.
    assert np.abs(found - expected).max() < 2e-4


@pytest.mark.parametrize("form", ["int4", "int8", "bf16", "f32"])
@pytest.mark.parametrize("kv_kind", ["int8", "f16", "bf16", "f32"])
def test_bits_do_not_depend_on_chunks_threads_or_company(form: str, kv_kind: str) -> None:
    config = small_config()
    weights = pack(config, stored_tensors(random_backbone(config), form), form)
    tokens = ids(LENGTH, config.vocab_size)
    alone = run(decoder(weights, kv_kind=kv_kind), tokens, [1])
    for threads, chunks in ((1, [256]), (2, [7]), (3, [64, 1, 100])):
        assert np.array_equal(alone, run(decoder(weights, kv_kind=kv_kind, threads=threads), tokens, chunks))

    # Four others of other lengths in every step.
    stepper = decoder(weights, kv_kind=kv_kind, threads=2, max_tokens=64, max_logit_rows=16)
    others = [stepper.start(400) for _ in range(4)]
    for index, other in enumerate(others):
        stepper.step([(other, ids(10 + 13 * index, config.vocab_size, seed=index + 2), 1)])
    mine, found = stepper.start(LENGTH), []
    for at in range(0, 40, 2):
        parts = [(other, [at % 7], 1) for other in others]
        parts.insert(at % 5, (mine, tokens[at : at + 2], 2))
        found.append(stepper.step(parts)[at % 5 : at % 5 + 2])
    assert np.array_equal(np.concatenate(found), alone[:40])


TWINS = [("int4", 32, True), ("int4", 128, False), ("int8", 32, True)]


@pytest.mark.parametrize("kv_kind", ["int8", "f16", "bf16", "f32"])
@pytest.mark.parametrize(("form", "group_size", "symmetric"), TWINS)
def test_a_whole_step_equals_its_twin(form: str, group_size: int, symmetric: bool, kv_kind: str) -> None:
    # Where all levels of activations, K and V come out alike, only float32 sums differ. One of some ten thousand levels
    # lies so near to a border that float64 rounds it the other way; from then on that sequence is another one. So:
    # short sequences, most of them without such a level, and none further off than a few levels can move it.
    config = small_config(width=320, heads=4, head_dim=80, rotary_dims=32, mlp_width=640, layers=2)
    tensors = stored_tensors(random_backbone(config), form, group_size, symmetric)
    packed = pack(config, tensors, form, group_size, symmetric)
    for isa in _native.isas():
        stepper, errors = decoder(packed, kv_kind=kv_kind, isa=isa), []
        for seed in range(8):
            tokens = ids(3, config.vocab_size, seed)
            expected = quantized_logits(config, tensors, torch.tensor(tokens), kv_kind).numpy()
            found = run(stepper, tokens, [3])
            errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
        assert np.median(errors) < 1e-4 and max(errors) < 2e-2, errors


def test_truncated_positions_are_forgotten() -> None:
    config = small_config()
    weights = pack(config, stored_tensors(random_backbone(config), "int4"), "int4")
    tokens = ids(60, config.vocab_size)
    expected = run(decoder(weights), tokens, [60])
    stepper = decoder(weights)
    sequence = stepper.start(60)
    stepper.step([(sequence, tokens[:40], 0)])
    stepper.step([(sequence, [1, 2, 3], 3)])
    stepper.truncate(sequence, 40)
    assert np.array_equal(stepper.step([(sequence, tokens[40:], 20)]), expected[40:])


def test_forks_go_their_own_ways_and_sequences_grow() -> None:
    config = small_config()
    weights = pack(config, stored_tensors(random_backbone(config), "f32"), "f32")
    tokens, other = ids(60, config.vocab_size), ids(20, config.vocab_size, seed=5)
    expected = run(decoder(weights), tokens, [60])
    stepper = decoder(weights, kv_tokens=160)
    first = stepper.start(1)
    stepper.extend(first, 40)
    stepper.step([(first, tokens[:40], 0)])
    second = stepper.fork(first)
    with pytest.raises(InvalidArgumentError, match="passes the 40 that were reserved"):
        stepper.step([(first, [0], 0)])
    for sequence in (first, second):
        stepper.extend(sequence, 60)
    found = stepper.step([(first, tokens[40:], 20), (second, other, 20)])
    assert np.array_equal(found[:20], expected[40:])
    assert np.array_equal(found[20:], run(decoder(weights), tokens[:40] + other, [60])[40:])
    stepper.check()
    for sequence in (first, second):
        stepper.release(sequence)
    assert stepper.counts()["sequences"] == 0 and stepper.counts()["promised"] == 0


def test_rows_of_embeddings_stand_for_ids() -> None:
    config = small_config()
    model = random_backbone(config)
    tokens = ids(30, config.vocab_size)
    stepper = decoder(pack(config, stored_tensors(model, "f32"), "f32"))
    rows = model.embed(torch.tensor(tokens)).detach().numpy()
    places = [-1 if at % 3 == 0 else token for at, token in enumerate(tokens)]
    sequence = stepper.start(30)
    found = stepper.step([(sequence, places, 30)], np.ascontiguousarray(rows[::3]))
    assert np.array_equal(found, run(stepper, tokens, [30]))


def test_asymmetric_and_large_groups_run() -> None:
    config = small_config()
    model = random_backbone(config)
    tokens = ids(20, config.vocab_size)
    exact = model.logits(model(model.embed(torch.tensor(tokens))[None]))[0]
    for group_size in (32, 64, 128):
        for symmetric in (True, False):
            tensors = stored_tensors(model, "int4", group_size, symmetric)
            found = run(decoder(pack(config, tensors, "int4", group_size, symmetric)), tokens, [20])
            error = np.linalg.norm(found - exact.numpy()) / np.linalg.norm(exact)
            assert error < 0.35  # int4 of random weights, three layers; a wrong zero or scale gives over 1


def test_refusals() -> None:
    config = small_config()
    weights = pack(config, stored_tensors(random_backbone(config), "int4"), "int4")
    stepper = decoder(weights, max_tokens=8, max_logit_rows=2, kv_tokens=640)
    sequence = stepper.start(600)
    for parts, complaint in (
        ([(sequence, [0] * 9, 1)], "9 tokens"),
        ([(sequence, [0] * 4, 3)], "3 rows of logits"),
        ([(sequence, [0], 2)], "logit_rows is 2"),
        ([(sequence, [301], 1)], "token id 301"),
        ([(sequence, [-1], 1)], "0 rows, expected 1, the number of -1"),
        ([(sequence, [0] * 4, 1), (sequence + 1, [0], 1)], f"sequence is {sequence + 1}"),
    ):
        with pytest.raises(InvalidArgumentError, match=complaint):
            stepper.step(parts)
        assert stepper.length(sequence) == 0  # nothing of a step that raised is left
    for embeddings, complaint in (
        (np.zeros((2, config.width), np.float32), "2 rows, expected 1"),
        (np.zeros((1, config.width + 1), np.float32), f"rows of {config.width + 1}"),
        (np.zeros((1, config.width), np.float64), "embeddings"),
    ):
        with pytest.raises(InvalidArgumentError, match=complaint):
            stepper.step([(sequence, [-1], 1)], embeddings)
    with pytest.raises(CapacityError, match="extending sequence"):
        stepper.extend(sequence, 641)
    with pytest.raises(CapacityError, match="fork of sequence"):
        stepper.fork(sequence)
    stepper.check()
    with pytest.raises(InvalidArgumentError, match="max_tokens is 0"):
        decoder(weights, max_tokens=0)
    with pytest.raises((InvalidArgumentError, UnsupportedError), match="isa"):
        decoder(weights, isa="sse9")
