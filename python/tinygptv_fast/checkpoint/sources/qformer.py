"""``blip2_pretrained_*.pth``: the Q-Former's query branch, its query tokens and ``ln_vision``."""

from __future__ import annotations

import os
import re

from ...config import QFormerConfig
from ..files import safetensors_table
from ..ledger import Ledger
from ..names import qformer_shapes
from ..recipe import Recipe, direct
from ..table import TensorTable
from ..torch_file import TorchFile

_DROPPED = (
    (re.compile(r"Qformer\.bert\.embeddings\.position_ids"), "a buffer of position numbers, not a weight"),
    (
        re.compile(r"Qformer\.bert\.embeddings\.(word|position|token_type)_embeddings\.weight"),
        "the original sets the text embeddings to None: query tokens enter instead",
    ),
    (
        re.compile(r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..+"),
        "the feed-forward of the text branch, which the original sets to None",
    ),
    (re.compile(r"Qformer\.(cls|bert\.pooler)\..+"), "the language modelling head of BLIP-2's pretraining"),
    (re.compile(r"(t5_proj|opt_proj|llm_proj)\..+"), "BLIP-2's projection into another language model"),
    (re.compile(r"(vision_proj|text_proj|itm_head)\..+|temp"), "heads of BLIP-2's first pretraining stage"),
)
_PARTS = {
    "self_attn.query": "attention.self.query",
    "self_attn.key": "attention.self.key",
    "self_attn.value": "attention.self.value",
    "self_attn.out": "attention.output.dense",
    "self_attn.norm": "attention.output.LayerNorm",
    "cross_attn.query": "crossattention.self.query",
    "cross_attn.key": "crossattention.self.key",
    "cross_attn.value": "crossattention.self.value",
    "cross_attn.out": "crossattention.output.dense",
    "cross_attn.norm": "crossattention.output.LayerNorm",
    "mlp.fc1": "intermediate_query.dense",
    "mlp.fc2": "output_query.dense",
    "mlp.norm": "output_query.LayerNorm",
}
_LAYER = re.compile(r"qformer\.layers\.(\d+)\.(.+)\.(weight|bias)")


def drop_reason(key: str) -> str | None:
    """Why a key of a BLIP-2 (or stage) file is not needed, or None."""
    for pattern, reason in _DROPPED:
        if pattern.fullmatch(key):
            return reason
    return None


def open_qformer(path: str | os.PathLike[str]) -> TensorTable:
    """The file's tensors; the state dict is its ``model`` entry or the whole file."""
    if str(path).endswith(".safetensors"):
        return safetensors_table(path)
    file = TorchFile(path)
    root = file.root
    if isinstance(root, dict) and isinstance(root.get("model"), dict):
        root = root["model"]
    return file.table(root)


def qformer_recipes(table: TensorTable, config: QFormerConfig, vision_width: int, ledger: Ledger) -> dict[str, Recipe]:
    """Recipes of ``qformer.*`` and ``ln_vision.*``."""
    ledger.register(table)
    for entry in table.entries():
        reason = drop_reason(entry.key)
        if reason:
            ledger.dropped(entry, reason)
    shapes = {n: s for n, s in qformer_shapes(config, vision_width, 1).items() if n.startswith("qformer.")}
    shapes["ln_vision.weight"] = shapes["ln_vision.bias"] = (vision_width,)
    recipes: dict[str, Recipe] = {}
    for name, shape in shapes.items():
        key = _original(name)
        wanted = (1, *shape) if name == "qformer.query_tokens" else shape
        if key not in table:
            ledger.problem(f"{table.path}: tensor {key!r} is missing, expected {list(wanted)} for {name}")
        elif ledger.expect(table[key], wanted, name):
            ledger.loaded(table[key], name)
            recipes[name] = direct(name, table[key], shape)
    return recipes


def _original(name: str) -> str:
    if name == "qformer.query_tokens":
        return "query_tokens"
    if name.startswith("qformer.norm."):
        return name.replace("qformer.norm", "Qformer.bert.embeddings.LayerNorm")
    layer = _LAYER.fullmatch(name)
    return name if layer is None else f"Qformer.bert.encoder.layer.{layer[1]}.{_PARTS[layer[2]]}.{layer[3]}"
