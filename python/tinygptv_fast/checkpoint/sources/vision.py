"""``eva_vit_g.pth``: the EVA-CLIP ViT. The file has one block more than the model builds, a final norm and a head."""

from __future__ import annotations

import os
import re

from ...config import VisionConfig
from ..files import safetensors_table
from ..ledger import Ledger
from ..mapped import element_count
from ..names import vision_shapes
from ..recipe import Recipe, direct, qkv_bias, resize_positions
from ..table import TableEntry, TensorTable
from ..torch_file import TorchFile

_DROPPED = (
    (re.compile(r"(norm|fc_norm)\.(weight|bias)"), "the original takes the last block's output without a final norm"),
    (re.compile(r"(head|lm_head)\.(weight|bias)"), "the classification head is not part of the model"),
    (re.compile(r"mask_token"), "used in the tower's pretraining only"),
    (
        re.compile(r"(blocks\.\d+\.attn\.|rel_pos_bias\.)relative_position_(bias_table|index)"),
        "the original builds the tower without relative position bias",
    ),
    (re.compile(r".*rope\.freqs_(cos|sin)"), "the original builds the tower without rotary positions"),
)
_BLOCK = re.compile(r"blocks\.(\d+)\..+")


def open_vision(path: str | os.PathLike[str]) -> TensorTable:
    """The tower's tensors; the state dict may be the whole file or its ``model`` or ``module`` entry."""
    if str(path).endswith(".safetensors"):
        return safetensors_table(path)
    file = TorchFile(path)
    root = file.root
    for key in ("model", "module"):
        if isinstance(root, dict) and isinstance(root.get(key), dict):
            root = root[key]
    return file.table(root)


def vision_recipes(
    table: TensorTable, config: VisionConfig, file_grid: int, file_depth: int, ledger: Ledger
) -> dict[str, Recipe]:
    """Recipes of ``vision.*``. ``config`` is the model's; the file has positions for ``file_grid``² patches."""
    ledger.register(table)
    for entry in table.entries():
        reason = _drop_reason(entry.key, config.layers, file_depth)
        if reason:
            ledger.dropped(entry, reason)
    recipes: dict[str, Recipe] = {}
    for name, shape in vision_shapes(config).items():
        if name.startswith("vision."):
            recipe = _recipe(table, name, shape, config, file_grid, ledger)
            if recipe is not None:
                recipes[name] = recipe
    return recipes


def _drop_reason(key: str, depth: int, file_depth: int) -> str | None:
    for pattern, reason in _DROPPED:
        if pattern.fullmatch(key):
            return reason
    block = _BLOCK.fullmatch(key)
    if block and depth <= int(block[1]) < file_depth:
        return f"block {block[1]}: the original builds {depth} of the file's blocks"
    return None


def _original(name: str) -> str:
    short = name.removeprefix("vision.")
    short = re.sub(r"^layers\.", "blocks.", short)
    return short.replace("attn.out.", "attn.proj.").replace("patch_embed.", "patch_embed.proj.")


def _recipe(
    table: TensorTable, name: str, shape: tuple[int, ...], config: VisionConfig, file_grid: int, ledger: Ledger
) -> Recipe | None:
    if name.endswith("attn.qkv.bias"):
        stem = _original(name).removesuffix("qkv.bias")
        query = _take(table, stem + "q_bias", (config.width,), name, ledger)
        value = _take(table, stem + "v_bias", (config.width,), name, ledger)
        return qkv_bias(name, query, value) if query and value else None
    if name == "vision.pos_embed":
        entry = _take(table, "pos_embed", (1, 1 + file_grid**2, config.width), name, ledger)
        return resize_positions(name, entry, config.grid) if entry else None
    wanted = (1, 1, *shape) if name == "vision.cls_token" else shape
    entry = _take(table, _original(name), wanted, name, ledger)
    return direct(name, entry, shape) if entry else None


def _take(table: TensorTable, key: str, shape: tuple[int, ...], name: str, ledger: Ledger) -> TableEntry | None:
    if key not in table:
        ledger.problem(f"{table.path}: tensor {key!r} is missing, expected {list(shape)} for {name}")
        return None
    entry = table[key]
    if element_count(entry.info.shape) == 0 or not ledger.expect(entry, shape, name):
        return None
    ledger.loaded(entry, name)
    return entry
