"""A model directory as one dict of float tensors, for the plain torch backend."""

from __future__ import annotations

import os

import torch

from ..checkpoint.directory import ModelDirectory, open_directory


def load_state(
    directory: str | os.PathLike[str] | ModelDirectory, *, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Canonical name → tensor, dequantised: quantised matrices in float32, others as stored; all in ``dtype`` if given.

    Tensors that need no change are views of the mapped file, private to the process: changing one changes no file.
    """
    opened = directory if isinstance(directory, ModelDirectory) else open_directory(directory)
    state = {name: opened.dequantized(name) for name in opened.names()}
    return state if dtype is None else {name: tensor.to(dtype) for name, tensor in state.items()}
