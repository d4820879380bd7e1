"""``demo``: a drawn picture, questions about it, and the shipped model's answers beside the true ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError
from . import options
from .models import loaded, note
from .output import console, print_json, printable
from .pictures import read_picture, save_picture, show_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..data.questions import Question
    from ..generate import Answer, TinyGPTV

_COLUMNS = 48  # characters of the picture in the terminal
_TRIES = 100  # draws until a question about something absent comes up: half of them are


@dataclass(frozen=True)
class _Asked:
    """One question with what the model said; ``expected`` and ``right`` are None for the user's own questions."""

    task: str | None
    prompt: str
    expected: str | None
    right: bool | None
    answer: Answer

    def to_dict(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "prompt": self.prompt,
            "expected": self.expected,
            "right": self.right,
            "answer": self.answer.to_dict(),
        }


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Which picture to draw.")] = 5,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own picture instead.")] = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", help="Your own question; repeat for more.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the picture and the annotated picture go.")] = Path(
        "tinygptv-demo"
    ),
    backend: options.Backend = "native",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a picture, ask the demo model that ships with the package about it, and show what it says.

    The model is small and knows coloured shapes only.
    """
    if out.exists() and not out.is_dir():
        raise InvalidArgumentError(f"--out is {out}, which is not a directory")
    if image is not None and not question:
        raise InvalidArgumentError("--image is given without --question, expected a question about your picture")
    picture, questions = _drawn(seed) if image is None else (read_picture(str(image)), [])
    if question:
        questions = []
    with loaded("demo", backend=backend, threads=threads, quiet=quiet) as model:
        note(f"backend: {_backend_line(model)}", quiet=quiet or json_output)
        if not json_output and not quiet:
            show_picture(picture, _COLUMNS)
        asked = [_ask(model, picture, one) for one in questions]
        asked += [_ask_own(model, picture, text) for text in question or []]
    files = _save(out, picture, asked, drawn=image is None)
    if json_output:
        data = [one.to_dict() for one in asked]
        print_json("demo", {"seed": None if image else seed, "files": files, "questions": data})
        return
    _show(asked, files, seed, image)


def _backend_line(model: TinyGPTV) -> str:
    info = model.info
    where = f", {info['isa']}" if "isa" in info else ""
    return f"{info['backend']}{where}, {info['dtype']} weights, {info['threads']} threads"


def _drawn(seed: int) -> tuple[Image, list[Question]]:
    """The picture of this seed, and questions: several kinds, one [refer], one about what is not there."""
    import numpy as np

    from ..data.demo_scene import DEMO_SIDE, demo_scene
    from ..data.questions import ask
    from ..data.scenes import draw

    scene, questions = demo_scene(seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = (ask(rng, scene, "exist") for _ in range(_TRIES))
    absent = [one for one in drawn if one is not None and one.answer == "no"]
    return draw(scene, DEMO_SIDE), [*questions, *absent[:1]]


def _ask(model: TinyGPTV, picture: Image, question: Question) -> _Asked:
    from ..data.scoring import is_right

    answer = model.generate(picture, question.prompt, task=question.task)
    return _Asked(question.task, question.prompt, question.answer, is_right(question, answer.text), answer)


def _ask_own(model: TinyGPTV, picture: Image, text: str) -> _Asked:
    return _Asked("vqa", text, None, None, model.generate(picture, text, task="vqa"))


def _save(out: Path, picture: Image, asked: list[_Asked], *, drawn: bool) -> dict[str, str]:
    """Write the drawn picture and, if any answer has boxes, the picture with them; returns their paths."""
    from ..processing.boxes import Boxes

    out.mkdir(parents=True, exist_ok=True)
    files = {}
    if drawn:
        files["picture"] = str(out / "picture.png")
        save_picture(picture, out / "picture.png")
    boxes = Boxes([box for one in asked for box in one.answer.boxes])
    if boxes:
        files["annotated"] = str(out / "annotated.png")
        save_picture(boxes.draw(picture), out / "annotated.png")
    return files


def _show(asked: list[_Asked], files: dict[str, str], seed: int, image: Path | None) -> None:
    screen = console()
    for one in asked:
        tag = f"[{one.task}] " if one.task else ""
        mark = {True: "right", False: "WRONG", None: ""}[one.right]
        style = {True: "green", False: "red", None: None}[one.right]
        screen.print(f"{tag}{one.prompt}", style="bold")
        said = printable(one.answer.text) or "(nothing)"
        facts = f"probability {one.answer.probability:.2g}, {one.answer.timings.total:.0f} ms"
        screen.print(f"  {said}   {facts}", style=style)
        if one.expected is not None:
            screen.print(f"  expected {one.expected}   {mark}")
    judged = [one.right for one in asked if one.right is not None]
    if judged:
        screen.print(f"\n{sum(judged)} of {len(judged)} right", style="bold")
    for what, path in files.items():
        screen.print(f"{what}: {path}", soft_wrap=True)
    shown = str(image) if image is not None else files["picture"]
    screen.print("\nTry next:", style="bold")
    sys.stdout.flush()
    for line in (
        f'tinygptv ask {shown} "How many objects are there?" --task vqa --model demo',
        f"tinygptv demo --seed {seed + 1}",
        "tinygptv doctor",
    ):
        screen.print(f"  {line}", soft_wrap=True)
