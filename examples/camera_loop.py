"""A camera that is faster than the model: the newest frame wins, still pictures are not asked about again.

One thread takes frames. The gate lets a frame through if it differs enough from the last one that it let through;
behind it is one place, in which a newer frame replaces an older. The loop asks about what it finds there.

Run: python examples/camera_loop.py [FOLDER] [--fps 30] [--change 0.02] [--question "..."] [--model DIR]

With OpenCV, ``frames`` becomes: while True: yield cv2.VideoCapture(0).read()[1], and generate takes ``color="bgr"``.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

SUFFIXES = {".png", ".jpg", ".jpeg"}
SCENES = ("red circle left of blue star", "red circle above green ring", "two plain hearts")
STILL = 8  # drawn frames of each scene
Frame = tuple[int, Image.Image]  # its number, from 1, and what is seen


class ChangeGate:
    """Lets a frame through whose thumbnail differs from the last one let through by ``threshold`` (0..1) on average."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.gated = threshold, 0
        self._last: np.ndarray | None = None

    def passes(self, frame: Image.Image) -> bool:
        small = np.asarray(frame.convert("L").resize((32, 32)), np.float32) / 255
        if self._last is not None and np.abs(small - self._last).mean() < self.threshold:
            self.gated += 1
            return False
        self._last = small
        return True


class Newest:
    """One place for one frame: ``put`` replaces a frame that nobody has taken, ``take`` waits for one."""

    def __init__(self) -> None:
        self.dropped = 0
        self._frame: Frame | None = None
        self._ended = False
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def take(self) -> Frame | None:
        """The newest frame, None once the camera has ended and its last frame is taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame, self._frame = self._frame, None
            return frame


def frames(folder: Path | None) -> Iterator[Image.Image]:
    """Pictures of a folder in order of name; without one, drawn scenes that each stand still for a while."""
    if folder is None:
        for number, scene in enumerate(SCENES):
            yield from [draw(arrange(scene, number), 256)] * STILL
        return
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        with Image.open(path) as picture:
            yield picture.convert("RGB")


class Camera(threading.Thread):
    """Puts what passes the gate into the place, ``fps`` frames a second."""

    def __init__(self, source: Iterable[Image.Image], gate: ChangeGate, place: Newest, fps: float) -> None:
        super().__init__(daemon=True)
        self.seen = 0
        self.error: Exception | None = None
        self._source, self._gate, self._place, self._pause = source, gate, place, 1 / fps

    def run(self) -> None:
        try:
            for frame in self._source:
                self.seen += 1
                if self._gate.passes(frame):
                    self._place.put((self.seen, frame))
                time.sleep(self._pause)
        except Exception as error:  # a broken file: the loop ends, and main says so
            self.error = error
        finally:
            self._place.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="frames as files; without it, scenes are drawn")
    parser.add_argument("--fps", type=float, default=30, help="frames a second (default: 30)")
    parser.add_argument("--change", type=float, default=0.02, help="difference that counts as a change (default: 0.02)")
    parser.add_argument("--question", default="How many shapes are there?")
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    arguments = parser.parse_args()
    gate, place = ChangeGate(arguments.change), Newest()
    asked = 0
    with tgv.TinyGPTV.from_pretrained(arguments.model) as model:
        model.generate(Image.new("RGB", (64, 64)), arguments.question, max_new_tokens=1)  # what starts only once
        camera = Camera(frames(arguments.folder), gate, place, arguments.fps)
        camera.start()
        while (frame := place.take()) is not None:
            asked += 1
            number, picture = frame
            answer = model.generate(picture, arguments.question, task="vqa", max_new_tokens=16)
            print(f"frame {number}: {answer.text}  ({answer.timings.total:.0f} ms)")
    print(f"{camera.seen} frames: {gate.gated} gated, {place.dropped} dropped as stale, {asked} answered")
    if camera.error is not None:
        raise SystemExit(f"the camera failed: {camera.error}")


if __name__ == "__main__":
    main()
