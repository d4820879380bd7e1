"""Which settings of a model fit a limit of memory and of time to the first token: counted, from sizes and four rates.

Memory: packed text weights (the engine's own count), the vision side as it is held, keys and values of one full
context, room to compute in, and the process. The vision side in int8 counts an eighth more: channels that are much
louder than the others are divided over several columns, an eighth at most.

Time to the first token of a picture and ``TEXT_TOKENS`` words of prompt: the vision side, then the prompt with its
visual tokens. Each is the larger of its bytes over the read bandwidth and its operations (two per weight and row, four
per width and pair in attention) over the share of the arithmetic rate that this engine was measured to sustain:

    text int4, int8    0.62 of int8 in registers   prompts of 64..1024 tokens: 0.62 to 0.70 (cpu.jsonl)
    vision int8        0.38 of int8 in registers   0.38 at 224 and at 448 px, through the whole API (cpu.jsonl)
    float products     0.65 of a plain product     vision in bfloat16 against its products, slowed as int8's was

Decoding: bytes of a token over 0.90 of the read bandwidth (0.90 to 0.96 in cpu.jsonl).

So these are estimates of this engine, not limits of the machine. Knows no files; measures nothing (``probes`` does).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import ModelConfig, QFormerConfig, VisionConfig
from ..engine.forms import KV_KINDS, Forms, Matrix
from ..engine.native_backend import kv_token_bytes
from ..engine.weights import text_bytes
from ..errors import CapacityError, InvalidArgumentError
from ..vision.arithmetic import has_fast_bfloat16, has_fast_int8
from .settings import stored_bytes

TEXT_TOKENS = 64
TEXT_SHARE, VISION_SHARE, FLOAT_SHARE, DECODE_SHARE = 0.62, 0.38, 0.65, 0.90
PREPROCESS_S_PER_PIXEL = 4e-8  # 7.5 ms at 448 px, 4 ms at 224 (cpu.jsonl)
PROCESS_BYTES, TORCH_BYTES = 50 << 20, 200 << 20  # Python with our modules; torch, which pictures need
_ENOUGH_THREADS = 1.05  # fewer threads are taken if they cost at most this factor of time

# From the least rounding to the most: relative L2 of Gaussian weights 0.2, 0.7, 8.1 and 9.7 % (docs/quantization.md).
# Text comes first in the order because its errors are the largest.
TEXT_CHOICES = (("bfloat16", 32), ("int8", 32), ("int4", 32), ("int4", 128))
KV_CHOICES = ("float16", "int8")
VISION_CHOICES = ("bfloat16", "int8")


@dataclass(frozen=True)
class Rates:
    """Of ``threads`` threads: bytes/s read, ops/s of int8 in registers (None: no such instructions), ops/s of plain
    bfloat16 (None: emulated) and float32 products."""

    threads: int
    read: float
    int8: float | None
    bfloat16: float | None
    float32: float


@dataclass(frozen=True)
class Limits:
    """What a plan must keep to; None: no limit."""

    memory_bytes: int | None = None
    first_token_s: float | None = None

    def allows(self, plan: Plan) -> bool:
        return (self.memory_bytes is None or plan.memory_bytes <= self.memory_bytes) and (
            self.first_token_s is None or plan.first_token_s <= self.first_token_s
        )

    def __str__(self) -> str:
        parts = [] if self.memory_bytes is None else [f"{self.memory_bytes / 1e9:.3g} GB"]
        if self.first_token_s is not None:
            parts.append(f"{self.first_token_s:.3g} s to the first token")
        return " and ".join(parts) or "no limit"


@dataclass(frozen=True)
class Plan:
    """One setting and what is predicted of it. text (int4, int8, bfloat16 or float32), group_size, vision (None:
    text only): what is converted to. vision_arithmetic: what this CPU computes it in. parts: bytes of ``memory_bytes``
    by what holds them."""

    text: str
    group_size: int
    kv_dtype: str
    vision: str | None
    vision_arithmetic: str | None
    threads: int
    parts: dict[str, int]
    vision_s: float
    prompt_s: float
    tokens_per_s: float
    rank: tuple[int, int, int]

    @property
    def memory_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def first_token_s(self) -> float:
        return self.vision_s + self.prompt_s

    @property
    def name(self) -> str:
        """For people: "text int4 groups of 32, int8 KV, vision int8, 2 threads"."""
        text = f"int4 groups of {self.group_size}" if self.text == "int4" else self.text
        vision = "" if self.vision is None else f", vision {self.vision}"
        return f"text {text}, {self.kv_dtype} KV{vision}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def conversion_options(self) -> str:
        """Of ``tinygptv convert`` and ``fetch --convert``."""
        if self.text in ("int4", "int8"):
            out = f"--quantization {self.text}" + (f" --group-size {self.group_size}" if self.text == "int4" else "")
        else:
            out = f"--quantization none --dtype {self.text}"
        return out + (f" --vision-dtype {self.vision}" if self.vision else "")

    def loading_arguments(self) -> str:
        """Of ``TinyGPTV.from_pretrained``: one request at a time, with a full context."""
        return f'kv_dtype="{self.kv_dtype}", threads={self.threads}, max_sequences=1'

    def to_dict(self) -> dict[str, Any]:
        """A json-ready dict."""
        out = dataclasses.asdict(self)
        del out["rank"]
        return {**out, "memory_bytes": self.memory_bytes, "first_token_s": self.first_token_s}


def choose(plans: Sequence[Plan], limits: Limits) -> Plan:
    """The plan with the least rounding that ``limits`` allow, and of its threads the fewest that are as fast as all.

    More memory or more time never choose more rounding. Raises CapacityError saying what would fit.
    """
    fits = [plan for plan in plans if limits.allows(plan)]
    if not fits:
        raise CapacityError(f"nothing fits {limits}: {_what_would(plans, limits)}")
    best = min(plan.rank for plan in fits)
    same = [plan for plan in fits if plan.rank == best]
    fastest = min(plan.first_token_s for plan in same)
    return min((p for p in same if p.first_token_s <= fastest * _ENOUGH_THREADS), key=lambda plan: plan.threads)


def _what_would(plans: Sequence[Plan], limits: Limits) -> str:
    """The nearest limits that would do, rounded up so that they do."""
    smallest = min(plans, key=lambda plan: (plan.memory_bytes, plan.first_token_s))
    fastest = min(plans, key=lambda plan: (plan.first_token_s, plan.memory_bytes))
    says = [
        f"the smallest setting ({smallest.name}) needs {_memory(smallest)}",
        f"the fastest ({fastest.name}) takes {_time(fastest)}",
    ]
    in_time = [plan for plan in plans if Limits(None, limits.first_token_s).allows(plan)]
    in_memory = [plan for plan in plans if Limits(limits.memory_bytes).allows(plan)]
    if in_time and limits.memory_bytes is not None:
        says.append(f"--memory {_memory(min(in_time, key=lambda plan: plan.memory_bytes))} would do")
    if in_memory and limits.first_token_s is not None:
        says.append(f"--ttft {_time(min(in_memory, key=lambda plan: plan.first_token_s))} would do")
    if not in_time and not in_memory:
        says.append(f"--memory {_memory(smallest)} --ttft {_time(smallest)} would do")
    return "; ".join(says)


def _memory(plan: Plan) -> str:
    return f"{math.ceil(plan.memory_bytes / 1e7) / 100:g}GB"


def _time(plan: Plan) -> str:
    return f"{math.ceil(plan.first_token_s * 100) / 100:g}s"


# --- counting --------------------------------------------------------------------------------------------------------
def all_plans(config: ModelConfig, rates: Iterable[Rates], features: Mapping[str, bool]) -> list[Plan]:
    """Every setting of a model of these sizes, for every number of threads that ``rates`` has."""
    visions: Sequence[str | None] = (None,) if config.vision is None else VISION_CHOICES
    out = []
    for rate in rates:
        for i, (text, group) in enumerate(TEXT_CHOICES):
            for j, kv in enumerate(KV_CHOICES):
                for k, vision in enumerate(visions):
                    out.append(plan_one(config, text, group, kv, vision, rate, features, rank=(i, j, k)))
    if not out:
        raise InvalidArgumentError("rates is empty, expected the rates of at least one number of threads")
    return out


def stored_plans(config: ModelConfig, rates: Iterable[Rates], features: Mapping[str, bool]) -> list[Plan]:
    """Every setting of a model that is converted already: its keys and values, and the number of threads."""
    kinds = config.quantization
    text = kinds.text if kinds.text != "none" else "bfloat16" if config.dtype == "bfloat16" else "float32"
    vision = None if config.vision is None else kinds.vision
    return [
        plan_one(config, text, kinds.group_size, kv, vision, rate, features, rank=(0, j, 0))
        for rate in rates
        for j, kv in enumerate(KV_CHOICES)
    ]


def plan_one(
    config: ModelConfig,
    text: str,
    group_size: int,
    kv_dtype: str,
    vision: str | None,
    rates: Rates,
    features: Mapping[str, bool],
    rank: tuple[int, int, int] = (0, 0, 0),
) -> Plan:
    """The prediction for exactly these settings. Derivation and figures: above."""
    kinds = dataclasses.replace(config.quantization, vision=vision or "float32")
    stored = dataclasses.replace(config, quantization=kinds)
    forms, arithmetic = _forms(text, group_size), None if vision is None else vision_arithmetic(vision, features)
    kv_token = kv_token_bytes(config.text, KV_KINDS[kv_dtype])
    weights = text_bytes(_shapes(config), forms)
    parts = {"text": weights, "keys and values": kv_token * config.text.max_positions, "process": PROCESS_BYTES}
    vision_s = 0.0
    if config.vision is not None and vision is not None and arithmetic is not None:
        held = sum(size for name, size in stored_bytes(stored).items() if not name.startswith("text."))
        parts |= {"vision": _held(held, vision, arithmetic), "torch": TORCH_BYTES}
        parts["workspace"] = _workspace(config.vision)
        ops = vision_ops(config)
        vision_s = max(held / rates.read, ops / _vision_rate(arithmetic, rates))
        vision_s += config.vision.image_size**2 * PREPROCESS_S_PER_PIXEL
    tokens = prompt_tokens(config)
    prompt_s = max(weights / rates.read, prompt_ops(config, tokens) / _text_rate(text, rates))
    embedding = text_bytes({"text.embed.weight": (config.text.vocab_size, config.text.width)}, forms)
    token_bytes = weights - embedding + kv_token * tokens
    speed = DECODE_SHARE * rates.read / token_bytes
    return Plan(text, group_size, kv_dtype, vision, arithmetic, rates.threads, parts, vision_s, prompt_s, speed, rank)


def prompt_tokens(config: ModelConfig) -> int:
    """Positions of the prompt that ``first_token_s`` is about: words, and a picture's visual tokens."""
    return TEXT_TOKENS + (config.qformer.queries if config.qformer is not None else 0)


