"""Training in bfloat16 where the CPU has instructions for it, in float32 elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stage_support import begin, data, settings, tiny_model
from tinygptv_fast import _native
from tinygptv_fast.errors import ConfigError, InvalidArgumentError
from tinygptv_fast.train.optimizers import orthogonalise
from tinygptv_fast.train.precision import autocast, best_precision, precision_of
from tinygptv_fast.train.stages.config import load_stage
from tinygptv_fast.train.stages.run import Trainer, train_stage

CPU = torch.device("cpu")
AVX512 = ("avx512bw", "avx512vl", "avx512dq")


def have(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    monkeypatch.setattr(_native, "cpu_features", lambda: dict.fromkeys(features, True))


@pytest.mark.parametrize(
    "features, expected",
    [
        (("avx2", "fma"), "float32"),
        (AVX512, "float32"),  # torch computes it there, by widening: slower than float32
        ((*AVX512, "avx512_bf16"), "bfloat16"),
        ((*AVX512, "amx_bf16"), "bfloat16"),
    ],
)
def test_the_faster_one_of_this_cpu(features: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *features)
    assert best_precision(CPU) == expected
    with autocast(CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, expected)


def test_every_stage_of_the_recipe_leaves_it_to_the_device() -> None:
    assert [load_stage(number).precision for number in (1, 2, 3, 4)] == ["auto"] * 4


def test_what_is_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "avx2")
    assert precision_of(load_stage(2, changes={"precision": "bfloat16"}), CPU) == "bfloat16"
    have(monkeypatch, *AVX512, "avx512_bf16")
    assert precision_of(load_stage(2, changes={"precision": "float32"}), CPU) == "float32"


def test_matrices_held_in_bfloat16_are_computed_with_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, "avx2")
    assert precision_of(load_stage(2), CPU) == "float32"
    assert precision_of(load_stage(2, changes={"frozen_dtype": "bfloat16"}), CPU) == "bfloat16"
    with pytest.raises(ConfigError, match="unless precision is"):
        load_stage(2, changes={"frozen_dtype": "bfloat16", "precision": "float32"})


def test_auto_is_the_run_it_stands_for_and_stays_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a CPU without bfloat16 "auto" gives float32's weights to the bit; a CPU with it does not go on from there."""
    have(monkeypatch, "avx2")
    model, weights = tiny_model(tmp_path / "model"), {}
    for name in ("auto", "float32"):
        config = settings(steps_per_epoch=2, precision=name)
        start = begin(model, config)
        (tmp_path / name).mkdir()
        assert train_stage(start, config, data(tmp_path / name, config), tmp_path / name / "run")
        weights[name] = {key: p.detach().clone() for key, p in start.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(value, weights["float32"][key]) for key, value in weights["auto"].items())

    have(monkeypatch, *AVX512, "avx512_bf16")
    config = settings(steps_per_epoch=2, precision="auto")
    elsewhere = Trainer(begin(model, config), config, data(tmp_path / "auto", config), tmp_path / "auto" / "run")
    with pytest.raises(InvalidArgumentError, match="precision was 'float32', is 'bfloat16'"):
        elsewhere.resume()


def test_muon_rounds_only_where_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 a member of a batch is what it is alone to some 1e-6; bfloat16 sums differ by some 1e-3."""
    G = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    have(monkeypatch, "avx2")
    exact = orthogonalise(G)
    assert torch.allclose(orthogonalise(G[1:2])[0], exact[1], atol=1e-5)
    have(monkeypatch, *AVX512, "amx_bf16")
    rounded = orthogonalise(G)
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - exact).abs().max()) < 0.1
