"""``demo``: a drawn picture, the shipped model's answers as they come, and the slow reference's beside them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
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

    from ..data.question import Question
    from ..generate import Answer, TinyGPTV

_COLUMNS = 48  # characters of the picture in the terminal
_SEEDS = 10_000  # of pictures drawn without --seed: short enough to type again


@dataclass(frozen=True)
class _Asked:
    """A question, drawn or the user's own, whose true answer is then not known."""

    prompt: str
    task: str
    drawn: Question | None = None

    def right(self, answer: Answer) -> bool | None:
        from ..data.world.scoring import is_right

        return None if self.drawn is None else is_right(self.drawn, answer.text)

    def to_dict(self, answer: Answer, reference: Answer | None) -> dict[str, Any]:
        return {
            "task": self.task,
            "prompt": self.prompt,
            "expected": None if self.drawn is None else self.drawn.answer,
            "right": self.right(answer),
            "answer": answer.to_dict(),
            "reference": None if reference is None else reference.to_dict(),
        }


def demo(
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which picture to draw (default: a new one each time).")
    ] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own picture instead.")] = None,
    question: Annotated[
        list[str] | None, typer.Option("--question", help="Your own question; repeat for more.")
    ] = None,
    reference: Annotated[
        bool, typer.Option(help="Ask the slow reference the same afterwards, and compare tokens and times.")
    ] = True,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the picture and the annotated picture go.")] = Path(
        "tinygptv-demo"
    ),
    backend: options.Backend = "native",
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a picture, ask the demo model that ships with the package about it, and show what it says.

    The model is small: it knows drawn shapes, colours and words, and says so when asked about anything else.
    """
    if out.exists() and not out.is_dir():
        raise InvalidArgumentError(f"--out is {out}, which is not a directory")
    if image is not None and not question:
        raise InvalidArgumentError("--image is given without --question, expected a question about your picture")
    chosen = secrets.randbelow(_SEEDS) if seed is None else seed
    picture, asked = _drawn(chosen) if image is None else (read_picture(str(image)), [])
    if question:
        asked = [_Asked(text, "vqa") for text in question]
    talk = not json_output
    if talk and not quiet:
        show_picture(picture, _COLUMNS)
    with loaded("demo", backend=backend, threads=threads, quiet=quiet) as model:
        note(_backend_line(model), quiet=quiet or json_output)
        answers, seconds = _answers(model, picture, asked, _say if talk else _keep)
    files = _save(out, picture, answers, drawn=image is None)
    others: list[Answer] = []
    if reference and backend != "reference":
        with loaded("demo", backend="reference", threads=threads, quiet=quiet) as slow:
            others, slow_seconds = _answers(slow, picture, asked, _keep)
    if json_output:
        _print_json(chosen if image is None else None, files, asked, answers, others)
        return
    if others:
        _compare(asked, answers, others, seconds, slow_seconds)
    _end(asked, answers, files, chosen, image)


def _backend_line(model: TinyGPTV) -> str:
    info = model.info
    where = f", {info['isa']}" if "isa" in info else ""
    return f"backend: {info['backend']}{where}, {info['dtype']} weights, {info['threads']} threads"


def _drawn(seed: int) -> tuple[Image, list[_Asked]]:
    """The picture of this seed, and a question of each sort about it."""
    from ..data.world.drawing import draw
    from ..data.world.showcase import SHOWCASE_SIDE, showcase

    example = showcase(seed)
    return draw(example.scene, SHOWCASE_SIDE), [_Asked(q.prompt, q.task, q) for q in example.questions]


Tell = Callable[[_Asked, "Iterator[Any]"], "Answer"]


def _answers(model: TinyGPTV, picture: Image, asked: list[_Asked], tell: Tell) -> tuple[list[Answer], float]:
    """The answers, told as they come, and the milliseconds of seeing the picture once and of all answers."""
    import time

    # Torch starts its threads and the engine touches its memory at the first question: nobody's figure.
    model.generate(model.encode_image(picture), asked[0].prompt, task=asked[0].task, max_new_tokens=1)
    began = time.perf_counter()
    seen = model.encode_image(picture.copy())
    total = 1000 * (time.perf_counter() - began)
    answers = []
    for one in asked:
        answers.append(tell(one, model.stream(seen, one.prompt, task=one.task)))
        total += answers[-1].timings.total
    return answers, total


def _keep(_: _Asked, pieces: Iterator[Any]) -> Answer:
    answer: Answer = [piece.answer for piece in pieces][-1]
    return answer


def _say(one: _Asked, pieces: Iterator[Any]) -> Answer:
    """The question, the answer piece by piece, and what is to be said of it."""
    screen = console()
    screen.print(f"[{one.task}] {one.prompt}", style="bold")
    screen.print("  ", end="")
    for piece in pieces:
        screen.print(printable(piece.text), end="")
        screen.file.flush()
    answer: Answer = piece.answer
    right = one.right(answer)
    facts = f"probability {answer.probability:.2g}, first token {answer.timings.first_token:.1f} ms"
    screen.print(f"   ({facts}, all {answer.timings.total:.1f} ms)", style="dim")
    if one.drawn is not None and not right:
        screen.print(f"  WRONG: expected {one.drawn.answer}", style="red")
    return answer


def _save(out: Path, picture: Image, answers: list[Answer], *, drawn: bool) -> dict[str, str]:
    """Write the drawn picture and, if any answer has boxes, the picture with them; returns their paths."""
    from ..processing.boxes import Boxes

    out.mkdir(parents=True, exist_ok=True)
    files = {}
    if drawn:
        files["picture"] = str(out / "picture.png")
        save_picture(picture, out / "picture.png")
    boxes = Boxes([box for answer in answers for box in answer.boxes])
    if boxes:
        files["annotated"] = str(out / "annotated.png")
        save_picture(boxes.draw(picture), out / "annotated.png")
    return files


def _print_json(
    seed: int | None, files: dict[str, str], asked: list[_Asked], answers: list[Answer], others: list[Answer]
) -> None:
    beside: list[Answer | None] = list(others) or [None] * len(answers)
    data = [one.to_dict(answer, other) for one, answer, other in zip(asked, answers, beside, strict=True)]
    print_json("demo", {"seed": seed, "files": files, "questions": data})


def _compare(
    asked: list[_Asked], answers: list[Answer], others: list[Answer], milliseconds: float, slow_milliseconds: float
) -> None:
    screen = console()
    screen.print("\nThe same from the slow reference (torch, float32):", style="bold")
    same = 0
    for one, answer, other in zip(asked, answers, others, strict=True):
        equal = answer.token_ids == other.token_ids
        same += equal
        mark = "identical tokens" if equal else "OTHER TOKENS"
        screen.print(f"  [{one.task}] {printable(other.text)}   ({mark}, all {other.timings.total:.1f} ms)")
    screen.print(
        f"identical tokens in {same} of {len(asked)} answers; picture and answers took {milliseconds:.0f} ms, "
        f"the reference {slow_milliseconds:.0f} ms: {slow_milliseconds / milliseconds:.1f} times as long"
    )


def _end(asked: list[_Asked], answers: list[Answer], files: dict[str, str], seed: int, image: Path | None) -> None:
    screen = console()
    judged = [one.right(answer) for one, answer in zip(asked, answers, strict=True) if one.drawn is not None]
    if judged:
        screen.print(f"\n{sum(map(bool, judged))} of {len(judged)} right (picture {seed})", style="bold")
    for what, path in files.items():
        screen.print(f"{what}: {path}", soft_wrap=True)
    shown = str(image) if image is not None else files["picture"]
    screen.print("\nTry next:", style="bold")
    for line in (
        f'tinygptv ask {shown} "How many shapes are there?" --task vqa --model demo',
        'tinygptv draw "red star left of blue ring" && '
        'tinygptv refer drawing.png "the red star" --model demo --draw found.png',
        "tinygptv doctor",
    ):
        screen.print(f"  {line}", soft_wrap=True)
