"""Pictures in the forms that the original's scripts hold them: files, Pillow's, pixel tensors, visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, UnsupportedError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..generate.image_state import ImageState
    from ..generate.model import TinyGPTV
    from ..processing.image import ImageProcessor

_ROUNDING = 0.02  # of one grey level of 255: float32 noise of the original's normalisation, taken back


def encode(model: TinyGPTV, image: Any) -> ImageState:
    """Visual tokens of ``image``: all that ``TinyGPTV.encode_image`` takes, or a float32 tensor [3, S, S] or
    [1, 3, S, S] of a processor's pixels. Raises InvalidArgumentError for another tensor."""
    return model.encode_image(_picture(image, processor_of(model)) if _is_tensor(image) else image)


def batch(images: Any) -> list[Any]:
    """The pictures of a list, or the rows of a tensor [B, 3, S, S]."""
    if _is_tensor(images):
        if images.ndim != 4:
            raise InvalidArgumentError(f"images is a tensor {list(images.shape)}, expected [B,3,S,S]")
        return list(images)
    if isinstance(images, (str, bytes)) or not isinstance(images, Sequence):
        raise InvalidArgumentError(
            f"images is {type(images).__name__}, expected a tensor [B,3,S,S] or a list of pictures"
        )
    return list(images)


def processor_of(model: TinyGPTV) -> ImageProcessor:
    """The model's picture processor. Raises UnsupportedError for a model of text alone."""
    processor = model.image_processor
    if processor is None:
        raise UnsupportedError("this model is text-only: it takes no image")
    return processor


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "ndim")


def _picture(pixels: Any, processor: ImageProcessor) -> Image:
    """The S x S picture whose pixels these are: normalisation taken back, which is exact for 8-bit pictures."""
    import numpy as np
    from PIL import Image

    side = processor.image_size
    planes = pixels.detach().cpu().float().numpy()
    if planes.shape == (1, 3, side, side):
        planes = planes[0]
    if planes.shape != (3, side, side):
        raise InvalidArgumentError(f"image is a tensor {list(pixels.shape)}, expected pixels [3,{side},{side}]")
    mean, std = (np.asarray(values, np.float64)[:, None, None] for values in (processor.mean, processor.std))
    levels = (planes * std + mean) * 255
    whole = np.rint(levels)
    if (
        not np.isfinite(levels).all()
        or np.abs(levels - whole).max() > _ROUNDING
        or whole.min() < 0
        or whole.max() > 255
    ):
        raise InvalidArgumentError("image is a tensor of other pixels than vis_processor makes, expected its output")
    return Image.fromarray(whole.astype(np.uint8).transpose(1, 2, 0).copy())
