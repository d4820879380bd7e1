"""The generator of full-size files, at small sizes: its layouts are the original's, its outliers are where it says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.conversion import load_state
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference import TinyGPTVReference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("make_full_size")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def made(script: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    for name, outliers, split in (("plain", False, False), ("outliers", True, True)):
        script.make(root / name, script.SMALL, seed=1, outliers=outliers, split=split, wrote=lambda count: None)
    return {name: root / name for name in ("plain", "outliers")}


def convert(script: Any, source: Path, out: Path, **settings: Any) -> Path:
    tgv.convert(
        phi=source / script.PHI,
        vision=source / script.VISION,
        qformer=source / script.QFORMER,
        checkpoint=source / script.STAGE,
        out=out,
        architecture=source / "architecture.json",
        **settings,
    )
    return out


@pytest.mark.parametrize("kind", ["plain", "outliers"])
def test_torch_reads_the_pickles(script: Any, made: dict[str, Path], kind: str) -> None:
    for name in (script.VISION, script.QFORMER, script.STAGE):
        root = torch.load(made[kind] / name, weights_only=True, mmap=True)
        tensors = root.get("model", root)
        assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
    stage = torch.load(made[kind] / script.STAGE, weights_only=True)
    assert len(stage["optimizer"]["state"]) == len(stage["model"]) - 1  # all but the position numbers
    assert stage["config"]["model"]["image_size"] == script.SMALL.image_large


@pytest.mark.parametrize("kind", ["plain", "outliers"])
def test_the_files_convert_and_compute(script: Any, made: dict[str, Path], tmp_path: Path, kind: str) -> None:
    directory = open_directory(convert(script, made[kind], tmp_path / "out", quantization="none"))
    assert directory.config.stage == 4
    assert directory.config.vision is not None
    assert directory.config.vision.image_size == script.SMALL.image_large  # from the stage file
    assert directory.config.eos_token_id == 256 + script.SMALL.merges
    model = TinyGPTVReference(directory.config)
    model.load_state_dict(load_state(directory))
    largest = {}

    def record(layer: int) -> Any:
        def hook(module: Any, args: Any, output: torch.Tensor) -> None:
            largest[layer] = float(output.abs().max())

        return hook

    matrices = [m for n, m in model.named_modules() if n.startswith("text.layers.") and n.endswith("mlp.fc1")]
    for layer, module in enumerate(matrices):
        module.register_forward_hook(record(layer))
    with torch.no_grad():
        image = model.encode_image(torch.randn(1, 3, script.SMALL.image_large, script.SMALL.image_large))
        logits = model.text.logits(model.text(torch.cat([image, model.text.embed(torch.arange(6))[None]], dim=1)))
    assert bool(torch.isfinite(logits).all())
    assert len(largest) == script.SMALL.layers == 3
    assert {layer for layer, value in largest.items() if value > 65_504} == ({1, 2} if kind == "outliers" else set())


def test_outliers_are_few_large_and_the_same_everywhere(script: Any, made: dict[str, Path]) -> None:
    from safetensors.torch import load_file

    tensors = {
        kind: {k: v for file in (path / script.PHI).glob("*.safetensors") for k, v in load_file(file).items()}
        for kind, path in made.items()
    }
    changed = {}
    for name in ("input_layernorm.weight", "mlp.fc1.weight", "self_attn.dense.weight"):
        key = f"model.layers.0.{name}"
        ratio = tensors["outliers"][key].float() / tensors["plain"][key].float()
        rows = ratio.view(-1, ratio.shape[-1]).nanmedian(0).values
        changed[name] = (rows > 20).nonzero().flatten().tolist()
        assert all(28 < float(rows[i]) < 102 for i in changed[name])
        assert len(changed[name]) == max(1, round(0.002 * script.SMALL.width))
    assert len(set(map(tuple, changed.values()))) == 1
    stage = torch.load(made["outliers"] / script.STAGE, weights_only=True)["model"]
    gain = stage["llama_model.base_model.model.model.layers.1.input_layernorm.weight"]
    assert float(gain.max()) > 20  # the trained norms, which replace the base's, have them too


def test_the_stand_in_tokenizer_has_phi_2s_shape(script: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(importlib.import_module("stand_in_tokenizer").tokenizer_json())
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.size == 50_295
    assert tokenizer.encode("###") == [21017]
    assert tokenizer.token_id("<|endoftext|>") == 50_256
    assert tokenizer.encode(" " * 31) == [50_257]
    for text in ("the red circle is on the left", "###Human: <Img>", "é∆\n\tx"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_real_sizes_are_the_released_models(script: Any) -> None:
    sizes = script.Sizes()
    count = sum(torch.Size(shape).numel() for _, shape in script.phi_tensors(sizes, False))
    assert count == 2_779_683_840  # Phi-2 as published
    assert script.phi_tensors(sizes, True) != script.phi_tensors(sizes, False)
    vit = sum(torch.Size(shape).numel() for name, shape in script.vision_tensors(sizes) if "blocks.39" not in name)
    assert 985e6 < vit < 990e6
    lora = sum(torch.Size(shape).numel() for name, shape in script.stage_tensors(sizes) if "lora" in name)
    assert lora == 983_040 * 32
    assert script.total_bytes(sizes, False) == pytest.approx(9.0e9, rel=0.05)


def test_an_interrupted_run_continues(script: Any, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def interrupt(limit: int) -> Any:
        written = 0

        def wrote(count: int) -> None:
            nonlocal written
            written += count
            if written > limit:
                raise Stop

        return wrote

    settings = {"seed": 1, "outliers": False, "split": False}
    first = 2 * sum(torch.Size(shape).numel() for _, shape in script.phi_tensors(script.SMALL, False))
    with pytest.raises(Stop):
        script.make(tmp_path, script.SMALL, wrote=interrupt(first + 50_000), **settings)
    present = {path.name for path in tmp_path.iterdir()}
    assert script.PHI in present
    assert script.STAGE not in present
    assert not [name for name in present if "partial" in name]
    kept = (tmp_path / script.PHI / "config.json").stat().st_mtime_ns
    script.make(tmp_path, script.SMALL, wrote=lambda count: None, **settings)
    assert (tmp_path / script.STAGE).exists()
    assert (tmp_path / script.PHI / "config.json").stat().st_mtime_ns == kept
    with pytest.raises(SystemExit, match="other settings"):
        script.make(tmp_path, script.SMALL, wrote=lambda count: None, **{**settings, "seed": 2})


def test_the_command_line_measures_a_conversion(made: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "measure_conversion.py"), str(made["plain"]), "--out",
               str(tmp_path / "out"), "--quiet", "--results", str(tmp_path / "results.jsonl")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=BENCHMARKS.parent)
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["rss_anon_peak_bytes"] > 0
    assert line["output_bytes"] == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert 0 < line["relative_l2"]["int4"] < 0.12
