"""Pictures: from anything a user holds to the float32 pixels the original's evaluation feeds to the vision tower.

Knows files and Pillow; knows nothing of the model but its side length. torch is imported only by ``pixels``.

Pixels are the original's ``blip2_image_eval`` (minigpt4/processors/blip_processors.py): Pillow's bicubic resize to
S x S with its antialiasing, aspect ratio not kept, /255, CLIP mean and standard deviation. The original's training
processor is the same.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import ConfigError, ImageError, InvalidArgumentError

if TYPE_CHECKING:
    import torch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT_MAX_PIXELS = 178_956_970
"""Pillow's own bound on a decoded picture (about 13,400 x 13,400); larger ones are refused from the header."""

MAX_FILE_BYTES = 1 << 30
# Decoders that run no outside program and read no other file: EPS (Ghostscript) and WMF, for one, are left out.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI")
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
                  ZeroDivisionError, OverflowError, MemoryError, struct.error, Image.DecompressionBombError,
                  Image.DecompressionBombWarning)  # fmt: skip  # what Pillow's decoders raise on hostile bytes
_EXPECTED = "expected a path, bytes of a picture file, a PIL image or a uint8 [height, width, 3] array"

_CONFIG: dict[str, Any] = {
    "image_processor_type": "BlipImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": int(Image.Resampling.BICUBIC),
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself. width, height: pixels as stored, before any turning. turned: whether EXIF
    data ask for it to be shown turned or mirrored."""

    width: int
    height: int
    turned: bool


class ImageProcessor:
    """Opens pictures and turns them into pixels. Immutable; safe to use from several threads.

    ``image_size``: S, the model's input side in pixels. ``mean``, ``std``: three numbers each, RGB, in 0..1.
    ``max_pixels``: largest width * height that is decoded (Pillow refuses above twice its own
    ``Image.MAX_IMAGE_PIXELS`` whatever is said here).
    """

    def __init__(
        self,
        image_size: int,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
        *,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.image_size = _count("image_size", image_size)
        self.max_pixels = _count("max_pixels", max_pixels)
        self.mean = _triple("mean", mean)
        self.std = _triple("std", std)
        if min(self.std) <= 0:
            raise ConfigError(f"std is {self.std}, expected three numbers > 0")

    def load(self, image: Any, color: Literal["rgb", "bgr"] = "rgb") -> Image.Image:
        """``image`` as an RGB PIL image at its full size, upright (EXIF orientation applied).

        ``image``: a path; the bytes of a picture file; a PIL image; or a uint8 array [height, width, 3], whose channel
        order ``color`` gives ("bgr" is OpenCV's). Of a file with several frames the first is taken. Transparent
        pixels are laid on white (the original drops alpha for a path and fails on a PIL image); 16-bit grey is scaled
        to 8 bits; colour profiles are ignored, as in the original.

        Raises ``ImageError`` for all that cannot be a picture: missing, truncated or foreign files, sizes above
        ``max_pixels`` (seen in the header, before decoding), zero sizes, arrays of another dtype or shape.
        """
        if color not in ("rgb", "bgr"):
            raise InvalidArgumentError(f"color is {color!r}, expected 'rgb' or 'bgr'")
        if isinstance(image, np.ndarray):
            return self._from_array(image, color)
        if color == "bgr":
            raise InvalidArgumentError(f"color is 'bgr' with image a {type(image).__name__}, expected it with an array")
        if isinstance(image, Image.Image):
            self._check_size(image.size, "a PIL image")
            return self._upright_rgb(image, "a PIL image")
        if isinstance(image, (bytes, bytearray, memoryview)):
            what = f"{len(image)} bytes"
            return self._from_file(io.BytesIO(image), what)
        if isinstance(image, (str, os.PathLike)):
            return self._from_path(Path(os.fspath(image)))
        raise ImageError(f"image is {type(image).__name__}, {_EXPECTED}")

    def header(self, path: Path) -> Header:
        """Size and orientation of the picture file ``path``, not decoded. Raises what ``load`` raises for a file that
        is missing, foreign or too large; damage behind the header is not seen."""
        with self._regular_file(path) as file, self._opened(file, repr(str(path))) as opened:
            return Header(*opened.size, turned=_orientation(opened) != 1)

    def pixels(self, image: Any, color: Literal["rgb", "bgr"] = "rgb") -> torch.Tensor:
        """The model's input: float32 [3, S, S], (resized / 255 - mean) / std. Takes and raises what ``load`` does."""
        import torch

        return torch.from_numpy(self.pixels_array(image, color))

    def pixels_array(self, image: Any, color: Literal["rgb", "bgr"] = "rgb") -> np.ndarray:
        """``pixels`` as a C-contiguous numpy float32 [3, S, S]; needs no torch."""
        picture = self.load(image, color)
        side = (self.image_size, self.image_size)
        resized = np.asarray(picture.resize(side, Image.Resampling.BICUBIC))
        planes = np.ascontiguousarray(resized.transpose(2, 0, 1)).astype(np.float32)
        planes /= np.float32(255)
        planes -= np.asarray(self.mean, dtype=np.float32)[:, None, None]
        planes /= np.asarray(self.std, dtype=np.float32)[:, None, None]
        return planes

    def to_dict(self) -> dict[str, Any]:
        """The json of ``preprocessor_config.json``, under Hugging Face's names; ``from_dict`` reads it back."""
        size = {"height": self.image_size, "width": self.image_size}
        return {**_CONFIG, "size": size, "image_mean": list(self.mean), "image_std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Any, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageProcessor:
        """Strict inverse of ``to_dict``: unknown or missing keys, and settings other than the one
        preprocessing this model has, raise ``ConfigError``."""
        where = "preprocessor_config"
        if not isinstance(data, dict):
            raise ConfigError(f"{where} is {type(data).__name__}, expected a json object")
        known = {*_CONFIG, "size", "image_mean", "image_std"}
        if set(data) != known:
            unknown, missing = sorted(set(data) - known, key=str), sorted(known - set(data))
            raise ConfigError(f"{where} has unknown keys {unknown} and lacks {missing}, expected {sorted(known)}")
        for key, value in _CONFIG.items():
            same = type(data[key]) is type(value) and data[key] == value
            if key == "rescale_factor" and isinstance(data[key], float):
                same = abs(data[key] - value) < 1e-9
            if not same:
                raise ConfigError(f"{where}.{key} is {data[key]!r}, expected {value!r}")
        size = data["size"]
        if not isinstance(size, dict) or set(size) != {"height", "width"} or size["height"] != size["width"]:
            raise ConfigError(f"{where}.size is {size!r}, expected equal 'height' and 'width'")
        return cls(size["height"], data["image_mean"], data["image_std"], max_pixels=max_pixels)

    def _from_path(self, path: Path) -> Image.Image:
        with self._regular_file(path) as file:
            return self._from_file(file, repr(str(path)))

    @contextmanager
    def _regular_file(self, path: Path) -> Iterator[IO[bytes]]:
        what = repr(str(path))
        try:
            status = path.stat()
        except FileNotFoundError:
            raise ImageError(f"image is {what}, which does not exist; {_EXPECTED}") from None
        except (OSError, ValueError) as error:  # ValueError: an embedded null character
            raise ImageError(f"image is {what}, which cannot be read ({error})") from None
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"image is {what}, which is not a regular file")
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise ImageError(f"image is {what}, which cannot be read ({error})") from None

    def _from_file(self, file: Any, what: str) -> Image.Image:
        with self._opened(file, what) as opened:
            return self._upright_rgb(opened, what)

    def _opened(self, file: Any, what: str) -> Image.Image:
        """The picture in ``file``, its header read and its size checked."""
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size == 0:
            raise ImageError(f"image is {what}, which is empty, expected a picture file")
        if size > MAX_FILE_BYTES:
            raise ImageError(f"image is {what}, {size} bytes, expected at most {MAX_FILE_BYTES}")
        Image.init()
        try:
            opened = Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
        except Image.DecompressionBombError as error:
            raise ImageError(f"image is {what}, too large to decode ({error})") from None
        except _DECODE_ERRORS:
            names = ", ".join(_FORMATS[:7])
            raise ImageError(f"image is {what}, not a picture file that can be read, expected {names}, ...") from None
        self._check_size(opened.size, what)
        return opened

    def _from_array(self, array: np.ndarray, color: str) -> Image.Image:
        what = f"a {array.dtype} array {list(array.shape)}"
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ImageError(f"image is {what}, expected uint8 [height, width, 3]")
        self._check_size((array.shape[1], array.shape[0]), what)
        return Image.fromarray(np.ascontiguousarray(array[:, :, ::-1] if color == "bgr" else array))

    def _check_size(self, size: tuple[int, int], what: str) -> None:
        width, height = size
        if width < 1 or height < 1:
            raise ImageError(f"image is {what} of {width}x{height} pixels, expected at least 1x1")
        if width * height > self.max_pixels:
            raise ImageError(f"image is {what} of {width}x{height} pixels, expected at most {self.max_pixels} in all")

    def _upright_rgb(self, image: Image.Image, what: str) -> Image.Image:
        try:
            image.load()
            return _rgb(_upright(image), what)
        except ImageError:
            raise
        except _DECODE_ERRORS as error:
            raise ImageError(f"image is {what}, which is damaged ({error})") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DECODE_ERRORS:
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """A copy with EXIF orientation applied; unreadable EXIF data means upright, as every viewer takes it."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS:
        return image.copy()


def _rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _grey16(image, what).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"image is {what} of 32-bit float pixels, whose range is not known; expected 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _grey16(image: Image.Image, what: str) -> Image.Image:
    """16-bit grey (modes I;16*, and I where a decoder widened it) to 8 bits, rounded; Pillow itself would clip."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"image is {what} of 32-bit pixels {values.min()}..{values.max()}, expected 0..65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} is {value!r}, expected an integer >= 1")
    return value


def _triple(name: str, value: Any) -> tuple[float, float, float]:
    ok = isinstance(value, (list, tuple)) and len(value) == 3
    if not ok or not all(type(v) in (int, float) and abs(v) < float("inf") for v in value):
        raise ConfigError(f"{name} is {value!r}, expected three finite numbers")
    return (float(value[0]), float(value[1]), float(value[2]))
