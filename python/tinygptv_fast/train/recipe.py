"""What the demo model is and how it is trained, as data: sizes, phases, learning rates. No torch import."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig, from_dict
from ..data.vocabulary import VOCAB_SIZE
from ..errors import InvalidArgumentError
from .phase import Phase

PHASES = ("see", "read", "join")


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on, besides the code and ``seed``: two runs with equal recipes are equal."""

    # These made the shipped model; docs/training_the_demo.md says which of them to lower next.
    see: Phase = Phase(steps=1500, pictures=64, questions=0, muon_lr=0.02, adam_lr=2e-3)
    read: Phase = Phase(steps=1400, pictures=16, questions=8, muon_lr=0.02, adam_lr=3e-3)
    join: Phase = Phase(steps=450, pictures=16, questions=8, muon_lr=0.004, adam_lr=6e-4, warmup=20, decay=1.0)
    easy_fraction: float = 0.25  # of "see": few, large objects first
    seed: int = 0
    vision_width: int = 128
    vision_layers: int = 4
    vision_mlp: int = 384
    qformer_layers: int = 3
    qformer_mlp: int = 192
    text_layers: int = 4
    text_heads: int = 3
    text_mlp: int = 576

    def phase(self, name: str) -> Phase:
        if name not in PHASES:
            raise InvalidArgumentError(f"phase is {name!r}, expected one of {list(PHASES)}")
        phase = getattr(self, name)
        assert isinstance(phase, Phase)
        return phase

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with every phase's steps multiplied by ``factor`` (at least one step each)."""
        if not 0 < factor < 1000:
            raise InvalidArgumentError(f"factor is {factor!r}, expected a number in 0..1000")
        changed: dict[str, Any] = {
            n: dataclasses.replace(self.phase(n), steps=max(1, round(self.phase(n).steps * factor))) for n in PHASES
        }
        return dataclasses.replace(self, **changed)

    def model_config(self) -> ModelConfig:
        """The unquantised model. Head dim 80 and 32 rotary dims are the real model's: its kernels serve here."""
        D = 80
        return ModelConfig(
            text=TextConfig(
                width=self.text_heads * D,
                layers=self.text_layers,
                heads=self.text_heads,
                head_dim=D,
                rotary_dims=32,
                mlp_width=self.text_mlp,
                vocab_size=VOCAB_SIZE,
                max_positions=512,
            ),
            vision=VisionConfig(
                image_size=64,
                patch_size=8,
                width=self.vision_width,
                layers=self.vision_layers,
                heads=4,
                mlp_width=self.vision_mlp,
            ),
            qformer=QFormerConfig(
                queries=16,
                width=128,
                layers=self.qformer_layers,
                heads=4,
                mlp_width=self.qformer_mlp,
                cross_attention_every=2,
            ),
            stage=4,
            eos_token_id=0,
            pad_token_id=0,
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        """Strict inverse of ``to_dict``."""
        data = dict(data)
        for name in PHASES:
            data[name] = from_dict(Phase, data[name], f"recipe.{name}")
        return from_dict(cls, data, "recipe")


#: What is shipped: int4 in groups of 32 for the text, int8 for the vision side.
SHIPPED = QuantizationConfig(text="int4", group_size=32, symmetric=True, vision="int8")
