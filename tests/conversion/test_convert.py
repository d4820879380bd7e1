"""``convert``: folding against direct arithmetic, what each setting stores, and errors that leave nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tinygptv_fast as tgv
from original_files import Originals
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.conversion import load_state
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError, PromptError

STAGES = {
    "A_stage1": ("phi", "TinyGPT-V_for_Stage1.pth", 56),
    "A_stage3": ("phi", "TinyGPT-V_for_Stage3.pth", 56),
    "B_stage4": ("phi_base_bin", "TinyGPT-V_for_Stage4.pth", 112),
}


def arguments(golden: Path, case: str, **more: Any) -> dict[str, Any]:
    phi, stage, size = STAGES[case]
    return {
        "phi": golden / phi,
        "vision": golden / "eva_vit_g.pth",
        "qformer": golden / "blip2_pretrained_flant5xxl.pth",
        "checkpoint": golden / stage,
        "architecture": golden / "sizes.json",
        "image_size": size,
        **more,
    }


@pytest.fixture(scope="module")
def exact(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each golden case converted without quantisation."""
    out = {}
    for case in STAGES:
        out[case] = tmp_path_factory.mktemp("exact") / case
        tgv.convert(**arguments(golden_dir, case, out=out[case], quantization="none"))
    return out


def stage_tensors(golden: Path, case: str) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(golden / STAGES[case][1], weights_only=True)["model"]
    return loaded


@pytest.mark.parametrize("case", ["A_stage3", "B_stage4"])
def test_lora_is_folded_in_float32(golden_dir: Path, exact: dict[str, Path], case: str) -> None:
    state, stage = load_state(exact[case]), stage_tensors(golden_dir, case)
    phi = golden_dir / STAGES[case][0]
    base = (
        load_file(phi / "model.safetensors")
        if (phi / "model.safetensors").exists()
        else torch.load(phi / "pytorch_model.bin", weights_only=True)
    )
    for layer in range(3):
        for ours, theirs in (("qkv", "query_key_value"), ("out", "dense")):
            prefix = f"llama_model.base_model.model.model.layers.{layer}.self_attn.{theirs}"
            a, b = stage[f"{prefix}.lora_A.weight"].double(), stage[f"{prefix}.lora_B.weight"].double()
            expected = base[f"model.layers.{layer}.self_attn.{theirs}.weight"].double() + 16 / 8 * (b @ a)
            found = state[f"text.layers.{layer}.attn.{ours}.weight"]
            assert found.dtype == torch.float32
            # one float32 rounding of the sum and r products of size |b||a|: a few ulp of the largest term
            bound = 2**-23 * (expected.abs() + 2 * (8 + 2) * (b.abs() @ a.abs()))
            assert bool(((found.double() - expected).abs() <= bound).all())
    assert not torch.equal(
        state["text.layers.0.attn.qkv.weight"], base["model.layers.0.self_attn.query_key_value.weight"]
    )


@pytest.mark.parametrize("case", STAGES)
def test_the_two_projections_become_one(golden_dir: Path, exact: dict[str, Path], case: str) -> None:
    state, stage = load_state(exact[case]), stage_tensors(golden_dir, case)
    first, second = stage["llama_proj.weight"].double(), stage["llama_proj2.weight"].double()
    weight = second @ first
    bias = second @ stage["llama_proj.bias"].double() + stage["llama_proj2.bias"].double()
    bound = 2**-23 * (96 + 2)
    assert bool(((state["projector.weight"] - weight).abs() <= bound * (second.abs() @ first.abs())).all())
    limit = bound * (second.abs() @ stage["llama_proj.bias"].double().abs() + stage["llama_proj2.bias"].double().abs())
    assert bool(((state["projector.bias"] - bias).abs() <= limit).all())


def test_tower_tensors_are_the_files_own(golden_dir: Path, exact: dict[str, Path]) -> None:
    state = load_state(exact["A_stage1"])
    vit = torch.load(golden_dir / "eva_vit_g.pth", weights_only=True)
    assert torch.equal(state["vision.layers.2.attn.qkv.weight"], vit["blocks.2.attn.qkv.weight"].float())
    width = vit["cls_token"].shape[-1]
    bias = state["vision.layers.1.attn.qkv.bias"].view(3, width)
    assert torch.equal(bias[0], vit["blocks.1.attn.q_bias"].float())
    assert torch.equal(bias[1], torch.zeros(width))
    assert torch.equal(bias[2], vit["blocks.1.attn.v_bias"].float())
    assert torch.equal(state["vision.cls_token"], vit["cls_token"].float().flatten())
    assert torch.equal(state["vision.pos_embed"], vit["pos_embed"].float()[0])


def test_positions_are_resized_as_in_the_original(golden_dir: Path, exact: dict[str, Path]) -> None:
    import numpy as np

    expected = np.load(golden_dir / "golden" / "B_stage4.npz")["vit_pos_embed"][0]
    found = load_state(exact["B_stage4"])["vision.pos_embed"]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-6)
    vit = torch.load(golden_dir / "eva_vit_g.pth", weights_only=True)
    assert torch.equal(found[0], vit["pos_embed"].float()[0, 0])


def test_the_directory_says_where_everything_came_from(exact: dict[str, Path]) -> None:
    directory = open_directory(exact["B_stage4"])
    report = directory.report
    assert report["lora"] == {"rank": 8, "alpha": 16.0}
    assert report["sources"]["checkpoint"] == "TinyGPT-V_for_Stage4.pth"
    assert len(report["set_to_zero"]) == 6
    assert sum(report["summary"].values()) - 6 == len(report["tensors"])
    assert directory.config.stage == 4
    assert directory.config.eos_token_id is None
    assert directory.config.dtype == "float32"
    assert str(exact["B_stage4"].parent) not in json.dumps(report)


