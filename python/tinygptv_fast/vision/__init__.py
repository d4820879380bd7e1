"""The production vision side (docs/vision.md): pixels to visual tokens in float32, bfloat16 or int8, steppable.

``VisionTower(directory).encode(pixels)`` is all of it; ``begin`` gives an ``Encoder`` that a scheduler steps;
``ImageCache`` keeps what was encoded, by ``image_key``. Does not build reference modules.
"""

from .arithmetic import Arithmetic, choose_arithmetic
from .cache import CacheStats, Claim, ImageCache, Wait, image_key
from .source import WeightSource
from .tower import Encoder, VisionTower

__all__ = [
    "Arithmetic",
    "CacheStats",
    "Claim",
    "Encoder",
    "ImageCache",
    "VisionTower",
    "Wait",
    "WeightSource",
    "choose_arithmetic",
    "image_key",
]
