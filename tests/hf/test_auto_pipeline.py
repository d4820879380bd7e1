"""``pipeline("image-text-to-text")`` and the Auto classes find a directory by its ``config.json``; no remote code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PretrainedConfig, pipeline

import tinygptv_fast as tgv
from hf.auto_support import CIRCLE, CONVERSATIONS, SQUARE
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.hf import TinyGPTVConfig, TinyGPTVForConditionalGeneration, TinyGPTVProcessor

ROOT = Path(__file__).resolve().parents[2]


def texts(records: Any) -> list[str]:
    """Of what a pipeline gives, however it is nested."""
    if isinstance(records, dict):
        return [records["generated_text"]]
    return [text for one in records for text in texts(one)]


def test_a_pipeline_of_a_directory(demo: tgv.TinyGPTV) -> None:
    pipe = pipeline("image-text-to-text", model=demo.info["path"], model_kwargs={"threads": 1})
    wanted = [demo.generate(messages=one, boxes="free").text for one in CONVERSATIONS]
    assert texts(pipe(text=CONVERSATIONS, return_full_text=False)) == wanted
    assert texts(pipe(text=CONVERSATIONS[:3], batch_size=3, return_full_text=False)) == wanted[:3]
    whole = pipe(text=CONVERSATIONS[0])[0]["generated_text"]
    assert whole == [*CONVERSATIONS[0], {"role": "assistant", "content": wanted[0]}]
    further = [*whole, {"role": "user", "content": [{"type": "text", "text": "[vqa] And what shape?"}]}]
    assert texts(pipe(text=further, return_full_text=False)) == [demo.generate(messages=further, boxes="free").text]
    assert pipe.model.info["threads"] == 1
    pipe.model.close()


def test_a_pipeline_of_a_model(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV
) -> None:
    pipe = pipeline("image-text-to-text", model=auto, processor=auto_processor)
    settings = {"do_sample": True, "temperature": 1.7, "seed": 5}
    found = pipe(text=CONVERSATIONS[1], return_full_text=False, generate_kwargs=dict(settings))
    assert texts(found) == [demo.generate(messages=CONVERSATIONS[1], boxes="free", **settings).text]
    prompts = auto_processor.apply_chat_template(CONVERSATIONS[:2], add_generation_prompt=True)
    found = pipe(images=[CIRCLE, SQUARE], text=prompts, return_full_text=False, max_new_tokens=6)
    assert texts(found) == [
        demo.generate(messages=one, boxes="free", max_new_tokens=6).text for one in CONVERSATIONS[:2]
    ]
    with pytest.raises(tgv.errors.PromptError, match="prompt has 0 <ImageHere> placeholders but 1 image"):
        pipe(images=CIRCLE, text="what is it?")


def test_the_configuration(demo: tgv.TinyGPTV, tmp_path: Path) -> None:
    path = demo.info["path"]
    config = AutoConfig.from_pretrained(path)
    assert isinstance(config, TinyGPTVConfig) and isinstance(config, PretrainedConfig)
    assert config.model == demo.config and config == TinyGPTVConfig.from_pretrained("demo")
    assert json.loads(config.to_json_string()) == json.loads((Path(path) / "config.json").read_text())
    assert config.name_or_path == path == TinyGPTVConfig.from_pretrained("demo").name_or_path
    assert (config.vocab_size, config.hidden_size) == (demo.config.text.vocab_size, demo.config.text.width)
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path) == config
    changed = AutoConfig.from_pretrained(path, eos_token_id=7)
    assert changed.model.eos_token_id == 7 and changed != config
    assert AutoConfig.from_pretrained(path, threads=3, return_unused_kwargs=True)[1]["threads"] == 3
    with pytest.raises(ConfigError, match="config has unknown keys"):
        TinyGPTVConfig({"layers": 3})
    with pytest.raises(ConfigError, match=r"config.model_type is 'llava', expected 'tinygptv'"):
        TinyGPTVConfig.from_dict({"model_type": "llava"})
    with pytest.raises(InvalidArgumentError, match="model is int, expected a ModelConfig or its dict"):
        TinyGPTVConfig(5)  # type: ignore[arg-type]


def test_every_auto_class(demo: tgv.TinyGPTV) -> None:
    autos = [AutoModelForImageTextToText]
    if transformers.__version__.startswith("4."):
        autos.append(transformers.AutoModelForVision2Seq)
    for auto in autos:
        with auto.from_pretrained(demo.info["path"], threads=1, dtype=torch.float32) as model:
            assert type(model) is TinyGPTVForConditionalGeneration and model.info["dtype"] == "float32"
            assert model.can_generate() and model.device.type == "cpu" and model.dtype == torch.float32
    assert type(AutoProcessor.from_pretrained(demo.info["path"])) is TinyGPTVProcessor


def test_model_and_processor_are_saved_together(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, tmp_path: Path
) -> None:
    for name, first, second in (("a", auto, auto_processor), ("b", auto_processor, auto)):
        first.save_pretrained(tmp_path / name)
        second.save_pretrained(tmp_path / name)
        assert not open_directory(tmp_path / name).verify_hashes()
    with pytest.raises(UnsupportedError, match="push_to_hub is True"):
        auto.save_pretrained(tmp_path / "c", push_to_hub=True)
    with pytest.raises(InvalidArgumentError, match="the nearest is 'max_shard_size'"):
        auto.save_pretrained(tmp_path / "c", max_shard="1GB")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="exists and is not empty"):
        auto.save_pretrained(tmp_path / "d")


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"thread": 2}, InvalidArgumentError, "no argument 'thread'; the nearest is 'threads'"),
        ({"threads": 0}, InvalidArgumentError, "threads is 0, expected an integer >= 1"),
        ({"dtype": torch.float16}, UnsupportedError, "dtype is torch.float16, which cannot be computed in"),
        ({"device_map": "cuda"}, UnsupportedError, "device_map is 'cuda', which cannot be done: weights are packed"),
        ({"attn_implementation": "sdpa"}, UnsupportedError, "attn_implementation is 'sdpa', which cannot be done"),
        ({"quantization": "int8"}, InvalidArgumentError, "quantization is 'int8' but the directory holds 'int4'"),
        ({"config": PretrainedConfig()}, InvalidArgumentError, "config is Pre.rainedConfig, expected a TinyGPTVConfig"),
        ({"config": TinyGPTVConfig()}, InvalidArgumentError, "which .* holds"),
    ],
)
def test_what_cannot_be_loaded(given: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        TinyGPTVForConditionalGeneration.from_pretrained("demo", **given)


def test_directories_that_are_none(demo: tgv.TinyGPTV, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config.json; expected a directory written by"):
        TinyGPTVForConditionalGeneration.from_pretrained(tmp_path)
    shutil.copy(Path(demo.info["path"]) / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no model.safetensors; expected a directory written by"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)
    with pytest.raises(InvalidArgumentError, match="pretrained_model_name_or_path is list"):
        TinyGPTVForConditionalGeneration.from_pretrained([])
    with pytest.raises(UnsupportedError, match=r"from_config.. cannot be done: weights come with a directory"):
        AutoModelForImageTextToText.from_config(TinyGPTVConfig())


def test_what_only_weights_in_torch_can(auto: TinyGPTVForConditionalGeneration) -> None:
    for ask, words in (
        (lambda: auto.train(), "train.. cannot be done: there are no parameters; 'tinygptv finetune'"),
        (lambda: auto.half(), "to.torch.float16. cannot be done: weights are packed for the CPU, load it again"),
        (lambda: auto.get_input_embeddings(), "embeddings are packed; give input_ids"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            ask()
    assert auto.eval() is auto and auto.to("cpu") is auto and auto.text == auto.config.text


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)


def test_without_transformers_there_is_one_error() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import tinygptv_fast as tgv, tinygptv_fast.hf as hf\n"
        "for ask in (hf.register, lambda: hf.TinyGPTVProcessor, lambda: hf.TinyGPTVConfig):\n"
        "    try: ask()\n"
        "    except tgv.errors.UnsupportedError as error: print(error)\n"
    )
    done = run(code)
    assert done.stdout.splitlines() == ["tinygptv_fast.hf needs transformers: pip install 'tinygptv_fast[hf]'"] * 3, (
        done.stderr
    )


def test_the_example_runs() -> None:
    script = ROOT / "examples" / "pipeline_transformers.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^batch: (\w+)$", done.stdout, re.MULTILINE) == ["red", "blue", "green"]
    assert re.search(r"^second turn: \w+", done.stdout, re.MULTILINE)
    assert re.search(r"^streamed: .*\w", done.stdout, re.MULTILINE)


def test_importing_imports_no_transformers() -> None:
    code = "import sys, tinygptv_fast.hf as hf; dir(hf), hf.register; assert 'transformers' not in sys.modules"
    assert run(code).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'TinyGPTVTokenizer'"):
        _ = tgv.hf.TinyGPTVTokenizer
