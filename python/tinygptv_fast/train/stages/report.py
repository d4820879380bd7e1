"""What a run tells: a bar on the terminal, one json line per step, TensorBoard, a picture of the loss."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from ...errors import UnsupportedError
from .step import Figures

LOG_FILE = "log.jsonl"
PLOT_FILE = "loss.png"
_SMOOTHED = 0.97

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """Told of every step: steps done, steps in all, figures, seconds of the step."""

    def __call__(self, done: int, total: int, figures: Figures, seconds: float) -> None: ...


class JsonLines:
    """``log.jsonl``: one line per step. On resuming, lines of steps that will be done again are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in read_log(path) if line["step"] <= step] if step else []
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, done: int, total: int, figures: Figures, seconds: float) -> None:
        line = {
            "step": done,
            "loss": round(figures.loss, 6),
            "gradient": float(f"{figures.gradient:.4g}"),
            "lr": figures.lr,
            "tokens": figures.tokens,
            "learnt": figures.learnt,
            "seconds": round(seconds, 4),
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    out = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "step" in line:
            out.append(line)
    return out


class TensorBoard:
    """Loss, gradient, rate and tokens per second as scalars in ``folder``. Raises UnsupportedError without it."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UnsupportedError("--tensorboard needs tensorboard: pip install tinygptv_fast[train]") from None
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def __call__(self, done: int, total: int, figures: Figures, seconds: float) -> None:
        speed = figures.tokens / max(seconds, 1e-9)
        for name, value in (
            ("loss", figures.loss),
            ("gradient", figures.gradient),
            ("lr", figures.lr),
            ("tokens per second", speed),
        ):
            self._writer.add_scalar(name, value, done)

    def close(self) -> None:
        self._writer.close()


@contextmanager
def bar(title: str, stream: IO[str], *, quiet: bool) -> Iterator[Listener]:
    """A progress bar with loss (smoothed), rate, tokens/s and time left; nothing when quiet or not on a terminal."""
    if quiet or not stream.isatty():
        yield lambda done, total, figures, seconds: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    smooth: list[float] = []
    with Progress(*columns, console=Console(file=stream, highlight=False)) as shown:
        task = shown.add_task(title, total=None, figures="")

        def listen(done: int, total: int, figures: Figures, seconds: float) -> None:
            value = figures.loss if not smooth else _SMOOTHED * smooth[0] + (1 - _SMOOTHED) * figures.loss
            smooth[:] = [value]
            speed = figures.tokens / max(seconds, 1e-9)
            text = f"loss {value:.3f}  lr {figures.lr:.2g}  {speed:,.0f} tokens/s"
            shown.update(task, completed=done, total=total, figures=text)

        yield listen


def plot_loss(folder: Path, title: str) -> None:
    """``loss.png`` from ``log.jsonl``: the loss of each step, its running mean, and the rate. Not of fewer than two
    steps; without matplotlib a warning says what draws it."""
    lines = read_log(folder / LOG_FILE)
    if len(lines) < 2:
        return
    try:
        import matplotlib
    except ImportError:
        _log.warning("%s is not drawn: it needs matplotlib (pip install 'tinygptv_fast[train]')", folder / PLOT_FILE)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, 5), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    above.plot(steps, losses, color="0.8", linewidth=0.7, label="each step")
    above.plot(steps, _running_mean(losses), color="#3060c0", linewidth=1.5, label="running mean")
    above.set_ylabel("loss (nats per answer token)")
    above.set_title(title, fontsize=10)
    above.legend(frameon=False, fontsize=8)
    below.plot(steps, [line["lr"] for line in lines], color="#c06030", linewidth=1)
    below.set_ylabel("learning rate")
    below.set_xlabel("step")
    for axes in (above, below):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(folder / PLOT_FILE, dpi=120)
    pyplot.close(figure)


def _running_mean(values: list[float]) -> list[float]:
    """Exponential, corrected for its start, over about a thirtieth of the run."""
    keep = 1 - 1 / max(2.0, len(values) / 30)
    out, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(mean / weight)
    return out
