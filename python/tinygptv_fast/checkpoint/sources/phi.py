"""The Phi directory: fused or split q/k/v, any of three naming schemes, one file or shards."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ...config import TextConfig
from ...errors import CheckpointError
from ..files import open_weights
from ..ledger import Ledger
from ..recipe import Recipe, direct, interleave, interleave_fused, zeros
from ..table import TableEntry
from .phi_config import PhiConfig, read_phi_config

_HF = {
    "embed_tokens": "text.embed",
    "final_layernorm": "text.final_norm",
    "lm_head": "text.head",
    "input_layernorm": "norm",
    "self_attn.query_key_value": "attn.qkv",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.dense": "attn.out",
    "self_attn.q_layernorm": "attn.q_norm",
    "self_attn.k_layernorm": "attn.k_norm",
    "post_layernorm": "attn.post_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_MSFT = {
    "embd.wte": "text.embed",
    "lm_head.ln": "text.final_norm",
    "lm_head.linear": "text.head",
    "ln": "norm",
    "mixer.Wqkv": "attn.wqkv",
    "mixer.out_proj": "attn.out",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_LAYER = re.compile(r"(?:layers|h)\.(\d+)\.(.+)\.(weight|bias)")
_TOP = re.compile(r"(.+)\.(weight|bias)")
_ROTARY = re.compile(r".*\.rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_CAUSAL = re.compile(r".*\.(attn|self_attn|inner_attn|inner_cross_attn)\.(bias|masked_bias|causal_mask)")
_SPLIT = ("attn.q", "attn.k", "attn.v")


def canonical(key: str) -> str | None:
    """Our name for a key of any supported scheme, or None. q/k/v parts are ``...attn.q`` and so on."""
    for prefix, names in (("transformer.", _MSFT), ("model.", _HF), ("", _HF), ("", _MSFT)):
        if not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        layer, top = _LAYER.fullmatch(rest), _TOP.fullmatch(rest)
        if layer and layer[2] in names and not names[layer[2]].startswith("text."):
            return f"text.layers.{int(layer[1])}.{names[layer[2]]}.{layer[3]}"
        if not layer and top and names.get(top[1], "").startswith("text."):
            return f"{names[top[1]]}.{top[2]}"
    return None


@dataclass
class PhiSource:
    """An opened Phi directory: its configuration and its tensors under canonical names."""

    path: Path
    config: PhiConfig
    tensors: dict[str, TableEntry] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], ledger: Ledger) -> PhiSource:
        path = Path(directory)
        source = cls(path, read_phi_config(path))
        table = open_weights(path)
        ledger.register(table)
        for entry in table.entries():
            name = canonical(entry.key)
            if _ROTARY.fullmatch(entry.key):
                ledger.dropped(entry, "rotary frequencies are computed, not stored")
            elif _CAUSAL.fullmatch(entry.key) and name is None:
                ledger.dropped(entry, "causal mask buffer")
            elif name is not None and name in source.tensors:
                other = source.tensors[name]
                raise CheckpointError(f"{entry.path}: {entry.key!r} and {other.key!r} of {other.path} are both {name}")
            elif name is not None:
                source.tensors[name] = entry
        return source

    def has_norm(self, part: str) -> bool:
        """True if any layer has a tensor of norm ``part`` (``attn.q_norm``, ``attn.post_norm``)."""
        return any(name.endswith((f".{part}.weight", f".{part}.bias")) for name in self.tensors)

    def recipe(self, name: str, shape: tuple[int, ...], text: TextConfig, ledger: Ledger) -> Recipe | None:
        """How to make canonical tensor ``name``, or None (the caller decides whether that is a fault)."""
        if ".attn.qkv." in name:
            return self._qkv(name, shape, text, ledger)
        entry = self.tensors.get(name)
        if entry is None and name == "text.head.weight" and self.config.tied:
            entry = self.tensors.get("text.embed.weight")  # one tensor, two uses; the account has it as the embedding
            if entry is not None and ledger.expect(entry, shape, name):
                return direct(name, entry)
        if entry is None or not ledger.expect(entry, shape, name):
            return None if entry is None else zeros(name, shape)  # the fault is in the ledger already
        ledger.loaded(entry, name)
        return direct(name, entry)

    def _qkv(self, name: str, shape: tuple[int, ...], text: TextConfig, ledger: Ledger) -> Recipe | None:
        fused, other = self.tensors.get(name), self.tensors.get(name.replace(".qkv.", ".wqkv."))
        split = [self.tensors.get(name.replace("attn.qkv", part)) for part in _SPLIT]
        forms = (fused is not None) + (other is not None) + any(split)
        if forms > 1:
            raise CheckpointError(f"{self.path} has q, k and v both fused and split for {name}")
        if fused is not None:
            ok = ledger.expect(fused, shape, name)
            return self._took(ledger, name, (fused,), direct(name, fused) if ok else zeros(name, shape))
        if other is not None:
            ok = ledger.expect(other, shape, name)
            made = interleave_fused(name, other, text.heads) if ok else zeros(name, shape)
            return self._took(ledger, name, (other,), made)
        if not all(split):
            return None
        query, key, value = (entry for entry in split if entry is not None)
        third = (shape[0] // 3, *shape[1:])
        fits = [ledger.expect(entry, third, name) for entry in (query, key, value)]  # all three are looked at
        made = interleave(name, (query, key, value), text.heads) if all(fits) else zeros(name, shape)
        return self._took(ledger, name, (query, key, value), made)

    def _took(self, ledger: Ledger, name: str, entries: tuple[TableEntry, ...], recipe: Recipe) -> Recipe:
        for entry in entries:
            ledger.loaded(entry, name)
        return recipe
