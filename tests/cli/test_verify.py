"""``verify``: sound directories pass, every kind of damage is named, parity and agreement come out as they must."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

import pytest

from tinygptv_fast.checkpoint.directory import open_directory


@pytest.fixture
def copy(int4_model: Path, tmp_path: Path) -> Path:
    """A copy of the int4 model that a test may damage."""
    return Path(shutil.copytree(int4_model, tmp_path / "model"))


def data_offset(path: Path, name: str) -> int:
    """Where in a safetensors file the data of tensor ``name`` begins."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return 8 + length + json.loads(raw[8 : 8 + length])[name]["data_offsets"][0]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def failed(result, *words: str) -> None:
    assert result.code == 2
    assert result.err.count("\n") == 1 and "Traceback" not in result.err
    for word in words:
        assert word in result.err, result.err


def test_a_sound_directory_passes_and_lists_every_original_key(run, int4_model: Path) -> None:
    result = run("verify", int4_model)
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if " -> " in line]
    report = open_directory(int4_model).report
    assert len(lines) == len(report["tensors"]) == sum(report["summary"][s] for s in ("loaded", "folded", "dropped"))
    dropped = [line for line in lines if line.startswith("dropped")]
    assert dropped and all(len(line.split(" -> ")[1]) > 10 for line in dropped)  # each with its reason
    assert "is whole" in result.out


def test_summary_and_json(run, int4_model: Path) -> None:
    assert " -> " not in run("verify", int4_model, "--summary").out
    said = json.loads(run("verify", int4_model, "--json").out)
    assert said["ok"] and said["problems"] == [] and said["kind"] == "verify"
    assert said["hashes_checked"] > said["tensors"] > 100
    assert {line["status"] for line in said["keys"]} == {"loaded", "folded", "dropped"}
    assert "keys" not in json.loads(run("verify", int4_model, "--json", "--summary").out)


def test_one_flipped_bit_is_found(run, copy: Path) -> None:
    weights = copy / "model.safetensors"
    at = data_offset(weights, "text.layers.1.mlp.fc1.qweight")
    overwrite(weights, at + 5, bytes([weights.read_bytes()[at + 5] ^ 1]))
    failed(run("verify", copy, "--summary"), "text.layers.1.mlp.fc1.qweight", "sha256")


def test_nan_is_named_with_its_tensor(run, copy: Path) -> None:
    weights = copy / "model.safetensors"
    overwrite(weights, data_offset(weights, "text.layers.0.norm.weight"), struct.pack("<f", float("nan")))
    result = run("verify", copy, "--summary")
    failed(result, "text.layers.0.norm.weight")
    assert "problem: tensor text.layers.0.norm.weight holds 1 values that are NaN or infinite" in result.out


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "generation_config.json", "preprocessor_config.json", "report.json"]
)
def test_a_changed_small_file_is_found(run, copy: Path, name: str) -> None:
    (copy / name).write_text((copy / name).read_text() + " ")
    failed(run("verify", copy, "--summary"), name, "sha256")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "hashes.json", "config.json"])
def test_a_missing_file_is_named(run, copy: Path, name: str) -> None:
    (copy / name).unlink()
    failed(run("verify", copy), name)


def test_a_missing_receipt_is_named(run, copy: Path) -> None:
    (copy / "quality.json").unlink()
    failed(run("verify", copy, "--summary"), "quality.json")


def test_a_receipt_of_other_tensors_is_refused(run, copy: Path) -> None:
    receipt = json.loads((copy / "quality.json").read_text())
    removed = receipt["tensors"].pop(3)
    (copy / "quality.json").write_text(json.dumps(receipt))
    failed(run("verify", copy, "--summary"), "quality.json", removed["name"])


def test_missing_and_extra_tensors_are_listed(run, copy: Path) -> None:
    weights = copy / "model.safetensors"
    raw = weights.read_bytes()
    assert raw.count(b'"ln_vision.bias"') == 1
    weights.write_bytes(raw.replace(b'"ln_vision.bias"', b'"ln_vision.bios"'))
    failed(run("verify", copy), "ln_vision.bias", "missing", "ln_vision.bios")


def test_exact_conversion_is_exact_layer_by_layer(run, exact_model: Path, originals: list[str]) -> None:
    said = json.loads(run("verify", exact_model, *originals, "--json", "--summary").out)
    assert said["ok"]
    assert all(check["ok"] and check["relative_l2"] <= 1e-6 for check in said["weights"])
    assert len(said["weights"]) == said["tensors"]
    names = [layer["name"] for layer in said["layers"]]
    assert names[0] == "vision.embed" and names[-1] == "text.final_norm" and "text.layers.2" in names
    assert all(layer["relative_l2"] <= 1e-5 for layer in said["layers"])
    assert said["agreement"] is None


def test_agreement_goes_to_the_receipt_and_keeps_the_directory_sound(run, copy: Path, originals: list[str]) -> None:
    files = {path.name for path in copy.iterdir()}
    tensors = open_directory(copy).quality.tensors
    result = run("verify", copy, *originals, "--agreement", "--pictures", 1, "--json", "--summary")
    said = json.loads(result.out)["agreement"]
    receipt = open_directory(copy).quality
    assert dict(receipt.agreement) == said and receipt.tensors == tensors
    assert said["positions"] > 20 and 0 < said["token_agreement"] <= 1 and said["kl_nats"] > 0
    assert {path.name for path in copy.iterdir()} == files
    assert run("verify", copy, "--summary").code == 0
    assert re.search(r"^agreement +same token at ", run("info", copy).out, re.MULTILINE)


def test_against_a_directory_gives_what_the_original_files_give(
    run, copy: Path, exact_model: Path, originals: list[str]
) -> None:
    options = ("--agreement", "--pictures", 1, "--json", "--summary")
    by_files = json.loads(run("verify", copy, *originals, *options).out)["agreement"]
    by_directory = json.loads(run("verify", copy, "--against", exact_model, *options).out)["agreement"]
    for name, value in by_files.items():
        assert by_directory[name] == pytest.approx(value, rel=1e-4)


def test_other_original_files_are_told_apart(run, int4_model: Path, originals: list[str], golden_dir: Path) -> None:
    stage1 = str(golden_dir / "TinyGPT-V_for_Stage1.pth")
    options = [stage1 if option.endswith("Stage3.pth") else option for option in originals]
    result = run("verify", int4_model, *options, "--summary")
    assert result.code == 2 and result.err.count("\n") == 1


def test_changed_weights_with_matching_hashes_are_found(
    run, golden_dir: Path, originals: list[str], tmp_path: Path
) -> None:
    """A directory that is sound in itself, but made from a stage file with one tensor changed."""
    import torch

    state = torch.load(golden_dir / "TinyGPT-V_for_Stage3.pth", weights_only=True)
    model = state.get("model", state)
    name = "llama_proj2.weight"
    model[name] = model[name].roll(1, 0)
    other = tmp_path / "TinyGPT-V_for_Stage3.pth"
    torch.save(state, other)
    options = [str(other) if option.endswith("Stage3.pth") else option for option in originals]
    out = tmp_path / "model"
    assert run("convert", *options, "--image-size", 56, "--out", out).code == 0
    assert run("verify", out, *options, "--summary").code == 0
    failed(run("verify", out, *originals, "--summary"), "projector.weight", "differs from the original files")
