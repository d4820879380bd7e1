"""Packed weights: filled once, kept in a file, and nothing believed that the file says unchecked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model.support import ids, pack, put, random_backbone, small_config, stored_tensors
from model.test_decoder import decoder, run
from tinygptv_fast import _native
from tinygptv_fast.errors import InvalidArgumentError, TinyGPTVError

CONFIG = small_config(layers=1)
FORMS = {"body": ("int4", 32, True), "head": ("int4", 32, True), "embedding": "int8"}


@pytest.fixture(scope="module")
def weights() -> _native.Weights:
    return pack(CONFIG, stored_tensors(random_backbone(CONFIG), "int4"), "int4")


@pytest.fixture
def packed(weights: _native.Weights, tmp_path: Path) -> Path:
    weights.save(str(tmp_path / "w.tgvp"))
    return tmp_path / "w.tgvp"


@pytest.mark.parametrize("mode", ["read", "streamed", "map"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_gives_the_same_model(weights: _native.Weights, packed: Path, mode: str, threads: int) -> None:
    loaded = _native.Weights.load(str(packed), "test", mode, threads)
    assert (loaded.id, loaded.bytes, loaded.mapped) == ("test", weights.bytes, mode == "map")
    assert loaded.entries() == weights.entries()
    tokens = ids(20, CONFIG.vocab_size)
    assert np.array_equal(run(decoder(loaded), tokens, [20]), run(decoder(weights), tokens, [20]))
    assert [p.name for p in packed.parent.iterdir()] == ["w.tgvp"]


def test_streamed_leaves_the_embedding_in_the_file(packed: Path) -> None:
    def bytes_mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ends = [line.split()[0].split("-") for line in lines if line.endswith(str(packed))]
        return sum(int(end, 16) - int(start, 16) for start, end in ends)

    whole = _native.Weights.load(str(packed), mode="read")
    assert bytes_mapped() == 0
    streamed = _native.Weights.load(str(packed), mode="streamed")
    (shape,) = (sizes for name, _, sizes in streamed.entries() if name == "text.embed")
    assert bytes_mapped() % 4096 == 0 and 0 < bytes_mapped() <= 4 * (shape[0] * shape[1] + shape[0])  # at most f32
    packed.unlink()  # a mapped file lives on without its name
    tokens = ids(20, CONFIG.vocab_size)
    assert np.array_equal(run(decoder(streamed), tokens, [20]), run(decoder(whole), tokens, [20]))
    del streamed


def test_no_byte_can_change_unseen(packed: Path) -> None:
    whole = packed.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(0, 208, 5), *rng.integers(4096, len(whole), 40), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        packed.write_bytes(damaged)
        with pytest.raises(InvalidArgumentError):
            _native.Weights.load(str(packed))


@pytest.mark.parametrize("length", [0, 100, 4095, 4096, -1])
def test_cut_files_are_refused(packed: Path, length: int) -> None:
    packed.write_bytes(packed.read_bytes()[:length])
    with pytest.raises(InvalidArgumentError, match=r"too short|cut short"):
        _native.Weights.load(str(packed))


def test_padded_foreign_and_missing_files_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="another model"):
        _native.Weights.load(str(packed), "other")
    packed.write_bytes(packed.read_bytes() + b"\0")
    with pytest.raises(InvalidArgumentError, match="cut short or padded"):
        _native.Weights.load(str(packed))
    with pytest.raises(TinyGPTVError, match="cannot open"):
        _native.Weights.load(str(tmp_path / "none"))
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        _native.Weights.load(str(tmp_path))
    with pytest.raises(TinyGPTVError, match="cannot create"):
        pack(CONFIG, stored_tensors(random_backbone(CONFIG), "int4"), "int4").save(str(tmp_path / "no" / "w"))


def test_every_tensor_once_and_of_its_shape() -> None:
    tensors = stored_tensors(random_backbone(CONFIG), "int4")
    weights = _native.Weights(dataclasses.asdict(CONFIG), FORMS, "test")
    for name, tensor in list(tensors.items())[:-1]:
        put(weights, f"text.{name}", tensor)
    last = list(tensors)[-1]
    with pytest.raises(InvalidArgumentError, match=last.removesuffix(".weight")):
        decoder(weights)
    with pytest.raises(InvalidArgumentError, match="put before"):
        weights.put_vector("text.layers.0.norm.bias", np.zeros(CONFIG.width, np.float32))
    with pytest.raises(InvalidArgumentError, match=r"has 3 elements, expected"):
        weights.put_vector(f"text.{last}", np.zeros(3, np.float32))
    with pytest.raises(InvalidArgumentError, match="not a tensor of this model"):
        weights.put_vector("text.layers.1.norm.bias", np.zeros(CONFIG.width, np.float32))
    with pytest.raises(InvalidArgumentError, match=r"qweight is \[2,3\] u8, expected"):
        weights.put_int4("text.head", np.zeros((2, 3), np.uint8), np.zeros((2, 1), np.float16))
    with pytest.raises(InvalidArgumentError, match="is given without its int4 levels"):
        weights.put_f32("text.layers.0.mlp.fc1", np.zeros((CONFIG.mlp_width, CONFIG.width), np.float32))
    put(weights, f"text.{last}", tensors[last])
    decoder(weights)
    with pytest.raises(InvalidArgumentError, match="complete"):
        weights.put_vector("text.final_norm.bias", np.zeros(CONFIG.width, np.float32))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"head_dim": 22, "width": 88}, "multiple of 4"),
        ({"rotary_dims": 3}, "even"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": 10**12}, "layers is"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"width": 97}, "heads \\* head_dim"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
    ],
)
def test_bad_architectures(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        _native.Weights({**dataclasses.asdict(CONFIG), **change}, FORMS, "test")


def test_bad_forms_and_ids() -> None:
    sizes = dataclasses.asdict(CONFIG)
    with pytest.raises(InvalidArgumentError, match="groups"):
        _native.Weights(sizes, {**FORMS, "body": ("int4", 48, True)}, "test")
    with pytest.raises(InvalidArgumentError, match="form is 'int3'"):
        _native.Weights(sizes, {**FORMS, "head": ("int3", 32, True)}, "test")
    with pytest.raises(InvalidArgumentError, match="forms has no 'embedding'"):
        _native.Weights(sizes, {"body": FORMS["body"], "head": FORMS["head"]}, "test")
    for bad in ("", "x" * 65):
        with pytest.raises(InvalidArgumentError, match="characters"):
            _native.Weights(sizes, FORMS, bad)


def test_random_weights_are_repeatable() -> None:
    sizes = dataclasses.asdict(CONFIG)
    one, two = (_native.Weights.random(sizes, FORMS, seed=3, threads=t) for t in (1, 2))
    other = _native.Weights.random(sizes, FORMS, seed=4, threads=2)
    tokens = ids(9, CONFIG.vocab_size)
    logits = [run(decoder(w), tokens, [9]) for w in (one, two, other)]
    assert np.array_equal(logits[0], logits[1]) and not np.allclose(logits[0], logits[2])
    assert np.isfinite(logits[0]).all() and 0.1 < logits[0].std() < 10
