"""Pictures in and out of the command line: reading (a file or standard input), half blocks, saving. No torch."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError
from .output import console

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.text import Text

STDIN = "-"
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def read_picture(source: str) -> Image:
    """The upright RGB picture in file ``source``, or on standard input for '-'. Raises ``ImageError``."""
    from ..processing.image import MAX_FILE_BYTES, ImageProcessor

    # The side given here is of no account: only load() is used, which keeps the picture's own size.
    loader = ImageProcessor(224)
    if source == STDIN:
        return loader.load(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
    return loader.load(source)


def check_target(option: str, path: Path | None) -> None:
    """Raise if a picture could not be written to ``path``: before the work that makes it. None passes."""
    if path is None:
        return
    if path.suffix.lower() not in _FORMATS:
        raise InvalidArgumentError(f"{option} is {path}, expected a name that ends in {', '.join(_FORMATS)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "which is a directory" if path.is_dir() else f"but {path.parent} is not a directory"
        raise InvalidArgumentError(f"{option} is {path}, {what}")


def save_picture(image: Image, path: Path) -> None:
    """Write ``image`` to ``path`` in the format of its suffix; a reader sees the old file or the whole new one."""
    data = io.BytesIO()
    image.save(data, _FORMATS[path.suffix.lower()])
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data.getvalue())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def half_blocks(image: Image, columns: int) -> Text:
    """``image`` for a terminal, ``columns`` characters wide: each character is two pixels, one above the other."""
    from rich.text import Text

    rows = max(1, round(columns * image.height / image.width / 2))
    small = image.resize((columns, 2 * rows))
    pixels = small.load()
    assert pixels is not None  # for the type checker: a resized picture is in memory
    out = Text()
    for y in range(0, 2 * rows, 2):
        for x in range(columns):
            out.append("▀", style=f"#{_hex(pixels[x, y])} on #{_hex(pixels[x, y + 1])}")
        out.append("\n")
    return out


def show_picture(image: Image, columns: int) -> None:
    """Half blocks of ``image`` on stdout, if that is a terminal with enough colours; else nothing."""
    screen = console()
    if screen.color_system in ("truecolor", "256") and not screen.no_color:
        screen.print(half_blocks(image, min(columns, screen.width)))


def _hex(pixel: object) -> str:
    return "".join(f"{value:02x}" for value in pixel)  # type: ignore[attr-defined]
