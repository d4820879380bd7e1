"""Our directory: written whole or not at all, read strictly, every change noticed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygptv_fast.checkpoint import writer as writer_module
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.checkpoint.names import canonical_shapes
from tinygptv_fast.config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from tinygptv_fast.conversion import load_state, write_model
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.templates import Template
from tinygptv_fast.quantize.int4 import Int4Tensor, dequantize_int4, quantize_int4
from tinygptv_fast.quantize.int8 import Int8Tensor, dequantize_int8, quantize_int8

CONFIG = ModelConfig(
    text=TextConfig(width=24, layers=1, heads=2, head_dim=12, rotary_dims=4, mlp_width=40, vocab_size=512,
                    max_positions=64),
    vision=VisionConfig(image_size=28, patch_size=14, width=20, layers=1, heads=2, mlp_width=30),
    qformer=QFormerConfig(queries=3, width=16, layers=2, heads=2, mlp_width=20),
)  # fmt: skip
INT4 = QuantizationConfig(text="int4", group_size=32, vision="int8")


def tensors(config: ModelConfig = CONFIG) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in canonical_shapes(config).items()}


@pytest.fixture
def write(golden_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "model", values: Any = None, config: ModelConfig = CONFIG, **options: Any) -> Path:
        preprocessor = ImageProcessor(28).to_dict() if config.vision else None
        values = tensors(config) if values is None else values
        write_model(tmp_path / name, config, values, golden_dir / "phi" / "tokenizer.json", preprocessor, **options)
        return tmp_path / name

    return make


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_unquantised_round_trip_is_exact(write: Any) -> None:
    directory = open_directory(write(template="vicuna"))
    assert directory.config == CONFIG
    state = load_state(directory)
    assert state.keys() == tensors().keys()
    assert all(torch.equal(state[name], value) for name, value in tensors().items())
    assert directory.template.name == "vicuna"
    assert directory.generation_config["do_sample"] is False
    assert directory.generation_config["stop_strings"] == ["###"]
    assert ImageProcessor.from_dict(directory.preprocessor).image_size == 28
    assert directory.verify_hashes() == []
    assert "Human" in directory.chat_template


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantised_storage_is_what_quantising_gives(write: Any, symmetric: bool) -> None:
    quantization = QuantizationConfig(text="int4", group_size=32, symmetric=symmetric, vision="int8")
    directory = open_directory(write(quantization=quantization))
    state, source = load_state(directory), tensors()
    for name in directory.names():
        kind, value = directory.kind(name), source[name]
        if kind == "int4":
            packed = directory.quantized(name)
            assert isinstance(packed, Int4Tensor)
            assert torch.equal(state[name], dequantize_int4(quantize_int4(value, 32, symmetric)))
        elif kind == "int8":
            assert isinstance(directory.quantized(name), Int8Tensor)
            assert torch.equal(state[name], dequantize_int8(quantize_int8(value)))
        else:
            assert torch.equal(state[name], value)
    kinds = {name: directory.kind(name) for name in directory.names()}
    assert kinds["text.head.weight"] == kinds["text.layers.0.mlp.fc2.weight"] == "int4"
    assert kinds["text.embed.weight"] == kinds["projector.weight"] == kinds["vision.layers.0.attn.qkv.weight"] == "int8"
    assert kinds["vision.patch_embed.weight"] == kinds["qformer.query_tokens"] == kinds["text.head.bias"] == "float32"
    records = {record.name: record for record in directory.quality.tensors}
    assert records.keys() == kinds.keys()
    assert 0 < records["text.head.weight"].relative_l2 < 0.15
    assert records["text.head.bias"].relative_l2 == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_storage(write: Any, dtype: str) -> None:
    import dataclasses

    config = dataclasses.replace(CONFIG, dtype=dtype, quantization=QuantizationConfig(vision="bfloat16"))
    directory = open_directory(write(config=config))
    assert directory.tensor("text.head.weight").dtype == getattr(torch, dtype)
    assert directory.tensor("projector.weight").dtype == torch.bfloat16
    assert directory.tensor("text.final_norm.weight").dtype == torch.float32
    assert load_state(directory, dtype=torch.float32)["text.head.weight"].dtype == torch.float32
    big = tensors(config) | {"text.head.weight": torch.full((512, 24), 1e5)}
    if dtype == "float16":
        with pytest.raises(CheckpointError, match=r"text\.head\.weight.*beyond the range of float16"):
            write("big", big, config=config)


def test_every_tensor_is_aligned_for_its_dtype(write: Any) -> None:
    directory = open_directory(write(quantization=INT4))
    for name in directory.names():
        stored = [directory.quantized(name).scales] if "int" in directory.kind(name) else [directory.tensor(name)]
        assert all(part.data_ptr() % part.element_size() == 0 for part in stored)


def test_the_file_is_ordinary_safetensors(write: Any) -> None:
    path = write(quantization=INT4)
    loaded = load_file(path / "model.safetensors")
    assert loaded["text.head.qweight"].shape == (512, 12)
    assert loaded["text.head.scales"].dtype == torch.float16


def test_hash_names_what_changed(write: Any) -> None:
    path = write()
    before = open_directory(path).content_hash
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(bytes(data))
    (path / "generation_config.json").write_text("{}")
    found = {mismatch.name for mismatch in open_directory(path).verify_hashes()}
    assert len(found) == 2
    assert "generation_config.json" in found
    assert found - {"generation_config.json"} <= set(tensors())
    assert before == open_directory(path).content_hash  # of what was written, not of what is there


def test_content_hash_follows_the_weights(write: Any) -> None:
    first, same = open_directory(write("a")), open_directory(write("b"))
    other = open_directory(write("c", tensors() | {"text.head.bias": torch.zeros(512)}))
    assert first.content_hash == same.content_hash != other.content_hash


def resave(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Rewrite the weights with another program, then make the hashes agree: only the strict reader can object."""
    import hashlib

    from tinygptv_fast.checkpoint.safetensors_file import SafetensorsFile

    loaded = load_file(path / "model.safetensors")
    edit(loaded)
    save_file(loaded, path / "model.safetensors")
    file = SafetensorsFile(path / "model.safetensors")
    hashes = json.loads((path / "hashes.json").read_text())
    hashes["weights"] = {"size": file.size, "header_sha256": hashlib.sha256(file.header_bytes()).hexdigest()}
    (path / "hashes.json").write_text(json.dumps(hashes))


