"""Kept pictures: both dtypes, what int8 costs, and files that are damaged or meant to do harm."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import tinygptv_fast as tgv
from tinygptv_fast.cli.models import local_directory
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.generate import image_state

QUERIES, WIDTH = 32, 2560  # of the released model


def made(rows: int = QUERIES, width: int = WIDTH, seed: int = 0) -> tgv.ImageState:
    """Rows of different sizes with outliers, as a projector writes them; one of zeros."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, width)) * np.geomspace(1e-3, 1e3, rows)[:, None]
    values[:, 7] *= 20
    values[rows // 2] = 0
    return tgv.ImageState(torch.from_numpy(values.astype(np.float32)), 640, 480, "m" * 64)


def test_float32_keeps_every_bit(tmp_path: Path) -> None:
    state = made()
    state.save(tmp_path / "x.tgvi")
    again = tgv.ImageState.load(tmp_path / "x.tgvi")
    assert torch.equal(again.embeddings, state.embeddings)
    assert (again.width, again.height, again.model_id) == (640, 480, "m" * 64)


def test_int8_is_a_quarter_and_off_by_half_a_scale_at_most(tmp_path: Path) -> None:
    state = made()
    state.save(tmp_path / "x.tgvi", dtype="int8")
    size = (tmp_path / "x.tgvi").stat().st_size
    assert QUERIES * WIDTH < size < QUERIES * WIDTH + 1024  # 82 kB
    again = tgv.ImageState.load(tmp_path / "x.tgvi").embeddings
    scale = state.embeddings.abs().amax(1) / 127
    off = (again - state.embeddings).abs()
    assert (off <= 0.5 * scale[:, None] * (1 + 1e-5)).all() and off.max() > 0
    assert again.dtype == torch.float32 and (again[QUERIES // 2] == 0).all()
    tgv.ImageState(again, 1, 1, "m").save(tmp_path / "y.tgvi", dtype="int8")
    twice = tgv.ImageState.load(tmp_path / "y.tgvi").embeddings
    assert torch.allclose(twice, again, rtol=1e-6, atol=0) and len(list(tmp_path.iterdir())) == 2


def test_the_demo_answers_from_int8(tmp_path: Path) -> None:
    asked = ("How many shapes are there?", "What colour is the circle?", "What shape is blue?", "Is there a red ring?")
    with tgv.TinyGPTV.from_pretrained(local_directory("demo"), threads=1) as model:
        for seed in range(4):
            state = model.encode_image(draw(arrange("red circle left of blue star", seed), 256))
            state.save(tmp_path / "x.tgvi", dtype="int8")
            kept = tgv.ImageState.load(tmp_path / "x.tgvi")
            error = (kept.embeddings - state.embeddings).norm() / state.embeddings.norm()
            assert error < 0.01, error
            for question in asked:
                answers = [model.generate(one, question, task="vqa").text for one in (state, kept)]
                assert answers[0] == answers[1], question
            place = [model.refer(one, "the red circle")[0].xyxy for one in (state, kept)]
            assert np.abs(np.subtract(*place)).max() <= 0.02 * 256


def test_a_dtype_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="dtype is 'int4', expected one of 'float32', 'int8'"):
        made(2, 8).save(tmp_path / "x.tgvi", dtype="int4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", image_state.DTYPES)
def test_any_changed_byte_is_noticed(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tgvi"
    made(3, 16).save(path, dtype=dtype)
    whole = path.read_bytes()
    data = len(whole) - (3 * 16 * 4 if dtype == "float32" else 3 * 16 + 3 * 4)
    for at in (*range(data, len(whole)), *(whole.index(text) for text in (b"640", b"480", b"mmm"))):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"x\.tgvi"):
            tgv.ImageState.load(path)
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"x\.tgvi"):
            tgv.ImageState.load(path)


GOOD = {"width": "5", "height": "5", "model_id": "x"}
F32 = np.zeros((2, 3), np.float32)
I8, SCALES = np.zeros((2, 3), np.int8), np.zeros(2, np.float32)
HOSTILE = {
    "no metadata": ({"kind": "x"}, {"embeddings": F32}, "not an image state of version 2 or 3"),
    "version 1": ({"version": "1"}, {"embeddings": F32}, "not an image state of version 2 or 3"),
    "negative width": ({"width": "-1"}, {"embeddings": F32}, "expected pixels in"),
    "wide": ({"width": "9" * 30}, {"embeddings": F32}, "expected pixels in"),
    "other tensor": ({}, {"other": F32}, "expected embeddings F32"),
    "one more": ({}, {"embeddings": F32, "more": F32}, "expected embeddings F32"),
    "nan": ({}, {"embeddings": np.full((2, 3), math.nan, np.float32)}, "NaN or infinity"),
    "int32": ({}, {"embeddings": F32.astype(np.int32)}, "expected embeddings F32"),
    "one row alone": ({}, {"embeddings": F32[0]}, "expected embeddings F32"),
    "int8 without scales": ({}, {"embeddings": I8}, "expected embeddings F32"),
    "float32 with scales": ({}, {"embeddings": F32, "scales": SCALES}, "expected embeddings F32"),
    "scales of another length": ({}, {"embeddings": I8, "scales": np.zeros(3, np.float32)}, "expected embeddings F32"),
    "scales in float64": ({}, {"embeddings": I8, "scales": SCALES.astype(np.float64)}, "expected embeddings F32"),
    "-128": ({}, {"embeddings": np.full((2, 3), -128, np.int8), "scales": SCALES}, "none that save writes"),
    "negative scale": ({}, {"embeddings": I8, "scales": SCALES - 1}, "none that save writes"),
    "infinite scale": ({}, {"embeddings": I8, "scales": SCALES + np.float32(np.inf)}, "none that save writes"),
    "overflow": ({}, {"embeddings": I8 + 100, "scales": SCALES + np.float32(3e38)}, "NaN or infinity"),
    "other hash": ({"sha256": "0" * 64}, {"embeddings": F32}, "it is damaged"),
    "other model": ({"model_id": "y", "sha256": image_state._digest(GOOD, {"embeddings": F32})}, {"embeddings": F32},
                    "it is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    changes, tensors, message = HOSTILE[name]
    facts = {**GOOD, **{key: value for key, value in changes.items() if key in GOOD}}
    metadata = {"kind": "tinygptv_image_state", "version": "2", "sha256": image_state._digest(facts, tensors)}
    save_file(tensors, tmp_path / "bad.tgvi", {**metadata, **facts, **changes})
    with pytest.raises(CheckpointError, match=message) as caught:
        tgv.ImageState.load(tmp_path / "bad.tgvi")
    assert "bad.tgvi" in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_hostile_files_are_made_from_is_good(tmp_path: Path) -> None:
    for tensors in ({"embeddings": F32}, {"embeddings": I8, "scales": SCALES}):
        digest = image_state._digest(GOOD, tensors)
        save_file(
            tensors, tmp_path / "x.tgvi", {"kind": "tinygptv_image_state", "version": "2", "sha256": digest, **GOOD}
        )
        assert tgv.ImageState.load(tmp_path / "x.tgvi").embeddings.tolist() == F32.tolist()
    with safe_open(tmp_path / "x.tgvi", "numpy") as file:
        assert sorted(file.keys()) == ["embeddings", "scales"]
