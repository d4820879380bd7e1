"""Directory to packed weights: forms, memory, and the cache that must never make a model fail to load."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tinygptv_fast as tgv
from golden_support import convert_case
from tinygptv_fast.checkpoint.adapter import AdaptedDirectory, Adapter
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.config import LoraConfig, TextConfig
from tinygptv_fast.conversion import merge_directory
from tinygptv_fast.engine import PackedCache, choose_forms, choose_kv_tokens, load_weights, packed_cache, weights
from tinygptv_fast.errors import CapacityError, InvalidArgumentError
from tinygptv_fast.memory import Memory

LIMIT = 1 << 30


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    folder = tmp_path_factory.mktemp("int4") / "model"
    return open_directory(convert_case("A_stage1", folder, quantization="int4", dtype="auto", vision_dtype="int8"))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    return open_directory(convert_case("A_stage1", tmp_path_factory.mktemp("exact") / "model"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedCache:
    """An empty cache that small models use as well."""
    monkeypatch.setattr(weights, "SMALL_BYTES", 0)
    return PackedCache(tmp_path / "packed", LIMIT)


def content(loaded: weights.Loaded, folder: Path) -> str:
    """sha256 of the packed file that the weights make."""
    path = folder / f"{loaded.weights.id}.content"
    path.unlink(missing_ok=True)
    loaded.weights.save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- forms --------------------------------------------------------------------------------------------------------
def test_forms_follow_the_directory_and_the_dtype(int4: ModelDirectory, exact: ModelDirectory) -> None:
    stored = choose_forms(int4, "auto")
    assert stored.native() == {"body": ("int4", 32, True), "head": ("int4", 32, True), "embedding": "int8"}
    assert (stored.dtype, stored.kv_dtype("auto"), stored.kv_dtype("float32")) == ("int4", "int8", "float32")
    for directory in (int4, exact):
        forms = choose_forms(directory, "float32")
        assert (forms.body.kind, forms.head.kind, forms.embedding) == ("f32", "f32", "f32")
        assert forms.kv_dtype("auto") == "float32"
        assert choose_forms(directory, "bfloat16").kv_dtype("auto") == "bfloat16"
    assert choose_forms(exact, "auto") == choose_forms(exact, "float32")
    with pytest.raises(InvalidArgumentError, match="dtype is 'float16'"):
        choose_forms(exact, "float16")


def test_every_form_and_model_has_a_key_of_its_own(int4: ModelDirectory) -> None:
    keys = {choose_forms(int4, dtype).key(model) for dtype in ("auto", "float32", "bfloat16") for model in ("a", "b")}
    assert len(keys) == 6
    assert all(len(key) == 64 for key in keys)


@pytest.mark.parametrize("settings", [{"quantization": "int8"}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_every_storage_packs(settings: dict[str, str], tmp_path: Path) -> None:
    given = {"quantization": "none", **settings}
    directory = open_directory(convert_case("A_stage1", tmp_path / "m", **given))
    loaded = load_weights(directory, choose_forms(directory, "auto"), None)
    exact = load_weights(directory, choose_forms(directory, "float32"), None)
    kinds = {kind for _, kind, shape in loaded.weights.entries() if len(shape) == 2}
    assert kinds == {
        {"int8": "int8", "bfloat16": "bf16", "float16": "f32"}[settings.get("quantization") or settings["dtype"]]
    }
    assert len({content(loaded, tmp_path), content(exact, tmp_path)}) == (
        1 if settings.get("dtype") == "float16" else 2
    )


def test_kv_tokens_are_bounded_by_memory_and_hold_one_context() -> None:
    text = TextConfig(width=80, layers=2, heads=1, head_dim=80, mlp_width=160, vocab_size=100, max_positions=100)
    assert choose_kv_tokens(text, "int8", 4, usable_bytes=1 << 40) == 400
    assert choose_kv_tokens(text, "int8", 4, usable_bytes=0) == 112  # one context, in whole pages of 16
    affordable = choose_kv_tokens(text, "f32", 4, usable_bytes=2 * 200 * (2 * 2 * 80 * 4))
    assert affordable == 208


# --- packing ------------------------------------------------------------------------------------------------------
def test_a_packed_model_is_the_stored_one_and_the_source_stays_whole(int4: ModelDirectory) -> None:
    before = {name: int4.dequantized(name).clone() for name in int4.names()}
    loaded = load_weights(int4, choose_forms(int4, "auto"), None)
    assert loaded.source == "packed"
    assert loaded.weights.id == choose_forms(int4, "auto").key(int4.content_hash)
    assert all(torch.equal(int4.dequantized(name), tensor) for name, tensor in before.items())
    assert {name for name, _, _ in loaded.weights.entries()} == {
        name.removesuffix(".weight") if len(int4.shape(name)) == 2 else name
        for name in int4.names()
        if name.startswith("text.")
    }


def test_too_little_memory_is_said_before_it_is_taken(int4: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "read_memory", lambda: Memory(1 << 30, 1000, None, 1000, "never"))
    with pytest.raises(CapacityError, match=r"packed weights need .* GB"):
        load_weights(int4, choose_forms(int4, "auto"), None)


# --- the cache ----------------------------------------------------------------------------------------------------
def test_small_models_are_not_kept(int4: ModelDirectory, tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, LIMIT)
    assert load_weights(int4, choose_forms(int4, "auto"), cache).source == "packed"
    assert cache.entries() == []


def test_a_second_load_comes_from_the_cache(int4: ModelDirectory, cache: PackedCache, tmp_path: Path) -> None:
    forms = choose_forms(int4, "auto")
    first, second = load_weights(int4, forms, cache), load_weights(int4, forms, cache)
    assert (first.source, second.source, second.weights.mapped) == ("packed", "cache", False)
    assert content(first, tmp_path) == content(second, tmp_path)
    assert load_weights(int4, choose_forms(int4, "float32"), cache).source == "packed"
    assert len(cache.entries()) == 2


def test_mapped_weights_are_the_file(int4: ModelDirectory, cache: PackedCache, tmp_path: Path) -> None:
    forms = choose_forms(int4, "auto")
    first, second = (load_weights(int4, forms, cache, mapped=True) for _ in range(2))
    assert (first.source, second.source) == ("mapped", "mapped")
    assert first.weights.mapped and second.weights.mapped
    assert content(first, tmp_path) == content(load_weights(int4, forms, None), tmp_path)


@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "other model"])
def test_a_damaged_file_is_packed_again(
    damage: str, int4: ModelDirectory, cache: PackedCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forms = choose_forms(int4, "auto")
    golden = content(load_weights(int4, forms, cache), tmp_path)
    path = cache.path(forms.key(int4.content_hash))
    data = bytearray(path.read_bytes())
    if damage == "byte":
        data[-1000] ^= 1
    elif damage == "other model":
        other = choose_forms(int4, "float32")
        load_weights(int4, other, cache)
        data = bytearray(cache.path(other.key(int4.content_hash)).read_bytes())
    path.write_bytes(data[: {"cut": len(data) // 2, "empty": 0}.get(damage, len(data))])
    with caplog.at_level(logging.WARNING):
        again = load_weights(int4, forms, cache)
    assert again.source == "packed"
    assert "packed again" in caplog.text and str(path) in caplog.text
    assert content(again, tmp_path) == golden
    assert load_weights(int4, forms, cache).source == "cache"


def test_a_cache_that_cannot_be_written_costs_a_notice(
    int4: ModelDirectory, cache: PackedCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = PackedCache(tmp_path / "file" / "packed", LIMIT)
    with caplog.at_level(logging.WARNING):
        assert load_weights(int4, choose_forms(int4, "auto"), blocked).source == "packed"
    assert len(caplog.records) == 1 and "not kept" in caplog.text


_FULL_DISK = """
import logging, resource, sys
from pathlib import Path
from tinygptv_fast.checkpoint.adapter import Adapter, AdaptedDirectory
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.engine import PackedCache, choose_forms, load_weights, weights
logging.basicConfig(level="WARNING")
weights.SMALL_BYTES = 0
directory, cache = open_directory(sys.argv[1]), PackedCache(Path(sys.argv[2]), 1 << 30)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(load_weights(directory, choose_forms(directory, "auto"), cache, mapped=True).source)
"""


def test_a_full_disk_costs_a_notice_and_leaves_nothing(int4: ModelDirectory, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(int4.path), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "packed"
    assert "not kept" in done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_least_recently_used_files_make_room(int4: ModelDirectory, cache: PackedCache) -> None:
    forms = [choose_forms(int4, dtype) for dtype in ("auto", "bfloat16", "float32")]
    sizes = [load_weights(int4, form, None).weights.bytes for form in forms]
    cache.limit = sizes[0] + sizes[2] + 20_000  # not all three
    for age, form in ((300, forms[0]), (200, forms[1])):
        load_weights(int4, form, cache)
        path = cache.path(form.key(int4.content_hash))
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    assert load_weights(int4, forms[0], cache).source == "cache"  # now the younger one
    load_weights(int4, forms[2], cache)
    assert [e.key for e in cache.entries()] == [form.key(int4.content_hash) for form in (forms[2], forms[0])]
    assert sum(entry.bytes for entry in cache.entries()) <= cache.limit
    assert cache.clear() > 0
    assert cache.entries() == []


def test_weights_larger_than_the_cache_are_not_kept(
    int4: ModelDirectory, cache: PackedCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.limit = 1000
    with caplog.at_level(logging.WARNING):
        assert load_weights(int4, choose_forms(int4, "auto"), cache).source == "packed"
    assert "TINYGPTV_CACHE_GB" in caplog.text
    assert cache.entries() == []


def test_who_waits_too_long_for_the_lock_packs_in_memory(
    int4: ModelDirectory, cache: PackedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_cache, "LOCK_WAIT_S", 0.0)
    forms = choose_forms(int4, "auto")
    cache.root.mkdir()
    with open(cache.root / f"{forms.key(int4.content_hash)}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert load_weights(int4, forms, cache).source == "packed"
        assert cache.entries() == []
    load_weights(int4, forms, cache)
    assert len(cache.entries()) == 1


_RACER = """
import json, sys
from pathlib import Path
from tinygptv_fast.checkpoint.adapter import Adapter, AdaptedDirectory
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.engine import PackedCache, choose_forms, load_weights, weights
weights.SMALL_BYTES = 0
directory = open_directory(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
loaded = load_weights(directory, choose_forms(directory, "auto"), PackedCache(Path(sys.argv[2]), 1 << 30))
print(json.dumps([loaded.source, loaded.weights.id]))
"""


def test_processes_that_start_together_pack_once(int4: ModelDirectory, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _RACER, str(int4.path), str(tmp_path)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    results = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        results.append(json.loads(racer.communicate(timeout=120)[0]))
    assert sorted(source for source, _ in results) == ["cache", "cache", "packed"]
    assert len({key for _, key in results}) == 1


def test_the_environment_names_and_bounds_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("TINYGPTV_CACHE_GB", "1.5")
    found = PackedCache.from_environment()
    assert found is not None
    assert (found.root, found.limit) == (tmp_path / "here" / "packed", 1_500_000_000)
    monkeypatch.setenv("TINYGPTV_CACHE_GB", "0")
    assert PackedCache.from_environment() is None


def test_info_says_where_weights_came_from(
    int4: ModelDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYGPTV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(weights, "SMALL_BYTES", 0)
    sources, ids = [], []
    for load in ("auto", "auto", "mmap"):
        with tgv.TinyGPTV.from_pretrained(int4.path, load=load, kv_tokens=512) as model:
            sources.append(model.info["weights_from"])
            ids.append(model.generate(None, "where?", max_new_tokens=8).token_ids)
    assert sources == ["packed", "cache", "mapped"]
    assert ids[0] == ids[1] == ids[2]


# --- adapters -----------------------------------------------------------------------------------------------------
STORAGES = [
    {"quantization": "none", "dtype": "float32"},
    {"quantization": "none", "dtype": "bfloat16"},
    {"quantization": "int8"},
    {"quantization": "int4"},
]


@pytest.mark.parametrize("settings", STORAGES, ids=lambda given: "-".join(given.values()))
def test_what_an_adapter_changes_is_packed_changed(settings: dict[str, str], tmp_path: Path) -> None:
    """As stored: what the merged directory packs to. In float32: W + scale BA, not rounded to the storage form."""
    base = open_directory(convert_case("A_stage1", tmp_path / "m", **settings))
    name = "text.layers.0.attn.qkv.weight"
    rows, columns = base.shape(name)
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
    norm = torch.rand(columns, generator=generator)
    adapted = AdaptedDirectory(base, Adapter(LoraConfig(2, 0.1, 0.0), {name: pair}, {"text.final_norm.weight": norm}))
    merge_directory(adapted, tmp_path / "merged")
    merged = open_directory(tmp_path / "merged")

    def packed(directory: ModelDirectory, dtype: str) -> str:
        made = weights.pack(directory, choose_forms(directory, dtype), "0" * 64)
        return content(weights.Loaded(made, "packed"), tmp_path)

    assert packed(adapted, "auto") == packed(merged, "auto") != packed(base, "auto")
    exact = adapted.dequantized(name)
    assert torch.equal(torch.from_numpy(weights._floats(adapted, name)), exact)
    bits = torch.from_numpy(weights._bfloat16_bits(adapted, name))
    assert torch.equal(bits.view(torch.bfloat16), exact.bfloat16())
