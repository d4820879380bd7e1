"""The production vision side (docs/vision.md): pixels to visual tokens in float32, bfloat16 or int8, steppable.

``VisionTower(directory).encode(pixels)`` is all of it; ``begin`` gives an ``Encoder`` that a scheduler steps;
``ImageCache`` keeps what was encoded, by ``image_key``. Does not build reference modules. torch is imported with the
tower, not before.
"""

from typing import TYPE_CHECKING, Any

from .arithmetic import Arithmetic, choose_arithmetic, choose_on_gpu
from .cache import CacheStats, Claim, ImageCache, Wait, image_key

if TYPE_CHECKING:
    from .gpu import gpu_device
    from .source import WeightSource
    from .tower import Encoder, VisionTower

_WITH_TORCH = {"Encoder": "tower", "VisionTower": "tower", "WeightSource": "source", "gpu_device": "gpu"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)


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
    "choose_on_gpu",
    "gpu_device",
    "image_key",
]