STRICT = {
    "missing": (lambda t: t.pop("text.head.bias"), r"text\.head\.bias is missing, expected \[512\] float32"),
    "extra": (lambda t: t.update(more=torch.ones(2)), r"more \[2\] float32 is not a tensor of this model"),
    "mis-shaped": (lambda t: t.update({"text.head.bias": torch.ones(511)}), r"is \[511\] float32, expected \[512\]"),
    "other dtype": (lambda t: t.update({"text.head.bias": torch.ones(512).half()}), "float16, expected"),
    "other storage": (lambda t: t.update({"text.embed.weight": torch.ones(512, 24)}), r"text\.embed\.weight"),
    "half of a pair": (lambda t: t.pop("text.embed.scales"), r"text\.embed\.scales is missing"),
}


@pytest.mark.parametrize("case", STRICT)
def test_weights_must_be_exactly_what_the_configuration_says(write: Any, case: str) -> None:
    edit, message = STRICT[case]
    path = write(quantization=INT4)
    resave(path, edit)
    with pytest.raises(CheckpointError, match=message):
        open_directory(path)


def test_a_head_in_int8_is_allowed_in_an_int4_model(write: Any) -> None:
    path = write(quantization=INT4)
    packed = quantize_int8(tensors()["text.head.weight"])
    resave(path, lambda t: t.update({"text.head.qweight": packed.qweight, "text.head.scales": packed.scales}))
    directory = open_directory(path)
    assert directory.kind("text.head.weight") == "int8"
    assert torch.equal(directory.dequantized("text.head.weight"), dequantize_int8(packed))


def test_weights_of_another_directory_are_noticed(write: Any) -> None:
    first, other = write("a"), write("b", config=CONFIG, quantization=INT4)
    shutil.copy(other / "model.safetensors", first)
    with pytest.raises(CheckpointError, match="does not fit"):
        open_directory(first)
    resave(other, lambda t: None)
    data = (other / "hashes.json").read_text().replace('"size":', '"size": 1, "was":')
    (other / "hashes.json").write_text(data)
    with pytest.raises(CheckpointError, match=r"is not the file hashes\.json was written for"):
        open_directory(other)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "hashes.json"])
def test_missing_files_are_named(write: Any, name: str) -> None:
    path = write()
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        open_directory(path)


