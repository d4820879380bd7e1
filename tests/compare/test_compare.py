"""The race against other engines, without any: prompts, accuracy, tables, our adapter, the GGUF file's layout."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.conversion import load_state
from tinygptv_fast.processing.tokenizer import Tokenizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMPARE = BENCHMARKS / "compare"


@pytest.fixture(scope="module")
def load() -> Any:
    """Imports a module of the race."""
    paths = [str(COMPARE), str(COMPARE / "make"), str(BENCHMARKS)]
    sys.path[:0] = paths
    try:
        yield importlib.import_module
    finally:
        del sys.path[: len(paths)]


@pytest.fixture(scope="module")
def work(load: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with a tiny checkpoint, the words of the full tokenizer, and our directory."""
    root, script = tmp_path_factory.mktemp("work"), load("make_full_size")
    (root / "models").mkdir()
    sizes = script.Sizes(**{**vars(script.SMALL), "vocab": 51200, "merges": 50_000})
    script.write_phi(root / "models" / "phi2-hf", script.Maker(sizes, 0, False), True, lambda count: None)
    source = root / "models" / "phi2-hf"
    words = [sys.executable, str(COMPARE / "make" / "words.py"), str(source), str(root / "words.json")]
    subprocess.run(words, check=True)
    for name, more in (("stock", []), ("normed", ["--norms"])):
        ours = [sys.executable, str(COMPARE / "make" / "ours.py"), str(source), str(root / "models" / name)]
        subprocess.run([*ours, *more], check=True)
    return root


def test_prompts_are_the_tokens_of_their_text(load: Any, work: Path) -> None:
    words = load("layout").Words(work)
    tokenizer = Tokenizer.from_file(work / "models" / "phi2-hf" / "tokenizer.json")
    prompts = [words.prompt(length, "seed") for length in (1, 2, 63, 64, 1024)] + words.accuracy_prompts()
    for prompt in prompts:
        assert tokenizer.encode(prompt.text) == prompt.ids
    assert [len(prompt.ids) for prompt in prompts] == [1, 2, 63, 64, 1024, 64, 64, 64]
    assert words.prompt(64, "seed").ids == prompts[3].ids
    assert words.prompt(64, "other").ids != prompts[3].ids
    assert len(set(prompts[4].ids)) > 300


