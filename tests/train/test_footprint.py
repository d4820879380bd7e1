"""The memory model: it says what a real step holds, byte by byte; parts add up; more rows and processes do as they
should; the table of the docs is its own.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stage_support import begin, mixed_data, parallel_settings, tiny_model
from tinygptv_fast.config import ModelConfig
from tinygptv_fast.errors import InvalidArgumentError
from tinygptv_fast.train.stages import step
from tinygptv_fast.train.stages.config import StageConfig
from tinygptv_fast.train.stages.footprint import (
    Allowance,
    Footprint,
    Measured,
    Work,
    _Alive,
    footprint,
    largest_rows,
    on_gpu,
)
from tinygptv_fast.train.stages.run import Trainer

pytestmark = pytest.mark.timeout(1800)  # thousands of operations on tensors without storage; a busy machine takes long
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def config_for_memory(**changes: Any) -> StageConfig:
    return parallel_settings().replace({"accumulation": 1, "batch_size": 2, **changes})


def predicted(model: Path, config: StageConfig, work: Work) -> tuple[Footprint, ModelConfig]:
    start = begin(model, config)
    return footprint(start.model.config, config, work, projector_hidden=None).alone, start.model.config


@pytest.mark.parametrize(
    "changes",
    [
        {"recompute": False},
        {"recompute": True},
        {"recompute": True, "precision": "bfloat16", "frozen_dtype": "bfloat16"},
    ],
    ids=["plain", "recompute", "bfloat16"],
)
def test_a_real_step_holds_what_is_predicted(
    changes: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: padding to a kernel's shapes, which a CPU does in bfloat16, would be a third of so tiny a step.
    monkeypatch.setattr(step, "up", lambda count, stride: count)
    monkeypatch.setattr(step, "padded", lambda rows: rows)
    config = config_for_memory(**changes)
    trainer = Trainer(begin(model, config), config, mixed_data(tmp_path, config), tmp_path / "run")
    stepper = trainer.stepper
    example = next(e for step in range(5) for e in trainer.batches.batch(step) if e.images)
    rows = stepper.rows.rows([example] * 2, 0)
    stepper.vision.rows(example.images)
    queries = trainer.start.model.config.qformer.queries  # type: ignore[union-attr]
    with _Alive(trainer.start.model) as alive:
        stepper.loss(rows).backward()
    work = Work(2, 1 + rows[0].length + queries, sum(row.learnt for row in rows))
    found, _ = predicted(model, config, work)
    sizes = {name: p.nbytes for name, p in trainer.start.model.named_parameters()}
    trained = sum(sizes[name] for name in trainer.trained)
    assert found.trained == found.gradients == trained and found.moments == 2 * trained
    assert found.frozen + found.vision + found.trained == sum(sizes.values())
    # A real step puts its rows together from pieces, keeps its gradients and learns at some places only.
    assert found.activations == pytest.approx(alive.peak, rel=0.15)


def test_activations_grow_by_the_row_and_shrink_by_recomputing(model: Path) -> None:
    config, again = config_for_memory(recompute=False), config_for_memory(recompute=True)
    many = [predicted(model, config, Work(rows, 64, 40 * rows))[0].activations for rows in (1, 2, 3, 4)]
    grown = [after - before for before, after in itertools.pairwise(many)]
    assert 0 < max(grown) < 1.1 * min(grown)  # one row alone saves some copies
    assert predicted(model, again, Work(4, 64, 160))[0].activations < many[3]
    longer = predicted(model, config, Work(1, 128, 40))[0].activations
    assert longer > 2 * many[0] - predicted(model, config, Work(1, 64, 1))[0].activations  # scores grow by the square


def test_shared_between_processes() -> None:
    alone = Footprint(frozen=1000, vision=300, trained=100, gradients=100, moments=200, activations=50)
    measured = Measured(alone, root=120, head=80, layer=40)
    assert measured.shared(None, 1) == alone and alone.total == 1750
    ddp = measured.shared("ddp", 4)
    assert ddp.total == alone.total + 100 and ddp.frozen == 1000
    fsdp = measured.shared("fsdp", 4)
    assert fsdp == Footprint(250, 300, 25, 25, 50, 50, gathered=120 + 80 + 80)
    for kind, processes in ((None, 2), ("ddp", 1), ("tp", 2), ("fsdp", 0), ("fsdp", 2.0)):
        with pytest.raises(InvalidArgumentError, match=r"^processes is "):
            measured.shared(kind, processes)  # type: ignore[arg-type]


def test_what_fits_a_gpu() -> None:
    def take(rows: int) -> Footprint:
        return Footprint(600, 0, 0, 0, 0, 100 * rows)

    none = Allowance(context=0, fragmentation=0.0)
    assert [largest_rows(size, take, none) for size in (699, 700, 799, 800, 1100)] == [0, 1, 1, 2, 5]
    assert on_gpu(take(1), Allowance(context=10, fragmentation=0.1)) == 10 + 770
    assert largest_rows(10**9, take, none, most=64) == 64


@pytest.mark.parametrize(("rows", "tokens", "learnt"), [(0, 4, 1), (1, 4, 4), (1, 4, 0), (1.0, 4, 1)])
def test_impossible_work_is_refused(rows: Any, tokens: int, learnt: int) -> None:
    with pytest.raises(InvalidArgumentError):
        Work(rows, tokens, learnt)


def test_a_text_model_has_nothing_to_see() -> None:
    with pytest.raises(InvalidArgumentError, match="no vision side"):
        footprint(ModelConfig(), parallel_settings(), Work(1, 8, 4))


# --- the scripts ------------------------------------------------------------------------------------------------------
def test_the_table_of_the_docs_is_the_models_own(benchmarks: Any) -> None:
    script = benchmarks("training_memory")
    lines = script.lines(script.CASES[1:2])  # the others take half a minute
    page = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    assert "\n".join(lines[:2]) in page and "\n".join(lines[2:]) in page, "\n".join(lines)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    for alone, ddp, _two, eight in zip(*[iter(rows)] * 4, strict=True):
        assert float(ddp[2]) > float(alone[2]) > float(eight[2])
        assert int(eight[3]) >= int(alone[3]) and int(eight[4]) >= int(eight[3])


def test_a_step_at_a_sixteenth_of_the_size(
    benchmarks: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = benchmarks("full_size_step")
    threads = torch.get_num_threads()
    assert script.main(["--stage", "3", "--factor", "16", "--threads", str(threads)]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert list(record["seconds"]) == ["build", "prepare", "vision", "forward", "backward", "optimizer"]
    assert all(f"\n{part}" in f"\n{shown.err}" for part in record["seconds"])
    assert record["trained"] < record["parameters"] / 10 and record["learnt"] > 20 and record["gradient"] > 0
    assert 9 < record["loss"] < 13  # random weights: about the logarithm of 51,200
    assert record["peak_rss_gb"] >= record["rss_before_gb"] > 0 and record["predicted_gb"] > record["rss_before_gb"]
    with pytest.raises(SystemExit):
        script.main(["--factor", "0"])
    assert "--factor is 0, expected an integer >= 1" in capsys.readouterr().err


def test_weights_are_made_once_and_in_their_final_type(benchmarks: Any) -> None:
    script = benchmarks("full_size_step")
    stage = config_for_memory(precision="bfloat16", frozen_dtype="bfloat16")
    config = script.sizes(16, 56)
    start = script.build(config, stage, 256)
    types = {name: p.dtype for name, p in start.model.named_parameters()}
    assert types["text.layers.0.mlp.fc1.weight"] == torch.bfloat16 and types["text.embed.weight"] == torch.bfloat16
    assert types["text.layers.0.attn.qkv.lora_a"] == types["text.layers.0.norm.weight"] == torch.float32
    assert all(bool(torch.isfinite(p).all()) and p.device.type == "cpu" for p in start.model.parameters())
    full = script.sizes(1, 448)
    assert full == ModelConfig(text=full.text, vision=full.vision, qformer=full.qformer)
    assert (full.text.width, full.text.layers, full.text.mlp_width) == (2560, 32, 10240)
    assert (full.vision.width, full.vision.layers, full.vision.mlp_width) == (1408, 39, 6144)
    assert sys.modules["full_size_step"] is script