def test_other_directories_and_versions_are_refused(write: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a directory"):
        open_directory(tmp_path / "nothing")
    path = write()
    config = json.loads((path / "config.json").read_text())
    for change, error, message in (
        ({"model_type": "phi"}, CheckpointError, "original files are converted first"),
        ({"format_version": 2}, CheckpointError, "format_version 2, this version reads 1"),
        ({"surprise": 1}, ConfigError, "unknown keys"),
        ({"dtype": "int3"}, ConfigError, "dtype"),
    ):
        (path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(error, match=message):
            open_directory(path)
    (path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as json"):
        open_directory(path)


def test_a_template_of_ones_own_survives(write: Any) -> None:
    mine = Template("mine", user="Q: ", assistant="A: ", stop=("\n", "Q:"))
    assert open_directory(write(template=mine)).template == mine


BAD_INPUT = {
    "missing": (lambda t: t.pop("text.head.bias"), "1 tensors of the model are missing: .'text.head.bias'"),
    "unknown": (lambda t: t.update(more=torch.ones(1)), "'more' is not a tensor of this model"),
    "mis-shaped": (
        lambda t: t.update({"text.head.bias": torch.ones(3)}),
        r"'text.head.bias' is \[3\], expected \[512\]",
    ),
    "integer": (lambda t: t.update({"text.head.bias": torch.ones(512).int()}), "int32, expected a floating"),
    "NaN": (
        lambda t: t["text.layers.0.mlp.fc1.weight"].fill_(float("nan")),
        "'text.layers.0.mlp.fc1.weight' holds NaN",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_bad_tensors_leave_nothing_behind(write: Any, tmp_path: Path, case: str, existing: bool) -> None:
    edit, message = BAD_INPUT[case]
    if existing:
        write()
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").glob("*")}
    values = tensors()
    edit(values)
    with pytest.raises(CheckpointError, match=message):
        write(values=values, quantization=INT4, overwrite=True)
    assert leftovers(tmp_path) == (["model"] if existing else [])
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").glob("*")} == before


def test_a_tensor_given_twice_is_refused(write: Any) -> None:
    pairs = [*tensors().items(), ("text.head.bias", torch.zeros(512))]
    with pytest.raises(CheckpointError, match=r"'text\.head\.bias' is given twice"):
        write(values=iter(pairs))


def test_ctrl_c_leaves_nothing_behind(write: Any, tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(progress=stop)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("when", ["reserving", "writing", "small files"])
def test_a_full_disk_leaves_nothing_behind(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = iter(range(10_000))
    real = os.pwrite

    def later(fd: int, data: Any, offset: int) -> int:
        return full() if next(calls) > 20 else real(fd, data, offset)

    if when == "reserving":
        monkeypatch.setattr(os, "posix_fallocate", full)
    elif when == "writing":
        monkeypatch.setattr(writer_module.os, "pwrite", later)
    else:
        monkeypatch.setattr("tinygptv_fast.conversion.writing.write_text", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*model: No space left on device; nothing was left"):
        write()
    monkeypatch.undo()
    assert leftovers(tmp_path) == []


def test_too_small_a_disk_is_noticed_before_the_work(write: Any, tmp_path: Path, monkeypatch: Any) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"0\.00 GB free, the model needs 0\.03 GB"):
        write()


def test_a_short_write_is_continued(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(writer_module.os, "pwrite", lambda fd, data, offset: real(fd, data[:100], offset))
    path = write()
    monkeypatch.undo()
    assert open_directory(path).verify_hashes() == []


def test_overwrite_replaces_only_our_own_directories(write: Any, tmp_path: Path) -> None:
    path = write()
    with pytest.raises(InvalidArgumentError, match="exists; pass overwrite=True"):
        write()
    write(overwrite=True, quantization=INT4)
    assert open_directory(path).config.quantization == INT4
    for name, content in (("photos", {"cat.png": "x"}), ("other", {"config.json": '{"model_type": "phi"}'})):
        (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(InvalidArgumentError, match="not a model directory of ours"):
            write(name, overwrite=True)
        assert leftovers(tmp_path / name) == sorted(content)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidArgumentError, match="not a plain directory"):
        write("file", overwrite=True)
    (tmp_path / "empty").mkdir()
    write("empty", overwrite=True)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(InvalidArgumentError, match="not a plain directory"):
        write("link", overwrite=True)


def test_a_failed_rename_puts_the_old_directory_back(write: Any, tmp_path: Path, monkeypatch: Any) -> None:
    path = write()
    real = os.rename

    def fail(source: Any, target: Any) -> None:
        if ".partial-" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write(overwrite=True, quantization=INT4)
    monkeypatch.undo()
    assert leftovers(tmp_path) == ["model"]
    assert open_directory(path).config.quantization.text == "none"


def test_progress_counts_every_byte_once(write: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    write(progress=lambda *line: seen.append(line), quantization=INT4)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert {name for _, _, name in seen} == set(tensors())


def test_arguments_are_checked(write: Any, golden_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="preprocessor"):
        write_model(tmp_path / "x", CONFIG, tensors(), golden_dir / "phi" / "tokenizer.json")
    with pytest.raises(ConfigError, match="prompt_template"):
        write(generation_config={"prompt_template": "raw"})
    small = ModelConfig(
        text=TextConfig(width=8, layers=1, heads=1, head_dim=8, rotary_dims=4, mlp_width=8, vocab_size=100)
    )
    with pytest.raises(CheckpointError, match="504 tokens, the model's vocabulary 100"):
        write(config=small)
    assert leftovers(tmp_path) == []
