"""A model directory and its adapter as one new directory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from ..checkpoint.adapter import AdaptedDirectory
from ..checkpoint.directory import TEMPLATE_KEY
from ..config import QuantizationConfig
from ..quantize.receipt import Receipt
from .writing import Progress, write_model


def merge_directory(
    adapted: AdaptedDirectory,
    out: str | os.PathLike[str],
    *,
    quantization: QuantizationConfig | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Receipt:
    """Write ``adapted`` as the plain model directory ``out``, one tensor in memory at a time.

    quantization: how to store it; None keeps the base's own form, and then tensors that the adapter does not touch keep
    the values they have (rounding a rounded matrix again changes it by less than its scale). Raises as ``write_model``.
    """
    settings = {k: v for k, v in adapted.generation_config.items() if k != TEMPLATE_KEY}

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name in adapted.names():
            yield name, adapted.dequantized(name)
            adapted.release(name)

    return write_model(
        out,
        adapted.config,
        tensors(),
        adapted.tokenizer_file,
        adapted.preprocessor,
        settings,
        adapted.template,
        report={"merged_adapter": adapted.adapter.digest},
        overwrite=overwrite,
        quantization=quantization,
        progress=progress,
    )
