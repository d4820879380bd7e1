"""Every layout of a Phi directory converts to the same bytes: q/k/v fused or split, one file, shards or a pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tinygptv_fast as tgv
from golden_support import GOLDEN

HEADS = 4


def split(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fused per-head interleave [H, 3, D] taken apart into q_proj, k_proj, v_proj."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if "query_key_value" not in name:
            out[name] = tensor
            continue
        rows = tensor.unflatten(0, (HEADS, 3, -1))
        for index, letter in enumerate("qkv"):
            out[name.replace("query_key_value", f"{letter}_proj")] = rows[:, index].flatten(0, 1).contiguous()
    return out


def write_sharded(folder: Path, state: dict[str, Tensor]) -> None:
    names, index = sorted(state), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def write_bin(folder: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def write_one(folder: Path, state: dict[str, Tensor]) -> None:
    save_file(state, folder / "model.safetensors")


def convert(phi: Path, out: Path) -> str:
    """The sha256 of the converted weights: over bytes that differ, pytest would write an explanation for minutes."""
    tgv.convert(
        phi=phi,
        vision=GOLDEN / "eva_vit_g.pth",
        qformer=GOLDEN / "blip2_pretrained_flant5xxl.pth",
        checkpoint=GOLDEN / "TinyGPT-V_for_Stage3.pth",
        out=out,
        image_size=56,
        architecture=GOLDEN / "sizes.json",
        quantization="none",
    )
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def golden_sha256(tmp_path_factory: pytest.TempPathFactory) -> str:
    return convert(GOLDEN / "phi", tmp_path_factory.mktemp("fused") / "model")


@pytest.mark.parametrize("layout", [lambda state: state, split], ids=["fused", "split"])
@pytest.mark.parametrize("write", [write_one, write_sharded, write_bin])
def test_layouts_agree(layout: object, write: object, golden_sha256: str, tmp_path: Path) -> None:
    phi = tmp_path / "phi"
    shutil.copytree(GOLDEN / "phi", phi, ignore=shutil.ignore_patterns("*.safetensors"))
    write(phi, layout(load_file(GOLDEN / "phi" / "model.safetensors")))  # type: ignore[operator]
    assert convert(phi, tmp_path / "model") == golden_sha256
