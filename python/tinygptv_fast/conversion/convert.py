"""``convert``: the original's files to a model directory of ours."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.architecture import read_architecture
from ..checkpoint.directory import UNTRAINED
from ..checkpoint.names import FLOAT_CODES, is_text_matrix
from ..checkpoint.plan import Plan, make_plan
from ..config import ModelConfig, QuantizationConfig
from ..errors import InvalidArgumentError
from ..processing.image import ImageProcessor
from ..processing.templates import STAGE_TEMPLATES, Template, get_template
from ..quantize.receipt import Receipt
from .writing import Progress, write_model

PathLike = str | os.PathLike[str]


class _Default(str):
    """A string that can be told from the same string given by the caller."""


_VISION_DEFAULT = _Default("int8")


def convert(
    phi: PathLike,
    vision: PathLike | None = None,
    qformer: PathLike | None = None,
    checkpoint: PathLike | None = None,
    out: PathLike | None = None,
    image_size: int | None = None,
    template: str | Template | None = None,
    quantization: str = "int4",
    group_size: int = 32,
    vision_dtype: str | torch.dtype = _VISION_DEFAULT,
    dtype: str | torch.dtype = "auto",
    architecture: Mapping[str, Any] | PathLike | None = None,
    overwrite: bool = False,
    untrained: bool = False,
    progress: Progress | None = None,
) -> Receipt:
    """Convert the original's files (or a stock Phi directory alone) to the model directory ``out``.

    phi: Phi directory (config.json, tokenizer, weights). vision: ``eva_vit_g.pth``. qformer:
    ``blip2_pretrained_*.pth``. checkpoint: ``TinyGPT-V_for_StageN.pth``. The last three go together; without them the
    result is the text-only Phi.
    image_size: the model's input side in pixels; None takes the checkpoint's own, and is an error if it states none.
    template: prompt template; None chooses by the stage in the checkpoint's name (``phi`` for text only).
    quantization: ``int4`` in groups of ``group_size``, ``int8`` or ``none`` for the text matrices.
    vision_dtype: ``int8`` (the default), ``bfloat16`` or ``float32`` for the vision matrices; when it is not given,
    ``quantization="none"`` means ``float32``, so that nothing is rounded.
    dtype: of unquantised text matrices. ``auto`` holds every value exactly: float32 for a TinyGPT-V, the source's own
    dtype for a stock Phi.
    architecture: sizes of the frozen parts as a dict or json file like ``tests/golden/sizes.json``; None = released.
    untrained: no checkpoint: the model that stage 1 of the training starts from. It answers nothing, and is not opened
    to answer without an adapter.
    progress: called as ``progress(done_bytes, total_bytes, tensor_name)``.

    Returns the quality receipt. Raises ``CheckpointError`` naming files and tensors, ``InvalidArgumentError`` for
    arguments; then nothing of ``out`` is left behind.
    """
    if out is None:
        raise InvalidArgumentError("out is not given, expected the directory to create")
    storage = _quantization(quantization, group_size, vision_dtype)
    if template is not None:
        get_template(template)  # before any file is opened
    plan = make_plan(
        phi,
        vision,
        qformer,
        checkpoint,
        architecture=read_architecture(architecture),
        image_size=image_size,
        untrained=untrained,
    )
    config = dataclasses.replace(plan.config, quantization=storage, dtype=_dtype(dtype, storage, plan))
    return write_model(
        out,
        config,
        plan.recipes,
        plan.tokenizer_file,
        ImageProcessor(config.vision.image_size).to_dict() if config.vision else None,
        None,
        _template("vicuna" if untrained and template is None else template, config, checkpoint),
        ledger=plan.ledger,
        report=_report(plan, {"phi": phi, "vision": vision, "qformer": qformer, "checkpoint": checkpoint})
        | {UNTRAINED: untrained},
        overwrite=overwrite,
        progress=progress,
    )


def _name(argument: str, value: str | torch.dtype) -> str:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{argument} is {value!r}, expected a dtype or its name")
    return str(value)


def _quantization(quantization: str, group_size: int, vision_dtype: str | torch.dtype) -> QuantizationConfig:
    vision = _name("vision_dtype", vision_dtype)
    if isinstance(vision_dtype, _Default) and quantization == "none":
        vision = "float32"
    return QuantizationConfig(text=quantization, group_size=group_size, vision=vision)


def _dtype(dtype: str | torch.dtype, storage: QuantizationConfig, plan: Plan) -> str:
    name = _name("dtype", dtype)
    if name != "auto":
        if name not in FLOAT_CODES:
            raise InvalidArgumentError(f"dtype is {name!r}, expected 'auto' or one of {sorted(FLOAT_CODES)}")
        return name
    sources = {recipe.exact_in for name, recipe in plan.recipes.items() if is_text_matrix(name)}
    if storage.text != "none" or plan.config.vision is not None or len(sources) != 1:
        return "float32"
    names = {code: name for name, code in FLOAT_CODES.items()}
    return names.get(sources.pop(), "float32")


def _template(template: str | Template | None, config: ModelConfig, checkpoint: PathLike | None) -> Template:
    if template is not None:
        return get_template(template)
    if config.vision is None:
        return get_template("phi")
    if config.stage is None or config.stage not in STAGE_TEMPLATES:
        raise InvalidArgumentError(
            f"template is not given and the name of {checkpoint} does not say its stage (1-4); "
            "expected template='vicuna' for stages 1-3 or 'inst' for stage 4"
        )
    return get_template(STAGE_TEMPLATES[config.stage])


def _report(plan: Plan, sources: Mapping[str, PathLike | None]) -> dict[str, Any]:
    return {
        "sources": {name: Path(path).name for name, path in sources.items() if path is not None},
        "summary": plan.ledger.counts(),
        "lora": {"rank": plan.lora_rank, "alpha": plan.lora_alpha} if plan.lora_rank else None,
    }
