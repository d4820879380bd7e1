"""From a trained run to the model directory that is shipped: quantise, write, examine what was written.

The figures are of the files on disk, read back, beside those of the unquantised weights they came from.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.directory import ModelDirectory, open_directory
from ..conversion import load_state, write_model
from ..data.scenes import HELD_OUT_PAIRS, SceneSpec
from ..data.vocabulary import TEMPLATE, tokenizer_json
from ..processing.image import ImageProcessor
from ..processing.tokenizer import Tokenizer
from ..quantize.receipt import AgreementCounter, write_receipt
from ..reference.loss import IGNORE
from ..reference.model import TinyGPTVReference
from . import losses
from .batches import RowEncoder, build_rows
from .evaluation import ExamItem, examine, make_exam, see_all
from .recipe import SHIPPED
from .state import Run

LOG_FILE = "training_log.json"
HELD_OUT = SceneSpec(pairs="held_out")
_AGREEMENT_SEED = 9_100_001


def write_directory(run: Run, out: Path, *, overwrite: bool) -> None:
    """The run's weights as a model directory: int4 text, int8 vision."""
    config = run.model.config
    assert config.vision is not None
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        tokenizer.write_text(tokenizer_json(), encoding="utf-8")
        write_model(
            out,
            config,
            run.model.state_dict(),
            tokenizer,
            ImageProcessor(config.vision.image_size).to_dict(),
            {"max_new_tokens": 96},
            TEMPLATE,
            overwrite=overwrite,
            quantization=SHIPPED,
        )


def read_back(directory: ModelDirectory) -> TinyGPTVReference:
    """The written model, dequantised to float32."""
    model = TinyGPTVReference(directory.config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_state(directory).items()})
    return model.eval()


@torch.no_grad()
def measure_agreement(
    whole: TinyGPTVReference, stored: TinyGPTVReference, encoder: RowEncoder, per_kind: int
) -> AgreementCounter:
    """Teacher-forced agreement of ``stored`` with ``whole`` on the answer tokens of ``per_kind`` questions a kind."""
    items = make_exam(per_kind, _AGREEMENT_SEED)
    counter = AgreementCounter()
    for start in range(0, len(items), 64):
        part = items[start : start + 64]
        logits = [_answer_logits(model, encoder, part) for model in (whole, stored)]
        counter.update(*logits)
    return counter


def _answer_logits(model: TinyGPTVReference, encoder: RowEncoder, items: list[ExamItem]) -> torch.Tensor:
    """f32 [answer tokens, V] under teacher forcing, in one fixed order."""
    visual = see_all(model, items, grey=False)
    out = []
    for rows in build_rows(encoder, [(i, item.question, True) for i, item in enumerate(items)]):
        out.append(losses.row_logits(model, visual, rows)[rows.labels != IGNORE])
    return torch.cat(out)


def examine_all(run: Run, directory: ModelDirectory, per_kind: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Every figure of the model: unquantised, as written, grey control, held-out colour and shape pairs."""
    encoder = RowEncoder(Tokenizer.from_file(directory.tokenizer_file))
    whole, stored = run.model.eval(), read_back(directory)
    figures: dict[str, Any] = {}
    exams: list[tuple[str, TinyGPTVReference, dict[str, Any]]] = [
        ("float32", whole, {}),
        ("written", stored, {}),
        ("written_grey_pictures", stored, {"grey": True}),
        ("written_held_out_pairs", stored, {"spec": HELD_OUT}),
    ]
    for name, model, options in exams:
        note(f"exam: {name}")
        figures[name] = examine(model, encoder, per_kind, **options)
    note("agreement of the written model with the unquantised one")
    counter = measure_agreement(whole, stored, encoder, per_kind)
    write_receipt(directory.path / "quality.json", directory.quality.with_agreement(counter))
    figures["agreement"] = counter.to_dict()
    return figures


def ship(run: Run, out: Path, per_kind: int, *, overwrite: bool, note: Callable[[str], None]) -> dict[str, Any]:
    """Write ``out``, examine it, and leave ``training_log.json`` beside the model. Returns the figures."""
    note(f"write {out}")
    write_directory(run, out, overwrite=overwrite)
    directory = open_directory(out)
    figures = examine_all(run, directory, per_kind, note)
    record = {
        "recipe": run.recipe.to_dict(),
        "training_seconds": round(run.seconds, 1),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "bytes": sum(file.stat().st_size for file in out.iterdir()),
        "quantization": dataclasses.asdict(SHIPPED),
        "held_out_pairs": sorted(" ".join(pair) for pair in HELD_OUT_PAIRS),
        "figures": figures,
        "log": run.log,
    }
    temporary = out / f".{LOG_FILE}.tmp"
    temporary.write_text(_compact(record), encoding="utf-8")
    os.replace(temporary, out / LOG_FILE)
    return figures


def _compact(record: dict[str, Any]) -> str:
    """json with one line per log entry: readable, and a diff shows what changed."""
    log = ",\n  ".join(json.dumps(entry) for entry in record["log"])
    rest = json.dumps({**record, "log": []}, indent=1)
    return rest.replace('"log": []', f'"log": [\n  {log}\n ]') + "\n"
