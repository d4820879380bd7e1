"""From a decoded 640×480 picture to the first token: resizing, the vision side, reading the prompt, and the whole.

With random weights a directory of the released size with a vision side is written to a temporary folder for each
picture size. benchmarks/vision.py compares the vision side with plain torch and with float32.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..config import QFormerConfig, VisionConfig
from ..errors import UnsupportedError
from .row import Row, from_values
from .session import Session

SIZES = (224, 448)
_QUESTION = "<Img><ImageHere></Img> What is in this picture?"
_PARTS = ("preprocess", "vision", "prefill", "total")


def vision(session: Session) -> Iterator[Row]:
    """Milliseconds of each part of a request with a picture that no cache knows."""
    directory = session.subject.directory
    if directory is not None:
        yield from _pictures(session, directory)
        return
    from .random_directory import write_random_directory

    text = session.subject.text
    for size in SIZES:
        with tempfile.TemporaryDirectory(prefix="tinygptv-bench-") as folder:
            path = Path(folder) / "model"
            group = session.subject.forms.body.group_size
            tower = VisionConfig(image_size=size)
            if not session.subject.is_released_size:
                tower = dataclasses.replace(tower, width=64, layers=2, heads=4, mlp_width=128)
            write_random_directory(path, text, group, session.note, vision=tower, qformer=_qformer(session))
            yield from _pictures(session, path)


def _qformer(session: Session) -> QFormerConfig:
    released = QFormerConfig()
    if session.subject.is_released_size:
        return released
    return dataclasses.replace(released, width=64, layers=2, heads=4, mlp_width=128)


def _pictures(session: Session, path: Path) -> Iterator[Row]:
    from ..generate import TinyGPTV

    options = session.options
    session.note("vision, loading")
    with TinyGPTV.from_pretrained(path, threads=options.threads or None, kv_dtype=options.kv_dtype) as model:
        size = model.info["image_size"]
        if size is None or not model.info["vision"]:
            raise UnsupportedError(f"vision is measured on a model with pictures, {path} is text-only")
        times: dict[str, list[float]] = {part: [] for part in _PARTS}
        for count in range(options.few_blocks + 1):
            session.note(f"vision, picture {count} of {options.few_blocks}")
            picture = np.random.default_rng(count).integers(0, 256, (480, 640, 3), dtype=np.uint8)
            answer = model.generate(picture, _QUESTION, template="raw", max_new_tokens=1)
            for part in _PARTS if count else ():  # the first one warms up
                times[part].append(getattr(answer.timings, part))
        for part in _PARTS:
            yield from_values(
                "vision", f"{size} px, {part}", "ms", times[part], arithmetic=model.info["vision_dtype"],
                prompt_tokens=answer.usage.prompt, picture="640x480, decoded",
            )  # fmt: skip