def test_templates_follow_the_stage(golden_dir: Path, exact: dict[str, Path], tmp_path: Path) -> None:
    names = {case: open_directory(path).template.name for case, path in exact.items()}
    assert names == {"A_stage1": "vicuna", "A_stage3": "vicuna", "B_stage4": "inst"}
    tgv.convert(**arguments(golden_dir, "A_stage1", out=tmp_path / "x", quantization="none", template="minigptv2"))
    assert open_directory(tmp_path / "x").template.name == "minigptv2"
    with pytest.raises(PromptError, match="nonsense"):
        tgv.convert(**arguments(golden_dir, "A_stage1", out=tmp_path / "y", template="nonsense"))
    renamed = tmp_path / "mine.pth"
    renamed.write_bytes((golden_dir / "TinyGPT-V_for_Stage1.pth").read_bytes())
    with pytest.raises(InvalidArgumentError, match=r"template is not given.*mine\.pth"):
        tgv.convert(**{**arguments(golden_dir, "A_stage1", out=tmp_path / "y"), "checkpoint": renamed})
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, {"text.head.weight": "int4", "text.embed.weight": "int8", "projector.weight": "int8"}),
        ({"group_size": 64, "vision_dtype": "bfloat16"}, {"text.head.weight": "int4", "projector.weight": "bfloat16"}),
        (
            {"quantization": "int8", "vision_dtype": torch.float32},
            {"text.head.weight": "int8", "projector.weight": "float32"},
        ),
        ({"quantization": "none"}, {"text.head.weight": "float32", "projector.weight": "float32"}),
        ({"quantization": "none", "vision_dtype": "int8"}, {"text.head.weight": "float32", "projector.weight": "int8"}),
        (
            {"quantization": "none", "dtype": torch.bfloat16},
            {"text.head.weight": "bfloat16", "text.head.bias": "float32"},
        ),
    ],
)
def test_settings_decide_the_storage(golden_dir: Path, tmp_path: Path, settings: Any, kinds: dict[str, str]) -> None:
    receipt = tgv.convert(**arguments(golden_dir, "B_stage4", out=tmp_path / "out", **settings))
    directory = open_directory(tmp_path / "out")
    assert {name: directory.kind(name) for name in kinds} == kinds
    assert directory.quality == receipt
    assert directory.verify_hashes() == []


BAD_SETTINGS = {
    "quantization": ({"quantization": "int3"}, ConfigError),
    "group size": ({"group_size": 48}, ConfigError),
    "vision dtype": ({"vision_dtype": "float16"}, ConfigError),
    "dtype": ({"dtype": "int8"}, InvalidArgumentError),
    "out": ({"out": None}, InvalidArgumentError),
    "architecture": ({"architecture": {"vit": {}}}, ConfigError),
    "image size": ({"image_size": 57}, InvalidArgumentError),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_are_named(golden_dir: Path, tmp_path: Path, case: str) -> None:
    change, error = BAD_SETTINGS[case]
    with pytest.raises(
        error, match=case.replace(" ", "_") if case not in ("group size", "vision dtype") else "quantization"
    ):
        tgv.convert(**{**arguments(golden_dir, "B_stage4", out=tmp_path / "out"), **change})
    assert list(tmp_path.iterdir()) == []


def test_released_sizes_do_not_fit_small_files(golden_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected \[1408\]"):
        tgv.convert(**{**arguments(golden_dir, "B_stage4", out=tmp_path / "out", image_size=448), "architecture": None})


@pytest.mark.parametrize("place", ["phi", "vision", "qformer", "stage"])
def test_a_nan_in_any_file_leaves_nothing(golden_dir: Path, tmp_path: Path, place: str) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        key = next(k for k in sorted(tensors) if k.endswith(("fc2.weight", "query_tokens", "lora_B.weight")))
        tensors[key].view(-1)[3] = float("nan")

    files = Originals(golden_dir, tmp_path / "files", **{place: spoil})
    with pytest.raises(CheckpointError, match="NaN"):
        tgv.convert(**files.write(), architecture=files.architecture(), image_size=56, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_stock_phi_keeps_its_own_dtype(golden_dir: Path, tmp_path: Path) -> None:
    tgv.convert(golden_dir / "phi_base_bin", out=tmp_path / "out", quantization="none")
    directory = open_directory(tmp_path / "out")
    assert directory.config.dtype == "float16"
    assert directory.config.vision is None
    assert directory.preprocessor is None
    assert directory.template.name == "phi"
    base = torch.load(golden_dir / "phi_base_bin" / "pytorch_model.bin", weights_only=True)
    assert torch.equal(directory.tensor("text.layers.2.mlp.fc1.weight"), base["model.layers.2.mlp.fc1.weight"])


def test_the_older_tokenizer_layout_is_converted(golden_dir: Path, tmp_path: Path) -> None:
    from tinygptv_fast.processing.tokenizer import Tokenizer

    files = Originals(golden_dir, tmp_path / "files").write()
    expected = Tokenizer.from_file(files["phi"] / "tokenizer.json")
    (files["phi"] / "tokenizer.json").unlink()
    tgv.convert(files["phi"], out=tmp_path / "out", quantization="none")
    found = Tokenizer.from_file(tmp_path / "out" / "tokenizer.json")
    for text in ("###Human: what  is it?", "two\t\ttabs", "é∆"):
        assert found.encode(text) == expected.encode(text)


def test_conversion_is_reproducible(golden_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tgv.convert(**arguments(golden_dir, "B_stage4", out=tmp_path / name))
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("a", "b")]
    assert files[0] == files[1]
