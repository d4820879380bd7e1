"""``TinyGPT-V_for_StageN.pth``: what training changed: norms, projections, LoRA; perhaps the trainer's whole state."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config import TextConfig
from ...errors import CheckpointError
from ..files import safetensors_table
from ..ledger import Ledger
from ..mapped import TensorInfo
from ..recipe import Recipe, fold_projection_bias, fold_projection_weight
from ..table import TableEntry, TensorTable
from ..torch_file import LazyTensor, TorchFile, flatten
from .phi import canonical
from .qformer import drop_reason

DEFAULT_ALPHA = 16.0
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_STATE = {
    "optimizer": "optimiser state of the training run",
    "scaler": "loss scaler of the training run",
    "lr_scheduler": "schedule of the training run",
}
_STAGE_IN_NAME = re.compile(r"stage[-_ ]?(\d)", re.IGNORECASE)


@dataclass
class StageSource:
    """The trained tensors by what they are. ``settings`` is the run's ``config.model`` if the file has one."""

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    norms: dict[str, TableEntry] = field(default_factory=dict)
    lora: dict[str, dict[str, TableEntry]] = field(default_factory=dict)
    projections: dict[str, TableEntry] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | os.PathLike[str], ledger: Ledger) -> StageSource:
        source = cls(Path(path))
        if source.path.suffix == ".safetensors":
            table = safetensors_table(path)
        else:
            file = TorchFile(path)
            table = _model_table(file, ledger)
            source.settings = _settings(file.root)
        ledger.register(table)
        for entry in table.entries():
            source._place(entry, ledger)
        return source

    @property
    def stage(self) -> int | None:
        """1-4 from the file's name, else 4 for the run's arch ``minigpt_v2``, else unknown."""
        found = _STAGE_IN_NAME.search(self.path.name)
        if found and found[1] in "1234":
            return int(found[1])
        return 4 if self.settings.get("arch") == "minigpt_v2" else None

    @property
    def image_size(self) -> int | None:
        value = self.settings.get("image_size")
        return value if type(value) is int and value > 0 else None

    def alpha(self, given: float | None) -> float:
        """LoRA alpha: the file's, else the architecture's, else the original's 16."""
        value = self.settings.get("lora_alpha", given if given is not None else DEFAULT_ALPHA)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:
            raise CheckpointError(f"{self.path}: lora_alpha is {value!r}, expected a number > 0")
        return float(value)

    def lora_rank(self, text: TextConfig, expected: int | None, ledger: Ledger) -> int:
        """The rank all LoRA pairs share, 0 without LoRA. Half pairs, gaps and mixed ranks are noted as problems."""
        if not self.lora:
            return 0
        ranks = {pair["A"].info.shape[0] for pair in self.lora.values() if "A" in pair and pair["A"].info.shape}
        stated = self.settings.get("lora_r") if expected is None else expected
        if len(ranks) != 1 or (stated not in (None, 0) and ranks != {stated}):
            said = "one rank" if stated in (None, 0) else f"rank {stated}"
            raise CheckpointError(f"{self.path}: LoRA tensors have ranks {sorted(ranks)}, expected {said}")
        rank = ranks.pop()
        shapes = {"qkv": (3 * text.width, text.width), "out": (text.width, text.width)}
        wanted = {f"text.layers.{i}.attn.{part}.weight": shapes[part] for i in range(text.layers) for part in shapes}
        for target in sorted(set(self.lora) | set(wanted)):
            self._check_pair(target, wanted.get(target), rank, ledger)
        return rank

    def projection_recipes(self, middle: int, text_width: int, query_width: int, ledger: Ledger) -> dict[str, Recipe]:
        """``projector.*``: the two projections folded into one map."""
        shapes = {
            "llama_proj.weight": (middle, query_width),
            "llama_proj.bias": (middle,),
            "llama_proj2.weight": (text_width, middle),
            "llama_proj2.bias": (text_width,),
        }
        good = True
        for key, shape in shapes.items():
            entry = self.projections.get(key)
            if entry is None:
                ledger.problem(f"{self.path}: tensor {key!r} is missing, expected {list(shape)} for projector")
            elif ledger.expect(entry, shape, "projector"):
                ledger.folded(entry, "projector.weight" if key.endswith("weight") else "projector.bias")
                continue
            good = False
        if not good:
            return {}
        first, first_bias, second, second_bias = (self.projections[key] for key in shapes)
        return {
            "projector.weight": fold_projection_weight("projector.weight", first, second),
            "projector.bias": fold_projection_bias("projector.bias", first_bias, second, second_bias),
        }

    def _check_pair(self, target: str, shape: tuple[int, ...] | None, rank: int, ledger: Ledger) -> None:
        pair = self.lora.get(target, {})
        if shape is None:
            for entry in pair.values():
                ledger.problem(f"{entry.path}: LoRA tensor {entry.key!r} {entry.info} is for no matrix of this model")
            return
        for half, wanted in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
            if half not in pair:
                ledger.problem(f"{self.path}: lora_{half} of {target} is missing, expected {list(wanted)}")
            elif ledger.expect(pair[half], wanted, f"LoRA of {target}"):
                ledger.folded(pair[half], target)

    def _place(self, entry: TableEntry, ledger: Ledger) -> None:
        reason = drop_reason(entry.key)
        if entry.key.startswith(("llama_proj.", "llama_proj2.")):
            self.projections[entry.key] = entry
        elif entry.key.endswith("rotary_emb.inv_freq"):
            ledger.dropped(entry, "rotary frequencies are computed, not stored")
        elif reason and "position_ids" in entry.key:
            ledger.dropped(entry, reason)
        elif entry.key.startswith("llama_model."):
            self._place_text(entry)

    def _place_text(self, entry: TableEntry) -> None:
        key = entry.key.removeprefix("llama_model.").removeprefix("base_model.model.")
        lora = _LORA.fullmatch(key)
        name = canonical(f"{lora[1]}.weight" if lora else key)
        if name is None:
            return  # stays open in the ledger, which names it
        if lora:
            self._once(self.lora.setdefault(name, {}), lora[2], entry)
        elif "norm." in name:
            self._once(self.norms, name, entry)

    def _once(self, place: dict[str, TableEntry], key: str, entry: TableEntry) -> None:
        if key in place:
            raise CheckpointError(
                f"{entry.path}: {place[key].key!r} and {entry.key!r} are the same tensor of the model"
            )
        place[key] = entry


def _model_table(file: TorchFile, ledger: Ledger) -> TensorTable:
    root = file.root
    if not isinstance(root, dict):
        raise CheckpointError(f"{file.path} does not hold a dict; expected a stage checkpoint")
    if not isinstance(root.get("model"), dict):
        return file.table(root)
    for top, value in root.items():
        if top == "model":
            continue
        for where, leaf in flatten(value, str(top)):
            if isinstance(leaf, LazyTensor):
                entry = TableEntry(file.path, where, TensorInfo(leaf.shape, leaf.code), leaf.read)
                ledger.register(TensorTable(file.path, [entry]))
                if str(top) in _STATE:
                    ledger.dropped(entry, _STATE[str(top)])
    return file.table(root["model"])


def _settings(root: Any) -> Mapping[str, Any]:
    config = root.get("config") if isinstance(root, dict) else None
    model = config.get("model") if isinstance(config, dict) else None
    return model if isinstance(model, dict) else {}
