"""``doctor --memory --ttft``: settings for a limit, with predictions beside what was measured here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .. import env
from ..errors import InvalidArgumentError
from .models import local_directory, thread_count
from .output import console, gigabytes, print_json, progress

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..diagnosis.fit import Limits, Plan
    from ..diagnosis.probes import Piece


def show_fit(
    model: str | None,
    memory: str | None,
    ttft: str | None,
    image_size: str | None,
    threads: int | None,
    json_output: bool,
    quiet: bool,
) -> None:
    """Choose and show. Raises InvalidArgumentError for the options, CapacityError where nothing fits."""
    from ..diagnosis.quantities import parse_bytes, parse_seconds

    memory_bytes = None if memory is None else parse_bytes("--memory", memory)
    seconds = None if ttft is None else parse_seconds("--ttft", ttft)
    if model is not None and image_size is not None:
        raise InvalidArgumentError("--image-size is given with --model, which has its own")
    from ..diagnosis.fit import TEXT_TOKENS, Limits

    limits = Limits(memory_bytes, seconds)
    config = _config(model, image_size)
    with progress("measuring", quiet=quiet):
        plan = _choose(config, limits, thread_count(threads), stored=model is not None)
        pieces = _measure(model, config, plan)
    if json_output:
        about = model or f"TinyGPT-V, released sizes, {image_size or 448} px"
        data: dict[str, Any] = {"model": about, "limits": asdict(limits), "prompt_words": TEXT_TOKENS}
        print_json("doctor", data | {"plan": plan.to_dict(), "measured": [asdict(piece) for piece in pieces]})
    else:
        _show(model, config, limits, plan, pieces)


def _config(model: str | None, image_size: str | None) -> ModelConfig:
    import dataclasses

    from ..checkpoint.directory import open_directory
    from ..config import VisionConfig
    from ..diagnosis.settings import RELEASED

    if model is not None:
        return open_directory(local_directory(model)).config
    return dataclasses.replace(RELEASED, vision=VisionConfig(image_size=int(image_size or 448)))


def _choose(config: ModelConfig, limits: Limits, threads: int, *, stored: bool) -> Plan:
    from .. import _native
    from ..diagnosis.fit import all_plans, choose, stored_plans
    from ..diagnosis.probes import measure_rates, thread_counts

    rates = [measure_rates(count, env.read_settings().cpu_isa) for count in thread_counts(threads)]
    return choose((stored_plans if stored else all_plans)(config, rates, _native.cpu_features()), limits)


def _measure(model: str | None, config: ModelConfig, plan: Plan) -> list[Piece]:
    from ..diagnosis.fit import prompt_tokens
    from ..diagnosis.probes import measure_model, measure_pieces

    if model is not None:
        return measure_model(local_directory(model), plan)
    return measure_pieces(config, plan, prompt_tokens(config), env.read_settings().cpu_isa)


def _show(model: str | None, config: ModelConfig, limits: Limits, plan: Plan, pieces: list[Piece]) -> None:
    screen = console()

    def line(name: str, text: str) -> None:
        screen.print(f"{name:<12} {text}", soft_wrap=True)

    size = f", {config.vision.image_size} px" if config.vision is not None else ""
    line("for", f"{model or 'the released TinyGPT-V'}{size}, within {limits}")
    line("settings", plan.name)
    parts = ", ".join(f"{name} {gigabytes(count)}" for name, count in plan.parts.items())
    line("memory", f"{gigabytes(plan.memory_bytes)} predicted: {parts}")
    split = f"vision {plan.vision_s:.2f} s, prompt {plan.prompt_s:.2f} s"
    line("first token", f"{plan.first_token_s:.2f} s predicted: {split}")
    line("then", f"{plan.tokens_per_s:.1f} tokens/s predicted")
    for piece in pieces:
        line("measured", f"{piece.what} {_amount(piece, piece.measured)}, predicted {_amount(piece, piece.predicted)} "
             f"({piece.how})")  # fmt: skip
    if model is None:
        stage = 4 if config.vision is not None and config.vision.image_size == 448 else 3
        name = plan.text if plan.text in ("int4", "int8") else "none"
        line("make it", f"tinygptv fetch --stage {stage} --out ./tinygptv --convert {plan.conversion_options()}")
        model = f"./tinygptv/tinygptv-stage{stage}-{name}"
    line("load it", f'tgv.TinyGPTV.from_pretrained("{model}", {plan.loading_arguments()})')


def _amount(piece: Piece, value: float) -> str:
    return gigabytes(value) if piece.unit == "bytes" else f"{value:.2f} s"
