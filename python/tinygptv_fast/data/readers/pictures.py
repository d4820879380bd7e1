"""Picture files of a data set: found in their folders, headers read, sizes noted for the data's digest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import ConfigError, ImageError
from ...processing.image import ImageProcessor
from .faults import BadRecord, Reason

_NUMBER = re.compile(r"\{(\d*)\}")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file. width, height: pixels as stored. turned: EXIF data ask for another orientation."""

    path: Path
    width: int
    height: int
    turned: bool = False

    def load(self) -> Path:
        """What an ``Example`` carries."""
        return self.path


class Pictures:
    """Looks names up in ``folders``, in order. ``sizes``: bytes of every picture found, by name."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.sizes: dict[str, int] = {}
        self._known: dict[str, Picture | tuple[Reason, str]] = {}

    def find(self, name: str, where: str) -> Picture:
        """The picture ``name``. Raises BadRecord: a name that leads out of the folders, no such file, no picture.

        The header is read, nothing decoded: damage behind it shows when the picture is drawn for training.
        """
        if name not in self._known:
            self._known[name] = self._look(name)
        found = self._known[name]
        if isinstance(found, Picture):
            return found
        raise BadRecord(found[0], where, found[1])

    def _look(self, name: str) -> Picture | tuple[Reason, str]:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or parts[0] == "/" or "\0" in name or "\\" in name:
            return Reason.MALFORMED, f"its picture is {name[:100]!r}, expected a name inside the pictures' folder"
        path = next((folder / name for folder in self.folders if (folder / name).is_file()), None)
        if path is None:
            return Reason.NO_PICTURE, f"its picture {name[:200]} is not in {' or '.join(map(str, self.folders))}"
        try:
            header = ImageProcessor(1).header(path)
            self.sizes[name] = path.stat().st_size
        except (ImageError, OSError) as error:
            return Reason.BAD_PICTURE, f"its picture does not open: {error}"
        return Picture(path, header.width, header.height, header.turned)


def check_opens(image: Any, where: str) -> None:
    """Decode ``image`` (a path or the bytes of a file) and throw it away. Raises BadRecord (BAD_PICTURE)."""
    try:
        ImageProcessor(1).load(image)
    except ImageError as error:
        reason = Reason.NO_PICTURE if isinstance(image, Path) and not image.exists() else Reason.BAD_PICTURE
        raise BadRecord(reason, where, f"its picture does not open: {error}") from None


@lru_cache(maxsize=64)
def check_name_form(form: str, where: str) -> None:
    """Raises ConfigError unless ``form`` has one place for an id: ``{}``, or ``{12}`` for twelve digits."""
    if len(_NUMBER.findall(form)) != 1:
        raise ConfigError(f"{where} is {form!r}, expected a file name with one {{}} or {{12}} where the id stands")


def name_of(form: str, number: str) -> str:
    """``form`` with the id in its place: ``name_of("COCO_train2014_{12}.jpg", "9")``."""
    return _NUMBER.sub(lambda match: number.rjust(int(match[1] or 0), "0"), form)
