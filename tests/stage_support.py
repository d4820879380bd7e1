"""A tiny exact model with data of three forms, for the tests of stages and fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from golden_support import GOLDEN, convert_case
from tinygptv_fast.train.stages.config import FINETUNE, StageConfig, load_stage
from tinygptv_fast.train.stages.examples import Mixture
from tinygptv_fast.train.stages.readers import read_examples
from tinygptv_fast.train.stages.start import Start, open_start

PICTURES = tuple(sorted((GOLDEN / "images").glob("*.png")))
TAUGHT = {
    "where?": "near the tree",
    "what colour is the sky?": "blue",
    "how many dogs are there?": "two",
    "are they big?": "no, they are small",
    "why?": "because it reflects the sky",
    "what is the man holding in his left hand?": "a red umbrella",
}
WORDS = tuple(TAUGHT.values())


def tiny_model(folder: Path) -> Path:
    """The golden stage-3 model with nothing rounded."""
    return convert_case("A_stage3", folder / "model")


def vqa_records() -> list[dict[str, Any]]:
    return [{"image": str(PICTURES[i % 3]), "question": q, "answer": a} for i, (q, a) in enumerate(TAUGHT.items())]


def write_json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def settings(**changes: Any) -> StageConfig:
    """Fine-tuning in a few small steps."""
    small = {
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "batch_size": 3,
        "steps_per_epoch": 8,
        "warmup_steps": 2,
        "save_every": 3,
    }
    return load_stage(FINETUNE, changes={**small, **changes})


def data(folder: Path, config: StageConfig) -> Mixture:
    path = folder / "vqa.json"
    file = read_examples(path if path.exists() else write_json(path, vqa_records()))
    return Mixture({"vqa": file.examples}, config.batch_size, config.seed, file.digest)


def begin(model: Path, config: StageConfig) -> Start:
    return open_start(model, config)


# --- several processes ------------------------------------------------------------------------------------------------
def parallel_settings() -> StageConfig:
    """Fifty steps without dropout, in parts, cut to a norm: what has to be the same for any number of processes."""
    return load_stage(3, changes=PARALLEL)


PARALLEL: dict[str, Any] = {
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "lora_dropout": 0.0,
    "batch_size": 5,
    "accumulation": 2,
    "epochs": 1,
    "steps_per_epoch": 50,
    "warmup_steps": 2,
    "init_lr": 3e-4,
    "min_lr": 1e-4,
    "clip_norm": 1.0,
    "precision": "float32",
    "recompute": True,
    "save_every": 10,
}


def mixed_files(folder: Path) -> list[Path]:
    """Questions about pictures, and conversations about none: processes of a step see some, one, or no picture."""
    talks = [
        {"conversations": [{"from": "human", "value": f"say {i}"}, {"from": "gpt", "value": "yes " * i + "no"}]}
        for i in range(1, 6)
    ]
    pairs = (("vqa.json", vqa_records()), ("talk.json", talks))
    return [path if (path := folder / name).exists() else write_json(path, data) for name, data in pairs]


def mixed_data(folder: Path, config: StageConfig) -> Mixture:
    files = {path.stem: read_examples(path) for path in mixed_files(folder)}
    digest = " ".join(file.digest for file in files.values())
    return Mixture({name: f.examples for name, f in files.items()}, config.batch_size, config.seed, digest)