def test_accuracy_figures(load: Any) -> None:
    truth = np.log(np.array([[[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]], dtype=np.float32))
    compare = load("worker").compare
    same = compare(truth[0].astype(np.float64) + 3.0, truth)  # a constant changes no probability
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    assert same["same_argmax"] == 1.0
    assert same["relative_l2"] == pytest.approx(3 * 6**0.5 / np.linalg.norm(truth), rel=1e-4)
    swapped = compare(truth[0, ::-1].astype(np.float64), truth)
    assert swapped["kl"] == pytest.approx(0.25 * np.log(2), abs=1e-6)
    assert swapped["same_argmax"] == 0.0


def line(entry: str, metric: str, value: float, number: int, contended: bool = False) -> dict[str, Any]:
    common = {"round": number, "foreign": 0.0, "stolen": 0.0, "unit": "tok/s"}
    return {"entry": entry, "metric": metric, "value": value, "contended": contended, **common}


def test_ratios_are_taken_within_a_round(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table, find = load("table"), load("catalogue").find
    lines = [
        line("ours-g32", "decode@64", 30, 1),
        line("llamacpp-q4_0", "decode@64", 20, 1),
        line("onnxruntime-b128", "decode@64", 25, 1),
        line("ours-g32", "decode@64", 60, 2),
        line("llamacpp-q4_0", "decode@64", 40, 2),
        line("onnxruntime-b128", "decode@64", 500, 2, contended=True),
        line("ours-g32", "decode@64", 10, 3),
        line("llamacpp-q4_0-avx2", "decode@64", 1, 3),
    ]
    any_peer, same_group, llama = (accepts for _, accepts in table._classes(find("ours-g32")))
    ours = find("ours-g32")
    assert table.ratios(lines, ours, "decode@64", any_peer) == {1: (1.2, "onnxruntime-b128"), 2: (1.5, "llamacpp-q4_0")}
    assert table.ratios(lines, ours, "decode@64", same_group)[1] == (1.5, "llamacpp-q4_0")
    assert table.ratios(lines, ours, "decode@64", llama).keys() == {1, 2}
    table.print_all(lines)
    printed = capsys.readouterr().out
    assert "1 measurements while others used the CPU" in printed
    assert "1.35" in printed  # the median of 1.2 and 1.5


def test_fractions_need_steady_probes(load: Any) -> None:
    table, entry = load("table"), load("catalogue").find("llamacpp-q4_0")
    rate = 40e9 / entry.bytes_per_token
    lines = [line(entry.name, "decode@64", rate, number) for number in (1, 2)]
    probe = {"entry": entry.name, "metric": "probe"}
    lines += [
        {**probe, "round": 1, "before": 39.0, "after": 41.0},
        {**probe, "round": 2, "before": 30.0, "after": 50.0},
    ]
    assert table.fractions(lines, entry) == [pytest.approx(1.0)]


def test_every_entry_can_be_run(load: Any) -> None:
    catalogue, environments = load("catalogue"), load("prepare").ENVIRONMENTS
    names = [entry.name for entry in catalogue.ENTRIES]
    assert len(set(names)) == len(names)
    for entry in catalogue.ENTRIES:
        assert (COMPARE / "engines" / f"{entry.module}.py").is_file()
        assert entry.environment is None or entry.environment in environments
    for requirements, _ in environments.values():
        assert (COMPARE / "requirements" / f"{requirements}.txt").is_file()


def test_rounds_shift_and_extras_run_once(load: Any) -> None:
    find, turns = load("catalogue").find, load("race").turns
    entries = [find(name) for name in ("ours-g32", "llamacpp-q4_0", "torch-bf16")]
    order = [(number, entry.name) for number, entry in turns(entries, 2)]
    assert order == [
        (1, "ours-g32"), (1, "llamacpp-q4_0"), (2, "llamacpp-q4_0"), (2, "ours-g32"), (2, "torch-bf16"),
    ]  # fmt: skip


def test_our_directories_are_the_checkpoint(work: Path) -> None:
    stock, normed = (open_directory(work / "models" / name) for name in ("stock", "normed"))
    assert (stock.config.text.qk_norm, stock.config.text.post_attention_norm) == (False, False)
    assert (normed.config.text.qk_norm, normed.config.text.post_attention_norm) == (True, True)
    for directory in (stock, normed):
        assert directory.config.eos_token_id is None
        assert directory.config.quantization.text == "int4"
    part = "text.layers.1.mlp.fc2.weight"
    assert torch.equal(load_state(stock)[part], load_state(normed)[part])
    gains = normed.tensor("text.layers.1.attn.q_norm.weight")
    assert bool((gains != 1).any()) and bool(((gains - 1).abs() < 1).all())


def test_our_adapter_through_the_api(load: Any, work: Path) -> None:
    words = load("layout").Words(work)
    engine = load("engines.ours").Engine(work / "models" / "stock", 1, level="api", backend="reference")
    prompt, other = words.prompt(9, "a"), words.prompt(9, "b")
    run = engine.generate([prompt], 4)
    assert run.tokens == 3
    assert 0 < run.prefill_seconds and 0 < run.seconds
    assert engine.generate([prompt, other], 3).tokens == 6
    logits = engine.logits(prompt)
    model = tgv.TinyGPTV.from_pretrained(work / "models" / "stock", vision=False, backend="reference")
    expected = model.logits(None, prompt.text, template="raw").numpy()
    assert logits.shape == (9, 51200)
    assert np.array_equal(logits, expected)


def test_the_gguf_file_stacks_q_k_and_v(load: Any, work: Path) -> None:
    script = load("gguf_file")
    get = script.reader(work / "models" / "phi2-hf")
    tensors = script.layer_tensors(get, 1)
    fused = tensors["blk.1.attn_qkv.weight"]
    assert fused.dtype == np.float16
    assert np.array_equal(fused[64:128], get("model.layers.1.self_attn.k_proj.weight"))
    assert tensors["blk.1.attn_qkv.bias"].dtype == np.float32
    assert np.array_equal(tensors["blk.1.ffn_down.weight"], get("model.layers.1.mlp.fc2.weight"))
    assert set(script.top_tensors(get)) == {
        "token_embd.weight", "output_norm.weight", "output_norm.bias", "output.weight", "output.bias",
    }  # fmt: skip


def test_preparation_keeps_what_is_there(load: Any, tmp_path: Path) -> None:
    prepare = load("prepare").Prepare(tmp_path, None, None)
    calls: list[Path] = []

    def make(at: Path, text: str) -> None:
        calls.append(at)
        at.write_text(text)
        if text == "broken":
            raise RuntimeError(text)

    with pytest.raises(RuntimeError):
        prepare._once(tmp_path / "words.json", make, "broken")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
    prepare._once(tmp_path / "words.json", make, json.dumps([]))
    prepare._once(tmp_path / "words.json", make, "again")
    assert (tmp_path / "words.json").read_text() == "[]"
    assert len(calls) == 2
