"""What a stage trains, how long and on what layout: ``StageConfig``, read from the json file of each stage.

No torch import: the command line checks a config before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...compat.schedule import WarmupCosine
from ...config import LoraConfig, from_dict
from ...errors import ConfigError, InvalidArgumentError
from ...processing.templates import Template, get_template

STAGES = (1, 2, 3, 4)
FINETUNE = "finetune"
VALUES = ("paper", "original")
AUTO = "auto"
PRECISIONS = (AUTO, "float32", "bfloat16")
BARE = "bare"  # the template of stages 1 and 2: the picture's rows, then the answer, and no word between
_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class StageConfig:
    """Everything a run depends on besides the code, the model it starts from and the data.

    Trained tensors: the projector always; ``norms`` adds the *weights* of the language model's norms (their biases stay
    frozen, base_model.py:206-228); ``lora_rank`` > 0 adds adapters on qkv and out; ``qformer`` adds the whole Q-Former.
    Rates are per step of the optimiser, lengths in tokens, ``batch_size`` in examples per step of the optimiser, which
    are worked through in ``accumulation`` parts.
    """

    stage: int | None = None
    norms: bool = True
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.05
    qformer: bool = False
    frozen: tuple[str, ...] = ()  # patterns (fnmatch) of names that stay as they are, whatever else is said
    projector_hidden: int | None = None  # width between the two projections of a fresh projector; None: one map
    fresh_projector: bool = False  # start the projector anew: stage 1, whose task it is
    image_size: int | None = None  # what the recipe is meant for; the model's own size counts
    layout: str = "original"  # original: BOS before each row; inference: as prompts are written when answering
    template: str | None = None  # a template's name, "bare", or None for the model directory's
    end_symbol: str | None = None  # what ends an answer; None: the template's first stop string
    max_answer: int = 160
    max_context: int = 3800
    prompts: tuple[str, ...] = ()  # for examples without a question of their own
    one_prompt_per_batch: bool = False  # minigpt_base.py:235
    row_weight: str = "tokens"  # tokens: every answer token alike; sqrt: 1/sqrt(tokens of its row)
    coordinate_sigma: float = 0.0  # labels of box coordinates are Gaussians of this width, in hundredths; 0: plain
    batch_size: int = 1
    accumulation: int = 1
    epochs: int = 1
    steps_per_epoch: int = 1
    repeats: int = 1  # the whole schedule runs this often, each time with fresh optimiser moments
    init_lr: float = 1e-4
    min_lr: float = 0.0
    warmup_steps: int = 0
    warmup_start_lr: float = -1.0
    per_epoch_warmup: bool = True
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    gradient_limit: float = 1e6  # a gradient of a larger norm stops the run
    precision: str = "float32"  # float32, bfloat16 for autocast, or auto for the faster of them (see ..precision)
    frozen_dtype: str = "float32"  # how frozen matrices of the language model are held
    recompute: bool = False  # gradient checkpointing
    seed: int = 42
    save_every: int = 500
    ratios: Mapping[str, float] = field(default_factory=dict)  # data set → weight; those not named weigh 1
    replay_ratio: float = 0.0  # share of examples drawn from the replay data, if there is some

    def __post_init__(self) -> None:
        counts = ("batch_size", "accumulation", "epochs", "steps_per_epoch", "repeats", "max_answer", "max_context")
        for name in (*counts, "save_every"):
            self._check(name, type(getattr(self, name)) is int and getattr(self, name) >= 1, "an integer >= 1")
        for name in ("lora_rank", "warmup_steps", "seed"):
            self._check(name, type(getattr(self, name)) is int and getattr(self, name) >= 0, "an integer >= 0")
        for name in ("init_lr", "gradient_limit", "lora_alpha"):
            self._check(name, _number(getattr(self, name)) and getattr(self, name) > 0, "a finite number > 0")
        for name in ("min_lr", "weight_decay", "coordinate_sigma"):
            self._check(name, _number(getattr(self, name)) and getattr(self, name) >= 0, "a finite number >= 0")
        self._check("warmup_start_lr", _number(self.warmup_start_lr), "a finite number")
        self._check("replay_ratio", _number(self.replay_ratio) and 0 <= self.replay_ratio < 1, "0 <= number < 1")
        self._check("accumulation", self.accumulation <= self.batch_size, f"at most batch_size={self.batch_size}")
        good = self.clip_norm is None or (_number(self.clip_norm) and self.clip_norm > 0)
        self._check("clip_norm", good, "null or a number > 0")
        good = self.projector_hidden is None or (type(self.projector_hidden) is int and self.projector_hidden >= 1)
        self._check("projector_hidden", good, "null or an integer >= 1")
        self._check("frozen", all(isinstance(pattern, str) and pattern for pattern in self.frozen), "a list of texts")
        good = len(self.betas) == 2 and all(_number(beta) and 0 <= beta < 1 for beta in self.betas)
        self._check("betas", good, "two numbers in 0..1")
        self._check("stage", self.stage in (None, *STAGES), "null or 1..4")
        self._one_of("layout", ("original", "inference"))
        self._one_of("precision", PRECISIONS)
        self._one_of("frozen_dtype", ("float32", "bfloat16"))
        self._one_of("row_weight", ("tokens", "sqrt"))
        good = self.frozen_dtype == "float32" or self.precision != "float32"
        self._check("frozen_dtype", good, "'float32' unless precision is 'bfloat16' or 'auto'")
        good = all(_number(weight) and weight > 0 for weight in self.ratios.values())
        self._check("ratios", good, "numbers > 0")
        if self.template not in (None, BARE):
            get_template(self.template)
        if self.template == BARE and self.end_symbol is None:
            raise ConfigError("stage.end_symbol is null with template 'bare', which has no stop string; expected text")
        self._check("lora_dropout", _number(self.lora_dropout) and 0 <= self.lora_dropout < 1, "0 <= number < 1")

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters' settings; None for rank 0."""
        return LoraConfig(self.lora_rank, self.lora_alpha, self.lora_dropout) if self.lora_rank else None

    @property
    def steps_per_repeat(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of the optimiser in all."""
        return self.repeats * self.steps_per_repeat

    @property
    def schedule(self) -> WarmupCosine:
        """The schedule of one repeat."""
        return WarmupCosine(
            self.epochs,
            self.steps_per_epoch,
            self.min_lr,
            self.init_lr,
            self.warmup_steps,
            self.warmup_start_lr,
            self.per_epoch_warmup,
        )

    def lr(self, step: int) -> float:
        """Learning rate of 0-based ``step`` of the run."""
        epoch, within = divmod(step % self.steps_per_repeat, self.steps_per_epoch)
        return self.schedule.lr(epoch, within)

    def chosen_template(self, directory: Template) -> Template | None:
        """The template rows are written with; ``directory`` is the model's. None is "bare"."""
        if self.template == BARE:
            return None
        return directory if self.template is None else get_template(self.template)

    def to_dict(self) -> dict[str, Any]:
        """Json-ready; ``replace`` with it gives an equal config."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def replace(self, changes: Mapping[str, Any], where: str = "config") -> StageConfig:
        """This config with ``changes``, whose unknown keys and wrong values raise ``ConfigError`` naming ``where``."""
        merged: dict[str, Any] = {**self.to_dict(), **changes}
        for name in ("prompts", "betas", "frozen"):
            if not isinstance(merged[name], (list, tuple)):
                raise ConfigError(f"{where}.{name} is {merged[name]!r}, expected a list")
            merged[name] = tuple(merged[name])
        if not isinstance(merged["ratios"], Mapping):
            raise ConfigError(f"{where}.ratios is {merged['ratios']!r}, expected a json object")
        return from_dict(StageConfig, merged, where)

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise ConfigError(f"stage.{name} is {getattr(self, name)!r}, expected {expected}")

    def _one_of(self, name: str, choices: tuple[str, ...]) -> None:
        self._check(name, getattr(self, name) in choices, f"one of {', '.join(map(repr, choices))}")


def _number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def read_stage_file(stage: int | str) -> dict[str, Any]:
    """The json of a stage: ``title``, ``notes``, and the values of ``both``, ``paper`` and ``original``."""
    if stage not in (*STAGES, FINETUNE) or isinstance(stage, bool):
        raise InvalidArgumentError(f"stage is {stage!r}, expected 1, 2, 3, 4 or {FINETUNE!r}")
    name = f"stage{stage}" if isinstance(stage, int) else stage
    data: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return data


def load_stage(stage: int | str, values: str = "paper", changes: Mapping[str, Any] | None = None) -> StageConfig:
    """The config of ``stage`` (1-4 or "finetune").

    values: "paper" or "original", what the original's code and yaml files do; they differ where the stage's file says
    so. changes: fields to replace. Raises InvalidArgumentError, ConfigError.
    """
    if values not in VALUES:
        raise InvalidArgumentError(f"values is {values!r}, expected one of {', '.join(map(repr, VALUES))}")
    data = read_stage_file(stage)
    return StageConfig().replace({**data["both"], **data[values]}).replace(changes or {})


def read_changes(path: Path) -> dict[str, Any]:
    """The json object in ``path``: fields of a config to replace and, under "data", the data sets to learn from (see
    ``data.readers.config``). Raises ConfigError naming the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"--config {path} holds {type(data).__name__}, expected a json object")
    return data
