"""``tinygptv train`` and ``finetune``: from a json file to an adapter that changes answers and merges; bad input."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tinygptv_fast as tgv
from golden_support import GOLDEN
from stage_support import PICTURES, WORDS, begin, data, settings, tiny_model, vqa_records, write_json
from tinygptv_fast.checkpoint.adapter import AdaptedDirectory, open_adapted, read_adapter
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.cli import main
from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.reference import TinyGPTVReference
from tinygptv_fast.train.stages.config import load_stage
from tinygptv_fast.train.stages.launch import Launch, launch, mixture
from tinygptv_fast.train.stages.readers import read_examples
from tinygptv_fast.train.stages.run import train_stage
from tinygptv_fast.train.stages.start import open_start, trained_adapter

QUESTION = {"conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "the sea"}]}
BOX = {"image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 12]}
COCO = {
    "images": [{"id": 1, "file_name": PICTURES[0].name}],
    "categories": [{"id": 7, "name": "dog"}],
    "annotations": [BOX],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of ``tinygptv finetune`` with a merged model beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    write_json(folder / "vqa.json", vqa_records())
    config = write_json(folder / "config.json", {"lora_rank": 8, "lora_alpha": 16.0, "save_every": 100})
    arguments = ["finetune", folder / "vqa.json", "--model", model, "--out", folder / "run", "--config", config]
    more = [
        "--steps",
        40,
        "--batch-size",
        6,
        "--lr",
        0.01,
        "--merge",
        folder / "merged",
        "--merge-quantization",
        "none",
    ]
    assert main([str(a) for a in [*arguments, *more, "--threads", 1]]) == 0
    return folder


def answers(model: Path, **how: Any) -> list[str]:
    with tgv.TinyGPTV.from_pretrained(model, **how) as opened:
        return [opened.generate(r["image"], r["question"], max_new_tokens=12).text for r in vqa_records()]


# --- the whole way ----------------------------------------------------------------------------------------------------
def test_finetuned_model_gives_the_answers_it_was_taught(model: Path, tuned: Path) -> None:
    adapter = tuned / "run" / "adapter"
    assert answers(model) != list(WORDS)
    assert answers(model, adapter=adapter) == list(WORDS)
    assert answers(model, adapter=adapter, backend="reference") == list(WORDS)
    assert answers(tuned / "merged") == list(WORDS)


def test_merged_is_the_adapter(model: Path, tuned: Path) -> None:
    adapted, merged = open_adapted(model, tuned / "run" / "adapter"), open_directory(tuned / "merged")
    assert adapted.content_hash != open_directory(model).content_hash
    for name in merged.names():
        torch.testing.assert_close(merged.dequantized(name), adapted.dequantized(name), rtol=0, atol=0)
    start = open_start(model, settings(lora_rank=8, lora_alpha=16.0), adapter=tuned / "run" / "adapter")
    whole = TinyGPTVReference(merged.config)
    whole.load_state_dict({name: merged.dequantized(name).float() for name in merged.names()})
    embeds = torch.randn(1, 9, merged.config.text.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            start.model.eval().text.logits(start.model.text(embeds)),
            whole.text.logits(whole.text(embeds)),
            rtol=0,
            atol=2e-4,
        )


def test_an_int4_directory_with_the_adapter_holds_what_a_merged_one_holds(
    model: Path, tuned: Path, tmp_path: Path
) -> None:
    with tgv.TinyGPTV.from_pretrained(model, adapter=tuned / "run" / "adapter") as opened:
        assert opened.info["adapter"] == str(tuned / "run" / "adapter")
        opened.save_pretrained(tmp_path / "exact")
    assert answers(tmp_path / "exact") == list(WORDS)
    write_json(tmp_path / "vqa.json", vqa_records())
    config = settings(steps_per_epoch=1)
    what = Launch(config, str(model), [tmp_path / "vqa.json"], tmp_path / "run")
    launch(what)
    from tinygptv_fast.train.stages.launch import merge

    merge(what, tmp_path / "int4")  # of an unquantised model: int4, the vision side in int8
    quantised = open_directory(tmp_path / "int4")
    assert (quantised.config.quantization.text, quantised.config.quantization.vision) == ("int4", "int8")
    adapted = open_adapted(tmp_path / "int4", tmp_path / "run" / "adapter")
    again = dict(load_file(tmp_path / "int4" / "model.safetensors"))
    name = "text.layers.0.mlp.fc1.weight"  # which no adapter touches
    assert torch.equal(adapted.quantized(name).qweight, again["text.layers.0.mlp.fc1.qweight"])


def test_peft_layout(tuned: Path) -> None:
    folder = tuned / "run" / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and (config["r"], config["lora_alpha"]) == (8, 16.0)
    assert config["target_modules"] == ["query_key_value", "dense"]
    keys = set(load_file(folder / "adapter_model.safetensors"))
    layer = "base_model.model.model.layers.0."
    assert {
        layer + f"self_attn.{part}.lora_{half}.weight" for part in ("query_key_value", "dense") for half in "AB"
    } <= keys
    assert {layer + "input_layernorm.weight", layer + "input_layernorm.bias", layer + "post_layernorm.weight"} <= keys
    assert {"base_model.model.model.final_layernorm.weight", "base_model.model.projector.weight"} <= keys


def test_next_stage_goes_on_from_the_adapter(model: Path, tmp_path: Path) -> None:
    """Stage 1 with a fresh projector in two factors, stage 3 from its adapter, with new LoRA; both in the original's
    layout."""
    small = {"batch_size": 3, "steps_per_epoch": 2, "repeats": 1, "epochs": 1, "ratios": {}}
    first = load_stage(1, changes={**small, "projector_hidden": 24})
    start = open_start(model, first)
    assert start.model.projector.proj1.weight.shape == (24, start.model.config.qformer.width)  # type: ignore[union-attr]
    assert train_stage(start, first, data(tmp_path, first), tmp_path / "one")
    assert not trained_adapter(start, first).lora
    third = load_stage(3, changes={**small, "lora_rank": 4})
    later = open_start(model, third, adapter=tmp_path / "one" / "adapter")
    for name, tensor in start.model.named_parameters():
        assert torch.equal(dict(later.model.named_parameters())[name], tensor), name
    assert train_stage(later, third, data(tmp_path, third), tmp_path / "three")
    adapter = read_adapter(tmp_path / "three" / "adapter", open_directory(model).config)
    assert len(adapter.lora) == 2 * later.model.config.text.layers and adapter.config == third.lora
    folded = AdaptedDirectory(open_directory(model), adapter).dequantized("projector.weight")
    torch.testing.assert_close(folded, later.model.projector.folded()[0].detach())
    with pytest.raises(InvalidArgumentError, match="has LoRA of rank 4, alpha 16, the config no LoRA"):
        open_start(model, first, adapter=tmp_path / "three" / "adapter")


def test_the_whole_recipe_starts_from_the_originals_files_without_a_checkpoint(tmp_path: Path) -> None:
    files = {"phi": GOLDEN / "phi_base_bin", "vision": GOLDEN / "eva_vit_g.pth"}
    bridge = {"qformer": GOLDEN / "blip2_pretrained_flant5xxl.pth", "architecture": GOLDEN / "sizes.json"}
    out = tmp_path / "start"
    tgv.convert(**files, **bridge, out=out, image_size=56, quantization="none", untrained=True)  # type: ignore[arg-type]
    directory = open_directory(out)
    assert bool((directory.tensor("text.layers.0.attn.q_norm.weight") == 1).all())
    with pytest.raises(CheckpointError, match="is where training starts"):
        tgv.TinyGPTV.from_pretrained(out)
    config = load_stage(
        1, changes={"batch_size": 3, "steps_per_epoch": 20, "repeats": 1, "init_lr": 1e-2, "ratios": {}}
    )
    start = open_start(out, config)
    assert train_stage(start, config, data(tmp_path, config), tmp_path / "one")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < sum(losses[:3])
    with tgv.TinyGPTV.from_pretrained(out, adapter=tmp_path / "one" / "adapter") as opened:
        assert opened.generate(PICTURES[0], "what?", max_new_tokens=3).token_ids
    with pytest.raises(InvalidArgumentError, match="untrained is given"):
        tgv.convert(**files, out=tmp_path / "no", untrained=True)  # type: ignore[arg-type]


def test_training_uses_what_the_vision_side_said_before(model: Path, tmp_path: Path) -> None:
    config = settings(steps_per_epoch=2)
    for name in ("one", "two"):
        assert train_stage(
            begin(model, config), config, data(tmp_path, config), tmp_path / name, features=tmp_path / "seen"
        )
    files = list((tmp_path / "seen").iterdir())
    assert len(files) == 3 and all(file.suffix == ".safetensors" for file in files)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("one", "two")]
    assert [json.loads(line)["loss"] for line in logs[0].splitlines()] == [
        json.loads(line)["loss"] for line in logs[1].splitlines()
    ]


# --- the three forms of data ------------------------------------------------------------------------------------------
def folder_with_pictures(folder: Path) -> Path:
    for picture in PICTURES:
        shutil.copy(picture, folder / picture.name)
    return folder


def test_llava_conversations(tmp_path: Path) -> None:
    folder_with_pictures(tmp_path)
    turns = [*QUESTION["conversations"], {"from": "human", "value": "why?"}, {"from": "gpt", "value": "water"}]
    file = read_examples(write_json(tmp_path / "a.json", [{"image": PICTURES[1].name, "conversations": turns}]))
    (example,) = file.examples
    assert file.kind == "llava" and example.images == (tmp_path / PICTURES[1].name,)
    assert [(t.question, t.answer) for t in example.turns] == [("what?", "the sea"), ("why?", "water")]


def test_vqa_with_several_answers_takes_the_most_frequent(tmp_path: Path) -> None:
    record = {"question": "how many?", "answer": ["2", "two", "2"], "task": "vqa"}
    file = read_examples(write_json(tmp_path / "a.json", [record]))
    assert file.kind == "vqa" and file.examples[0].turns[0].answer == "2" and file.examples[0].task == "vqa"


def test_coco_boxes_become_detection_and_refer(tmp_path: Path) -> None:
    folder_with_pictures(tmp_path)
    coco = copy.deepcopy(COCO)
    assert isinstance(coco["annotations"], list) and isinstance(coco["categories"], list)
    coco["categories"].append({"id": 8, "name": "tree"})
    coco["annotations"] += [{"image_id": 1, "category_id": 8, "bbox": b} for b in ([0, 0, 5, 5], [5, 5, 6, 6])]
    file = read_examples(write_json(tmp_path / "a.json", coco))
    found = [(e.task, e.turns[0].question, e.turns[0].answer) for e in file.examples]
    assert file.kind == "coco" and [task for task, _, _ in found] == ["detection", "refer", "detection"]
    assert found[0][1] == "dog" and found[0][2].startswith("<p>dog</p>{<")
    assert "dog" in str(found[1][1]) and found[0][2] == f"<p>dog</p>{found[1][2]}"
    assert found[2][2].count("<delim>") == 1


def vqa(**changes: Any) -> list[dict[str, Any]]:
    return [
        {"image": PICTURES[0].name, "question": "what?", "answer": "x"},
        {"question": "q", "answer": "a", **changes},
    ]


def coco(**changes: Any) -> dict[str, Any]:
    return {**COCO, "annotations": [BOX, {**BOX, **changes}]}


BAD: list[tuple[str, Any, str]] = [
    ("not json", "{nonsense", "is not json"),
    ("no list", {"a": 1}, "is of no known form, expected a list of"),
    ("empty", [], "is an empty list"),
    ("unknown records", [{"text": "x"}], "is of no known form"),
    ("record of another kind", [*vqa(), 3], "record 2: it is int"),
    ("missing picture", vqa(image="gone.png"), r"record 1: its picture .*gone.png does not exist"),
    ("not a picture", vqa(image="data.json"), r"record 1: its picture .*data.json cannot be read"),
    ("empty answer", vqa(answer="  "), "record 1: its answer is empty"),
    ("no answer", vqa(answer=None), "record 1: its answer is None"),
    ("empty question", vqa(question=""), "record 1: its question is empty"),
    ("unknown task", vqa(task="sing"), "record 1: its task is 'sing'"),
    ("box beyond the picture", vqa(answer="{<10><20><300><40>}"), "record 1: its answer has the box"),
    ("conversation of one", [{"conversations": [{"from": "human", "value": "q"}]}], "record 0: it has 1 turns"),
    ("gpt first", [{"conversations": [{"from": "gpt", "value": "q"}]}], r"conversations\[0\]: it is from 'gpt'"),
    ("picture mark without picture", [QUESTION], r"conversations\[0\]: it has 1 <image>, expected 0"),
    ("box outside", coco(bbox=[0, 0, 9999, 5]), r"annotations\[1\]: its bbox \[0, 0, 9999, 5\] is not inside"),
    ("flat box", coco(bbox=[3, 3, 0, 5]), r"annotations\[1\]: its bbox .* is not inside"),
    ("no box", coco(bbox="all"), r"annotations\[1\]: its bbox is 'all'"),
    ("unknown category", coco(category_id=9), r"annotations\[1\]: image_id 1 or category_id 9"),
    ("reserved mark", vqa(question="what is ### here?"), "record 1: the question contains '###'"),
    ("end mark in answer", vqa(answer="a ### b"), "record 1: the answer contains '###'"),
    ("too long", vqa(question="what " * 2000), "record 1: it takes .* positions, expected at most"),
]


@pytest.mark.parametrize(("content", "words"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_data_is_one_error_naming_file_and_record(content: Any, words: str, model: Path, tmp_path: Path) -> None:
    folder_with_pictures(tmp_path)
    path = tmp_path / "data.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        launch(Launch(settings(), str(model), [path], tmp_path / "run"))
    assert "data.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_ratios_and_replay(tmp_path: Path) -> None:
    def write(name: str) -> Path:
        return write_json(tmp_path / f"{name}.json", [{"question": "q", "answer": name}])

    config = settings(ratios={"one": 3.0}, replay_ratio=0.2)
    mixed = mixture(Launch(config, "demo", [write("one"), write("two")], tmp_path, replay=write("old")))
    assert mixed.weights == pytest.approx({"one": 0.6, "two": 0.2, "replay": 0.2})


# --- adapters of elsewhere --------------------------------------------------------------------------------------------
def damaged(tuned: Path, out: Path, tensors: Callable[[dict[str, Any]], None], **config: Any) -> Path:
    shutil.copytree(tuned / "run" / "adapter", out)
    changed = {**json.loads((out / "adapter_config.json").read_text()), **config}
    write_json(out / "adapter_config.json", changed)
    stored = load_file(out / "adapter_model.safetensors")
    tensors(stored)
    save_file(stored, out / "adapter_model.safetensors")
    return out


LORA_A = "base_model.model.model.layers.0.self_attn.dense.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "config", "words"),
    [
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2)}),
            {},
            "is for no tensor an adapter may",
        ),
        (lambda t: t.pop(LORA_A), {}, "has one LoRA half"),
        (
            lambda t: t.update({LORA_A: torch.zeros(8, 3)}),
            {},
            "LoRA A is .8, 3., expected .8, 80.: an adapter of another",
        ),
        (lambda t: t[LORA_A].fill_(float("nan")), {}, "holds NaN"),
        (lambda t: None, {"use_dora": True}, "use_dora is True"),
        (lambda t: None, {"peft_type": "IA3"}, "peft_type is 'IA3'"),
        (lambda t: None, {"r": 4}, "expected .4, 80."),
    ],
    ids=["unknown", "half", "shape", "nan", "dora", "type", "rank"],
)
def test_bad_adapters(
    change: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    words: str,
    model: Path,
    tuned: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(CheckpointError, match=words):
        tgv.TinyGPTV.from_pretrained(model, adapter=damaged(tuned, tmp_path / "bad", change, **config))


def test_adapter_names_of_old_and_new_peft_load_alike(model: Path, tuned: Path, tmp_path: Path) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for name in [n for n in tensors if "lora_" in n]:
            tensors[name.replace(".weight", ".default.weight")] = tensors.pop(name)

    config = open_directory(model).config
    other = read_adapter(damaged(tuned, tmp_path / "new", rename), config)
    ours = read_adapter(tuned / "run" / "adapter", config)
    assert all(torch.equal(a, b) for name in ours.lora for a, b in zip(ours.lora[name], other.lora[name], strict=True))
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path, config)


# --- the command line -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--stage", "7", "--out", "x"], "--stage is '7', expected 1, 2, 3 or 4"),
        (["train", "--stage", "1", "--out", "x"], "train needs --data"),
        (["train", "--stage", "1", "--out", "x", "--data", "gone.json", "--model", "demo"], "--data is gone.json"),
        (["train", "--stage", "1", "--out", "x", "--config", "gone.json"], "--config is gone.json"),
        (["finetune", "gone.json", "--out", "x", "--model", "demo"], "DATA is gone.json"),
    ],
)
def test_bad_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_more_bad_arguments(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(write_json(tmp_path / "vqa.json", vqa_records()))
    wrong = str(write_json(tmp_path / "wrong.json", {"speed": 3}))
    for more, words in (
        (["--config", wrong], "config has unknown keys ['speed']"),
        (["--merge", str(tmp_path)], "which exists; expected a new directory"),
        (["--replay-ratio", "0.5"], "--replay-ratio is given without --replay"),
        (["--out", good], "a file, expected a directory"),
        (["--adapter", str(tmp_path)], "has no adapter_config.json"),
    ):
        assert main(["finetune", good, "--model", str(model), "--out", str(tmp_path / "run"), *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["train", "--stage", "2", "--out", "x", "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["lora_rank"] == 64


def test_train_command_stops_by_the_clock_and_resumes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = write_json(
        tmp_path / "captions.json", [{"image": str(p), "question": "what?", "answer": "a"} for p in PICTURES]
    )
    small = {"batch_size": 2, "epochs": 1, "steps_per_epoch": 3, "lora_rank": 4, "ratios": {}}
    config = write_json(tmp_path / "small.json", small)
    line = ["train", "--stage", "2", "--model", model, "--data", records, "--out", tmp_path / "run", "--config", config]
    arguments = [str(part) for part in line] + ["--json", "--quiet", "--threads", "1"]
    assert main([*arguments, "--minutes", "0.01"]) == 0
    capsys.readouterr()
    assert main(arguments) == 2 and "--resume continues it" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["finished"] and result["step"] == 3 and Path(result["adapter"]).is_dir()


def test_ctrl_c_of_the_command_is_exit_code_130(model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "vqa.json", vqa_records())
    line = ["finetune", tmp_path / "vqa.json", "--model", model, "--out", tmp_path / "run", "--steps", 100_000]
    command = [sys.executable, "-m", "tinygptv_fast.cli", *map(str, line), "--threads", "1"]
    if not (Path(tgv.__file__).parent / "cli" / "__main__.py").exists():
        command = [sys.executable, "-c", "import sys; from tinygptv_fast.cli import main; sys.exit(main(sys.argv[1:]))"]
        command += [*map(str, line), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    try:
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            pass
        process.send_signal(2)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "--resume continues" in error
    assert (tmp_path / "run" / "state.pt").is_file() and os.listdir(tmp_path / "run")
