"""What the ablation compares and how, as data. No torch import.

As in the paper, the language model comes from elsewhere and has neither q/k norm nor post-attention norm: the parts
that are left out one by one are what TinyGPT-V adds to it. Sizes and lengths are such that all of it takes a quarter of
an hour on two cores.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ...config import ModelConfig, TextConfig
from ...errors import InvalidArgumentError
from ..demo.recipe import STAGES, DemoRecipe, StagePlan
from ..phase import Phase

BASE = "text"  # the folder of the stock language model, and the demo recipe's name for how it learns
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Variant:
    """One row of the table: what is left out of the model (flags of ``TextConfig``) or of what is trained."""

    title: str
    qk_norm: bool = True
    post_attention_norm: bool = True
    lora: bool = True
    frozen: tuple[str, ...] = ()

    def text_config(self, stock: TextConfig) -> TextConfig:
        """``stock`` with the norms of this variant."""
        return dataclasses.replace(stock, qk_norm=self.qk_norm, post_attention_norm=self.post_attention_norm)


#: "Without input norm": Phi's own LayerNorm of each layer stays, its weight is not trained. Phi-2 cannot do without it,
#: and the paper's loss without it is a little higher in every stage, which is not what a Phi-2 without it would give.
VARIANTS: dict[str, Variant] = {
    "full": Variant("full"),
    "no_lora": Variant("without LoRA", lora=False),
    "no_input_norm": Variant("without trained input norm", frozen=("text.layers.*.norm.weight",)),
    "no_rms_norm": Variant("without RMSNorm", post_attention_norm=False),
    "no_qk_norm": Variant("without q/k norm", qk_norm=False),
}


_WARM_UP = StagePlan(steps=100, pictures=8, questions=3, lr=2e-3)
_PRETRAIN = StagePlan(steps=100, pictures=8, questions=3, lr=1.5e-3)
_SHORT = StagePlan(steps=60, pictures=8, questions=3, lr=1e-3)


@dataclass(frozen=True)
class AblationRecipe(DemoRecipe):
    """The demo model's recipe for "text" and the four stages, in small. pictures: drawn for training; held_out:
    questions about other pictures, for the loss that is reported. precision: of the stages."""

    text: Phase = Phase(steps=350, pictures=12, questions=4, muon_lr=0.01, adam_lr=1.5e-3, decay=0.6)
    s1: StagePlan = _WARM_UP
    s2: StagePlan = _PRETRAIN
    s3: StagePlan = _SHORT
    s4: StagePlan = _SHORT
    exam: int = 1
    lora_rank: int = 16
    projector_hidden: int = 256
    text_heads: int = 2
    text_layers: int = 8
    text_mlp: int = 640
    pictures: int = 800
    held_out: int = 96
    precision: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise InvalidArgumentError(f"precision is {self.precision!r}, expected one of {list(PRECISIONS)}")

    def model_config(self, size: int, queries: int | None = None) -> ModelConfig:
        """The stock model: the demo's, without what TinyGPT-V adds."""
        config = super().model_config(size, queries)
        return dataclasses.replace(config, text=Variant("", False, False).text_config(config.text))

    def times(self, rate: float) -> AblationRecipe:
        """The same with the learning rates of the stages multiplied by ``rate``."""
        if not 0 < rate <= 1000:
            raise InvalidArgumentError(f"--rate is {rate:g}, expected more than 0 and at most 1000")
        plans: dict[str, Any] = {n: dataclasses.replace(self.plan(n), lr=self.plan(n).lr * rate) for n in STAGES}
        return dataclasses.replace(self, **plans)


_TINY_PLAN = StagePlan(steps=3, pictures=2, questions=2, lr=1e-3)
#: Seconds, for trying the machinery.
TINY = AblationRecipe(
    text=Phase(steps=2, pictures=2, questions=1, muon_lr=0.01, adam_lr=1e-3, decay=0.5),
    s1=_TINY_PLAN,
    s2=_TINY_PLAN,
    s3=_TINY_PLAN,
    s4=_TINY_PLAN,
    lora_rank=2,
    projector_hidden=16,
    text_heads=1,
    text_layers=2,
    text_mlp=32,
    pictures=4,
    held_out=4,
)
