"""From weights to a model directory and back: ``convert``, ``write_model``, ``load_state``, ``merge_directory``.

Knows files, quantisation and their order; does not know how a model computes.
"""

from .convert import convert
from .loading import load_state
from .merging import merge_directory
from .writing import write_model

__all__ = ["convert", "load_state", "merge_directory", "write_model"]
