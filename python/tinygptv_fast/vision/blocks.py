"""The parts of the vision side as steps: each takes the rows as they are and leaves them half a block further.

The same arithmetic as ``reference/vision.py``, ``reference/qformer.py`` and ``reference/projector.py`` (sources are
named there), on one picture, with weights in the forms of ``linear``. A step first computes, then replaces the rows, so
a step that raises has changed nothing. Immutable after construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import QFormerConfig, VisionConfig
from .arithmetic import EXACT, Arithmetic
from .attention import attend
from .linear import load_linear
from .source import WeightSource, vector


@dataclass
class Rows:
    """What is computed so far. ``x``: pixels [3, S, S], then rows [I, E], then [NQ, Q], at last [NQ, C], all float32.
    ``image``: the tower's rows [I, E] once they are complete, for the Q-Former."""

    x: Tensor
    image: Tensor | None = None


class Norm:
    """LayerNorm over the last axis, in float32."""

    def __init__(self, source: WeightSource, stem: str, eps: float) -> None:
        self.gain = vector(source, f"{stem}.weight")
        self._bias = vector(source, f"{stem}.bias")
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gain.shape, self.gain, self._bias, self._eps)


class PatchEmbedding:
    """Pixels → one row per patch behind the class row, positions added. Always float32: 0.1 % of the work."""

    def __init__(self, source: WeightSource, config: VisionConfig) -> None:
        self._patch, self._grid = config.patch_size, config.grid
        self._weight = vector(source, "vision.patch_embed.weight").flatten(1)
        self._bias = vector(source, "vision.patch_embed.bias")
        self._positions = vector(source, "vision.pos_embed")
        self._class = vector(source, "vision.cls_token")

    def __call__(self, rows: Rows) -> None:
        g, p = self._grid, self._patch
        patches = rows.x.view(3, g, p, g, p).permute(1, 3, 0, 2, 4).reshape(g * g, 3 * p * p)
        x = F.linear(patches, self._weight, self._bias)
        rows.x = torch.cat([self._class[None], x]).add_(self._positions)


class VisionAttention:
    """x + attn(LN(x)): the first half of a block."""

    def __init__(self, source: WeightSource, index: int, config: VisionConfig, arithmetic: Arithmetic) -> None:
        stem = f"vision.layers.{index}"
        self._norm = Norm(source, f"{stem}.norm1", config.norm_eps)
        self._qkv = load_linear(source, arithmetic, f"{stem}.attn.qkv", gain=self._norm.gain)
        self._out = load_linear(source, arithmetic, f"{stem}.attn.out")
        self._heads, self._how = config.heads, arithmetic

    def __call__(self, rows: Rows) -> None:
        q, k, v = self._qkv(self._norm(rows.x), own=True).chunk(3, dim=1)
        rows.x = rows.x + self._out(attend(q, k, v, self._heads, self._how), own=True)


class VisionMLP:
    """x + fc2(GELU(fc1(LN(x)))): the second half of a block."""

    def __init__(self, source: WeightSource, index: int, config: VisionConfig, arithmetic: Arithmetic) -> None:
        stem = f"vision.layers.{index}"
        self._norm = Norm(source, f"{stem}.norm2", config.norm_eps)
        self._fc1 = load_linear(source, arithmetic, f"{stem}.mlp.fc1", gain=self._norm.gain)
        self._fc2 = load_linear(source, arithmetic, f"{stem}.mlp.fc2")

    def __call__(self, rows: Rows) -> None:
        inner = torch.ops.aten.gelu_(self._fc1(self._norm(rows.x), own=True))
        rows.x = rows.x + self._fc2(inner, own=True)


class Queries:
    """The picture is complete: normalise it, and begin with the learned queries."""

    def __init__(self, source: WeightSource, config: QFormerConfig, ln_vision_eps: float) -> None:
        self._ln_vision = Norm(source, "ln_vision", ln_vision_eps)
        self._tokens = Norm(source, "qformer.norm", config.norm_eps)(vector(source, "qformer.query_tokens"))

    def __call__(self, rows: Rows) -> None:
        rows.x, rows.image = self._tokens, self._ln_vision(rows.x)


class SelfAttention:
    """LN(attn(x, x) + x) of a Q-Former layer."""

    def __init__(self, source: WeightSource, index: int, config: QFormerConfig, arithmetic: Arithmetic) -> None:
        stem = f"qformer.layers.{index}.self_attn"
        parts = [f"{stem}.{part}" for part in ("query", "key", "value")]
        self._qkv = load_linear(source, arithmetic, *parts, fine=True)
        self._out = load_linear(source, arithmetic, f"{stem}.out", fine=True)
        self._norm = Norm(source, f"{stem}.norm", config.norm_eps)
        self._heads, self._how = config.heads, arithmetic

    def __call__(self, rows: Rows) -> None:
        q, k, v = self._qkv(rows.x).chunk(3, dim=1)
        rows.x = self._norm(rows.x + self._out(attend(q, k, v, self._heads, self._how)))


class CrossAttention:
    """LN(attn(x, image) + x) of a Q-Former layer that reads the picture."""

    def __init__(self, source: WeightSource, index: int, config: QFormerConfig, arithmetic: Arithmetic) -> None:
        stem = f"qformer.layers.{index}.cross_attn"
        self._query = load_linear(source, arithmetic, f"{stem}.query", fine=True)
        self._key_value = load_linear(source, arithmetic, f"{stem}.key", f"{stem}.value")
        self._out = load_linear(source, arithmetic, f"{stem}.out", fine=True)
        self._norm = Norm(source, f"{stem}.norm", config.norm_eps)
        self._heads, self._how = config.heads, arithmetic

    def __call__(self, rows: Rows) -> None:
        assert rows.image is not None  # Queries came before
        k, v = self._key_value(rows.image).chunk(2, dim=1)
        rows.x = self._norm(rows.x + self._out(attend(self._query(rows.x), k, v, self._heads, self._how)))


class QFormerMLP:
    """LN(fc2(GELU(fc1(x))) + x) of a Q-Former layer."""

    def __init__(self, source: WeightSource, index: int, config: QFormerConfig, arithmetic: Arithmetic) -> None:
        stem = f"qformer.layers.{index}.mlp"
        self._fc1 = load_linear(source, arithmetic, f"{stem}.fc1", fine=True)
        self._fc2 = load_linear(source, arithmetic, f"{stem}.fc2", fine=True)
        self._norm = Norm(source, f"{stem}.norm", config.norm_eps)

    def __call__(self, rows: Rows) -> None:
        rows.x = self._norm(rows.x + self._fc2(torch.ops.aten.gelu_(self._fc1(rows.x)), own=True))


class Projection:
    """Rows of the Q-Former → rows of the text model. float32 products whatever the weights are stored as: 2 million
    weights cost nothing, and a rounding here would reach the text model undiluted."""

    def __init__(self, source: WeightSource) -> None:
        self._linear = load_linear(source, EXACT, "projector")

    def __call__(self, rows: Rows) -> None:
        rows.x, rows.image = self._linear(rows.x), None