def prompt_ops(config: ModelConfig, tokens: int) -> int:
    """Operations of reading ``tokens`` positions and making the logits of the last."""
    text = config.text
    matrices = text.layers * text.width * (4 * text.width + 2 * text.mlp_width)
    pairs = tokens * (tokens + 1) // 2
    return 2 * tokens * matrices + 2 * text.vocab_size * text.width + 4 * text.layers * text.width * pairs


def vision_ops(config: ModelConfig) -> int:
    """Operations of one picture: patches, tower, Q-Former, projection."""
    tower, qformer = config.vision, config.qformer
    if tower is None or qformer is None:
        return 0
    rows, width = tower.tokens, tower.width
    layer = 2 * rows * width * (4 * width + 2 * tower.mlp_width) + 4 * rows * rows * width
    patches = 2 * (rows - 1) * width * 3 * tower.patch_size**2
    projection = 2 * qformer.queries * qformer.width * config.text.width
    return tower.layers * layer + patches + _qformer_ops(qformer, tower) + projection


def _qformer_ops(qformer: QFormerConfig, tower: VisionConfig) -> int:
    rows, width = qformer.queries, qformer.width
    own = 2 * rows * width * (4 * width + 2 * qformer.mlp_width) + 4 * rows * rows * width
    cross = 4 * rows * width * width + 4 * tower.tokens * tower.width * width + 4 * rows * tower.tokens * width
    return qformer.layers * own + -(-qformer.layers // qformer.cross_attention_every) * cross


def vision_arithmetic(stored: str, features: Mapping[str, bool]) -> str:
    """What ``vision_dtype="auto"`` computes weights stored so in on this CPU."""
    if stored == "int8" and has_fast_int8(features):
        return "int8"
    return "bfloat16" if stored != "float32" and has_fast_bfloat16(features) else "float32"


def _vision_rate(arithmetic: str, rates: Rates) -> float:
    if arithmetic == "int8" and rates.int8 is not None:
        return VISION_SHARE * rates.int8
    if arithmetic == "bfloat16" and rates.bfloat16 is not None:
        return FLOAT_SHARE * rates.bfloat16
    return FLOAT_SHARE * rates.float32


def _text_rate(text: str, rates: Rates) -> float:
    """bfloat16 matrices are widened and multiplied in float32; so is everything without int8 instructions."""
    if text not in ("int4", "int8") or rates.int8 is None:
        return FLOAT_SHARE * rates.float32
    return TEXT_SHARE * rates.int8


def _forms(text: str, group_size: int) -> Forms:
    kind = KV_KINDS[text] if text in ("bfloat16", "float32") else text
    matrix = Matrix(kind, group_size, True)
    return Forms(matrix, matrix, "int8" if text in ("int4", "int8") else kind)


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    from ..checkpoint.names import text_shapes

    return text_shapes(config.text)


def _held(stored: int, kind: str, arithmetic: str) -> int:
    if kind == "int8":
        return stored * 9 // 8 if arithmetic == "int8" else stored * 2 if arithmetic == "bfloat16" else stored
    return stored


def _workspace(tower: VisionConfig) -> int:
    """Rows of float32 that half a block has at once: input, output, and the widest of it four times."""
    return 4 * tower.tokens * 4 * (tower.mlp_width + 2 * tower.width)
