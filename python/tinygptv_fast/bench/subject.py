"""What is measured: a backbone's sizes and packed weights, and what a step over them must read and compute."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import TextConfig
from ..engine import choose_forms, load_weights
from ..engine.forms import KV_KINDS, Forms, Matrix
from ..engine.native_backend import kv_token_bytes
from .blocks import Cost
from .options import SHAPES, Options

if TYPE_CHECKING:
    from .. import _native


@dataclass
class Subject:
    """``directory`` is None for random weights. ``kv_kind`` is the native core's name of the KV type."""

    name: str
    text: TextConfig
    forms: Forms
    weights: _native.Weights
    kv_kind: str
    directory: Path | None

    @property
    def matrix_weights(self) -> int:
        """Weights of all matrices of the layers."""
        text = self.text
        return text.layers * text.width * (4 * text.width + 2 * text.mlp_width)

    @property
    def is_released_size(self) -> bool:
        """Whether figures may stand beside those of the paper."""
        return self.text == SHAPES["phi2"]

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values of one position, scales included."""
        return kv_token_bytes(self.text, self.kv_kind)

    def step(self, first: int, tokens: int, logit_rows: int) -> Cost:
        """One step that appends ``tokens`` positions behind ``first`` to one sequence.

        Bytes: every matrix once, the cached positions once, the new ones written. Operations: two per weight and
        token, and four per head dimension and pair of positions in attention.
        """
        text = self.text
        pairs = tokens * first + tokens * (tokens + 1) // 2
        ops = 2 * tokens * self.matrix_weights + 2 * logit_rows * text.vocab_size * text.width
        ops += 4 * text.layers * text.width * pairs
        return Cost(self.weights.step_bytes + self.kv_bytes * (first + tokens), ops)

    def ids(self, count: int, seed: int = 0) -> list[int]:
        """Random ids, the same for the same arguments."""
        return [int(i) for i in np.random.default_rng([count, seed]).integers(0, self.text.vocab_size, count)]


def open_subject(options: Options) -> Subject:
    """The weights in memory: packed from the directory, or random."""
    kv_kind = KV_KINDS[options.kv_dtype]
    if options.model is not None:
        return _of_directory(options.model, kv_kind, options.threads)
    from .. import _native

    shape = options.shape or "phi2"
    text, matrix = SHAPES[shape], Matrix("int4", options.group_size or 32, True)
    forms = Forms(matrix, matrix, "int8")
    weights = _native.Weights.random(dataclasses.asdict(text), forms.native(), threads=options.threads)
    return Subject(f"{shape}, random weights", text, forms, weights, kv_kind, None)


def _of_directory(model: str, kv_kind: str, threads: int) -> Subject:
    from ..checkpoint.directory import open_directory
    from ..generate.loading import locate

    path = Path(model)
    if model == "demo":
        path = locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)
    directory = open_directory(path)
    forms = choose_forms(directory, "auto")
    weights = load_weights(directory, forms, None, threads=threads).weights
    return Subject(model, directory.config.text, forms, weights, kv_kind, path)
