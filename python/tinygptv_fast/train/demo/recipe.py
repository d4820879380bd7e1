"""What the demo model is and how it is trained, as data: sizes, phases, rates. No torch import."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig, from_dict
from ...data.world_vocabulary import VOCAB_SIZE
from ...errors import CheckpointError, InvalidArgumentError
from ..phase import Phase

RECIPE_FILE = "recipe.json"  # in a run's folder
SEEING = ("v1a", "v1b", "v2", "v3", "v4", "v5")
KEPT = "patches"  # between v4 and v5, which learns from them
ASKED = "asked"  # the same of the pictures that are asked about, before look
CACHES = ("cache64", "cache128")
STAGES = ("s1", "s2", "s3", "s4")
PHASES = (*SEEING[:-1], KEPT, SEEING[-1], "text", ASKED, "look", *CACHES, *STAGES, "finish", "report")
#: What the pictures of each phase show and, in the stages, what is asked: names of ``world.sampler.STAGES``.
SHOWN = {
    "v1a": "easy",
    "v1b": "full",
    "v2": "words",
    "text": "multitask",
    "s1": "warm_up",
    "s2": "pretrain",
    "s3": "instruct",
    "s4": "aimed",
    "finish": "aimed",
    "v3": "reading",
    "v4": "unnamed",
    "v5": "unnamed",
}
#: Which cached pictures each phase learns from. S3 asks new kinds of questions about the pictures of S2.
CACHED = {"s1": "warm_up", "s2": "pretrain", "s3": "pretrain", "s4": "multitask", "finish": "multitask"}

#: Whose cached pictures and questions phase "look" takes in turn: mostly those of the size that is shipped.
LOOKED_AT = ("s4", "s4", "s3", "s4")

#: What is shipped: int4 in groups of 32 for the text, int8 for the vision side.
SHIPPED = QuantizationConfig(text="int4", group_size=32, symmetric=True, vision="int8")
_PHASE_FIELDS = (*SEEING, "text", "look", "finish")
#: The first phase that depends on a setting which is not called like its phase. All others matter from the start.
_FIRST_USE = {
    "small_every": "v2", "kept_small": KEPT, "kept_large": KEPT, "queries": "v5",
    "made_up": "text", "warm_up": ASKED, "pretrain": ASKED, "multitask": ASKED,
    "looking": "look", "row_noise": "look", "naming": "look", "following": "look",
    "lora_rank": "s2", "report_questions": "report",
}  # fmt: skip


@dataclass(frozen=True)
class StagePlan:
    """One of the paper's stages: ``steps`` of ``pictures`` with ``questions`` each, AdamW at ``lr`` falling to a tenth.

    The rest of its settings are ``train.stages``'s, with the changes that ``demo.stages`` lists.
    """

    steps: int
    pictures: int
    questions: int
    lr: float

    def __post_init__(self) -> None:
        if min(self.steps, self.pictures, self.questions) < 1 or not self.lr > 0:
            raise InvalidArgumentError(f"{self} has a number below 1 or a rate of 0, expected more")


@dataclass(frozen=True)
class DemoRecipe:
    """Everything a run depends on besides the code: two runs with equal recipes are equal.

    Phases in pictures per step; in "text" a picture is a conversation about a scene in words. ``kept_small``,
    ``kept_large``: pictures of either size whose patches "v5" learns from, again and again. ``warm_up``,
    ``pretrain``, ``multitask``: pictures that are asked about, whose patches and later Q-Former rows are kept.
    ``looking``: share of the conversations of "look" that are about a picture, the others about a scene in words;
    ``made_up`` of those in words have names made up for them. ``row_noise``: how much noise a picture's rows get when
    "look" begins, as a share of their own spread; it falls with the rate. ``following``: the Q-Former's rate in "look"
    as a share of "v5"'s; ``naming``: the weight of the heads' loss there.
    """

    seed: int = 0
    v1a: Phase = Phase(steps=1200, pictures=32, questions=0, muon_lr=0.008, adam_lr=1e-3, decay=0.3)
    v1b: Phase = Phase(steps=5000, pictures=32, questions=0, muon_lr=0.008, adam_lr=1e-3, decay=0.6)
    v2: Phase = Phase(steps=3000, pictures=16, questions=0, muon_lr=0.006, adam_lr=1e-3, decay=0.6)
    v3: Phase = Phase(steps=4000, pictures=16, questions=0, muon_lr=0.006, adam_lr=1e-3, decay=0.7)
    v4: Phase = Phase(steps=2400, pictures=16, questions=0, muon_lr=0.003, adam_lr=5e-4, decay=0.85)
    v5: Phase = Phase(steps=3500, pictures=64, questions=0, muon_lr=0.003, adam_lr=5e-4, decay=0.85)
    small_every: int = 4  # of the steps from v2 on, every fourth is at the small size: the tower must serve both
    text: Phase = Phase(steps=800, pictures=32, questions=4, muon_lr=0.01, adam_lr=1.5e-3, decay=0.6)
    look: Phase = Phase(steps=5200, pictures=32, questions=4, muon_lr=0.006, adam_lr=1e-3, decay=0.7)
    s1: StagePlan = StagePlan(steps=100, pictures=16, questions=4, lr=1e-3)
    s2: StagePlan = StagePlan(steps=100, pictures=10, questions=6, lr=7e-4)
    s3: StagePlan = StagePlan(steps=100, pictures=10, questions=6, lr=5e-4)
    s4: StagePlan = StagePlan(steps=400, pictures=10, questions=6, lr=5e-4)
    finish: Phase = Phase(steps=800, pictures=10, questions=6, muon_lr=1.5e-5, adam_lr=1.5e-5, warmup=20, decay=0.98)
    kept_small: int = 10000
    kept_large: int = 40000
    warm_up: int = 4000
    pretrain: int = 36000
    multitask: int = 30000
    looking: float = 0.8
    row_noise: float = 0.1
    following: float = 0.5
    naming: float = 0.05
    made_up: float = 0.35
    lora_rank: int = 32
    exam: int = 12  # questions a kind, or 16 times as many pictures, in the small exams while training
    report_questions: int = 4000
    small_size: int = 64
    large_size: int = 128
    vision_width: int = 192
    vision_heads: int = 6
    vision_layers: int = 6
    vision_mlp: int = 768
    first_queries: int = 16
    queries: int = 32
    qformer_layers: int = 4
    qformer_heads: int = 6
    qformer_mlp: int = 768
    projector_hidden: int = 512
    text_heads: int = 4
    text_layers: int = 4
    text_mlp: int = 1280

    def __post_init__(self) -> None:
        for name in ("looking", "made_up", "row_noise", "following", "naming"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgumentError(f"{name} is {getattr(self, name)!r}, expected a share from 0 to 1")
        if self.large_size != 2 * self.small_size:
            raise InvalidArgumentError(f"large_size is {self.large_size}, expected twice small_size={self.small_size}")

    def phase(self, name: str) -> Phase:
        """Settings of "v1a" to "v5", "text", "look" or "finish"."""
        if name not in _PHASE_FIELDS:
            raise InvalidArgumentError(f"phase is {name!r}, expected one of {list(_PHASE_FIELDS)}")
        phase = getattr(self, name)
        assert isinstance(phase, Phase)
        return phase

    def is_small(self, step: int) -> bool:
        """Whether this step of a phase that sees both sizes has small pictures."""
        return step % self.small_every == self.small_every - 1

    def plan(self, name: str) -> StagePlan:
        """Settings of "s1" to "s4"."""
        if name not in STAGES:
            raise InvalidArgumentError(f"stage is {name!r}, expected one of {list(STAGES)}")
        plan = getattr(self, name)
        assert isinstance(plan, StagePlan)
        return plan

    def cached(self, phase: str) -> dict[str, int]:
        """Name → pictures of the files that "patches", "asked", "cache64" and "cache128" write."""
        if phase == KEPT:
            return {"full": self.kept_small, SHOWN["v5"]: self.kept_large}
        if phase == ASKED:
            return self.cached(CACHES[0]) | self.cached(CACHES[1])
        if phase not in CACHES:
            raise InvalidArgumentError(f"phase is {phase!r}, expected one of {[KEPT, ASKED, *CACHES]}")
        if phase == "cache64":
            return {"warm_up": self.warm_up, "pretrain": self.pretrain}
        return {"multitask": self.multitask}

    def scaled(self, factor: float) -> DemoRecipe:
        """The same phases with steps, cached pictures and exams multiplied by ``factor``: for trying the machinery."""
        if not 0 < factor <= 1:
            raise InvalidArgumentError(f"scale is {factor!r}, expected more than 0 and at most 1")

        def less(number: int, least: int) -> int:
            return max(least, round(number * factor))

        changed: dict[str, Any] = {}
        for name in (*_PHASE_FIELDS, *STAGES):
            settings = getattr(self, name)
            changed[name] = dataclasses.replace(settings, steps=less(settings.steps, 3))
        for name in ("kept_small", "kept_large", "warm_up", "pretrain", "multitask"):
            changed[name] = less(getattr(self, name), 32)
        changed |= {"exam": less(self.exam, 1), "report_questions": less(self.report_questions, 40)}
        return dataclasses.replace(self, **changed)

    def further(self) -> DemoRecipe:
        """For a run that begins with the eyes and the words of a model that has been through all of this: fewer steps,
        and lower rates in "look", since it is to keep what it has. V4 does no more than teach new heads."""
        steps = {"v4": 600, "v5": 2000, "look": 2700, "s1": 40, "s2": 40, "s3": 40, "s4": 240, "finish": 800}
        changed: dict[str, Any] = {name: dataclasses.replace(getattr(self, name), steps=n) for name, n in steps.items()}
        changed["look"] = dataclasses.replace(changed["look"], muon_lr=0.004, adam_lr=7e-4, decay=0.85)
        changed |= {"kept_large": 20000, "warm_up": 3200, "pretrain": 8000, "multitask": 28000}
        return dataclasses.replace(self, **changed)

    def on_gpu(self, factor: int = 4) -> DemoRecipe:
        """``factor`` times as many pictures a step and as many times fewer steps, for a device that likes them."""
        changed: dict[str, Any] = {}
        for name in (*_PHASE_FIELDS, *STAGES):
            settings = getattr(self, name)
            changed[name] = dataclasses.replace(
                settings, steps=max(1, settings.steps // factor), pictures=settings.pictures * factor
            )
        return dataclasses.replace(self, **changed)

    def model_config(self, size: int, queries: int | None = None) -> ModelConfig:
        """The unquantised model for pictures of ``size`` pixels, with ``queries`` of them or as many as are shipped.

        Head dim 80 and 32 rotary dims are the real model's: its kernels serve here.
        """
        D = 80
        text = TextConfig(
            width=self.text_heads * D,
            layers=self.text_layers,
            heads=self.text_heads,
            head_dim=D,
            rotary_dims=32,
            mlp_width=self.text_mlp,
            vocab_size=VOCAB_SIZE,
            max_positions=512,
        )
        vision = VisionConfig(
            image_size=size,
            patch_size=8,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=self.vision_heads,
            mlp_width=self.vision_mlp,
        )
        qformer = QFormerConfig(
            queries=self.queries if queries is None else queries,
            width=self.vision_width,
            layers=self.qformer_layers,
            heads=self.qformer_heads,
            mlp_width=self.qformer_mlp,
            cross_attention_every=2,
        )
        return ModelConfig(text=text, vision=vision, qformer=qformer, stage=4, eos_token_id=0, pad_token_id=0)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def settings_of(self, phase: str) -> dict[str, Any]:
        """``to_dict`` without what only later phases depend on; "text" has seen no picture."""
        if phase not in PHASES:
            raise InvalidArgumentError(f"phase is {phase!r}, expected one of {', '.join(PHASES)}")
        without = {*PHASES[PHASES.index(phase) + 1 :], *((*SEEING[1:], KEPT) if phase == "text" else ())}
        return {name: value for name, value in self.to_dict().items() if first_use(name) not in without}

    @property
    def digest(self) -> str:
        """Names all of it."""
        return self.digest_of(PHASES[-1])

    def digest_of(self, phase: str) -> str:
        """Names what ``phase`` depends on: a change to a later one leaves it as it was."""
        return hashlib.sha256(json.dumps(self.settings_of(phase), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DemoRecipe:
        """Strict inverse of ``to_dict``."""
        data = dict(data)
        for name in _PHASE_FIELDS:
            data[name] = from_dict(Phase, data[name], f"recipe.{name}")
        for name in STAGES:
            data[name] = from_dict(StagePlan, data[name], f"recipe.{name}")
        return from_dict(cls, data, "recipe")


def read_recipe(path: Path) -> DemoRecipe:
    """The recipe a run's folder was begun with. Raises CheckpointError for a file that is none."""
    try:
        return DemoRecipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a recipe: {error}") from error


def first_use(setting: str) -> str:
    """The first phase that depends on a field of ``DemoRecipe``."""
    return setting if setting in PHASES else _FIRST_USE.get(setting, PHASES[0])


#: Small in every way, for tests of the machinery.
TINY = dataclasses.replace(
    DemoRecipe(),
    vision_width=32,
    vision_heads=2,
    vision_layers=1,
    vision_mlp=32,
    qformer_layers=1,
    qformer_heads=2,
    qformer_mlp=32,
    projector_hidden=32,
    text_heads=1,
    text_layers=1,
    text_mlp=32,
    lora_rank=4,
)
