"""What the stages look at: the shipped demo model's rows for drawn pictures, and questions about them."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checkpoint.directory import open_directory
from ...config import ModelConfig
from ...data.randomness import generator
from ...data.world.sampler import STAGES as WORLD
from ...data.world.sampler import questions_about, training_scene
from ...generate.loading import locate
from ...reference.model import TinyGPTVReference
from ..demo.loop import Bar, Session
from ..demo.pictures import pixels_of
from ..demo.recipe import SHOWN
from ..demo.rows import tagged, turns_of
from ..stages.examples import Example, Turn
from ..stages.interrupt import stop_on_interrupt
from .protocol import AblationRecipe

ROWS = "rows"
_SCENES = "pretrain"
_SEEN, _HELD_OUT = 0, 1  # the "step" of a scene's path: what is held out is never drawn for training
_STREAM = 11
_BLOCK = 16


@dataclass(frozen=True)
class Eyes:
    """The vision side of the shipped demo model, whatever its sizes are. state: its tensors by name."""

    config: ModelConfig
    state: dict[str, Tensor]
    identity: str

    @classmethod
    def open(cls) -> Eyes:
        directory = open_directory(locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True))
        names = [name for name in directory.names() if name.startswith(("vision.", "ln_vision.", "qformer."))]
        state = {name: directory.dequantized(name).float() for name in names}
        return cls(directory.config, state, directory.content_hash)

    def put_into(self, model: TinyGPTVReference) -> None:
        """Load the tensors into a model with this vision side."""
        missing = model.load_state_dict(self.state, strict=False).missing_keys
        assert not [name for name in missing if not name.startswith(("text.", "projector."))], missing


def draw_rows(session: Session, recipe: AblationRecipe, eyes: Eyes) -> None:
    """Leave the rows of all pictures: "seen" f32 [pictures, NQ, Q], and "held_out"."""
    assert eyes.config.vision is not None
    with torch.device("meta"):
        model = TinyGPTVReference(eyes.config)
    model.load_state_dict(eyes.state, strict=False, assign=True)
    counts = {"seen": (_SEEN, recipe.pictures), "held_out": (_HELD_OUT, recipe.held_out)}
    bar, out = Bar(session, ROWS, 0, sum(count for _, count in counts.values())), {}
    try:
        with stop_on_interrupt() as asked:
            for name, (which, count) in counts.items():
                blocks = []
                for first in range(0, count, _BLOCK):
                    indices = range(first, min(first + _BLOCK, count))
                    blocks.append(_see(model, recipe, which, indices, eyes.config.vision.image_size))
                    bar.step(first + len(indices), {}, 1.0)
                    if asked.asked:
                        raise KeyboardInterrupt
                out[name] = torch.cat(blocks)
    finally:
        bar.close()
    session.hand_on(ROWS, {**out, "eyes": eyes.identity})
    session.finish(ROWS, {"pictures": recipe.pictures, "held_out": recipe.held_out, "eyes": eyes.identity})


@torch.no_grad()
def _see(model: TinyGPTVReference, recipe: AblationRecipe, which: int, indices: range, size: int) -> Tensor:
    scenes = [training_scene(recipe.seed, _SCENES, which, index) for index in indices]
    pixels = pixels_of(recipe, scenes, size, _STREAM, which, indices.start)
    return model.qformer(model.ln_vision(model.vision(pixels)))


class Asking:
    """The ``Batches`` of a stage: questions of its kinds about pictures drawn at random, new ones at every step."""

    def __init__(self, recipe: AblationRecipe, phase: str, rows: dict[str, Tensor], eyes: str) -> None:
        """rows: "seen" and "held_out", f32 [pictures, NQ, Q]; eyes: what made them."""
        self.recipe, self.phase, self.rows = recipe, phase, rows
        self.digest = hashlib.sha256(f"{recipe.digest} {phase} {eyes}".encode()).hexdigest()
        self._number = tuple(SHOWN).index(phase)

    def batch(self, step: int) -> list[Example]:
        """The examples of ``step``: always the same for the same step."""
        plan, out = self.recipe.plan(self.phase), list[Example]()
        rng = generator(self.recipe.seed, _STREAM, self._number, step)
        for at in rng.integers(len(self.rows["seen"]), size=plan.pictures).tolist():
            out += self._ask(_SEEN, at, plan.questions, step)
        return out

    def held_out(self) -> list[Example]:
        """A question about each picture that is never learnt from."""
        return [e for at in range(len(self.rows["held_out"])) for e in self._ask(_HELD_OUT, at, 1, 0)]

    def _ask(self, which: int, at: int, questions: int, step: int) -> list[Example]:
        scene = training_scene(self.recipe.seed, _SCENES, which, at)
        stage = dataclasses.replace(WORLD[SHOWN[self.phase]], questions=questions)
        rng = generator(self.recipe.seed, _STREAM, self._number, which, step, at)
        picture = self.rows["held_out" if which == _HELD_OUT else "seen"][at]
        out = []
        for question in questions_about(rng, scene, stage):
            turns = tuple(Turn(tagged(turn), turn.answer) for turn in turns_of(question))
            out.append(Example(turns, (picture,), where=f"{self.phase} picture {at}"))
        return out
