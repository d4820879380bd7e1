"""Layer by layer is the whole model: walks, calibration sets and comparisons against the reference in one piece."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tinygptv_fast.checkpoint.directory import ModelDirectory
from tinygptv_fast.conversion import load_state
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.world.asking import ask
from tinygptv_fast.data.world.sampling import TEXT, scene_from_seed
from tinygptv_fast.diagnosis.calibration import _KINDS, CalibrationSet, calibration_set
from tinygptv_fast.diagnosis.compare import _error, compare
from tinygptv_fast.diagnosis.layers import judged_logits, walk_text, walk_vision
from tinygptv_fast.diagnosis.weights import DirectorySource, OriginalSource, check_same_model, open_originals
from tinygptv_fast.errors import CheckpointError
from tinygptv_fast.processing.image import ImageProcessor
from tinygptv_fast.processing.tokenizer import Tokenizer
from tinygptv_fast.reference import TinyGPTVReference


@pytest.fixture(scope="session")
def chosen(directory: ModelDirectory) -> CalibrationSet:
    return small_set(directory)


def small_set(directory: ModelDirectory, seed: int = 3) -> CalibrationSet:
    assert directory.config.qformer is not None
    tokenizer = Tokenizer.from_file(directory.tokenizer_file)
    queries = directory.config.qformer.queries
    return calibration_set(tokenizer, directory.template, query_tokens=queries, pictures=1, seed=seed)


def processor(directory: ModelDirectory) -> ImageProcessor:
    return ImageProcessor.from_dict(directory.preprocessor)


@pytest.fixture(scope="session")
def whole(directory: ModelDirectory) -> TinyGPTVReference:
    model = TinyGPTVReference(directory.config)
    model.load_state_dict({k: v.float() for k, v in load_state(directory).items()})
    return model.eval().requires_grad_(False)


def close(a: Tensor, b: Tensor) -> None:
    """Two float32 runs of the same operations, of which only the batching of matrix products may differ."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_walks_equal_the_whole_model(
    directory: ModelDirectory, whole: TinyGPTVReference, chosen: CalibrationSet
) -> None:
    source = DirectorySource(directory)
    pixels = [processor(directory).pixels(picture) for picture in chosen.pictures]
    steps = dict(walk_vision(source, pixels))
    close(steps["projector"][0], whole.encode_image(pixels[0][None])[0])
    visual = steps["projector"]
    hidden = dict(walk_text(source, chosen.inputs, visual))["text.final_norm"]
    logits = judged_logits(source, chosen.inputs, hidden)
    for one, found in zip(chosen.inputs, logits, strict=True):
        before, after = (whole.text.embed(torch.tensor(segment)) for segment in one.segments)
        expected = whole.text.logits(whole.text(torch.cat([before, visual[0], after])[None]))[0]
        close(found, expected[list(one.judged)])


def test_steps_are_the_layers_in_order(directory: ModelDirectory, chosen: CalibrationSet) -> None:
    source, config = DirectorySource(directory), directory.config
    assert config.vision is not None and config.qformer is not None
    found = compare(source, source, chosen, processor(directory))
    names = [layer.name for layer in found.layers]
    assert names == [
        "vision.embed",
        *(f"vision.layers.{i}" for i in range(config.vision.layers)),
        "ln_vision",
        *(f"qformer.layers.{i}" for i in range(config.qformer.layers)),
        "projector",
        "text.embed",
        *(f"text.layers.{i}" for i in range(config.text.layers)),
        "text.final_norm",
    ]


def test_a_model_agrees_with_itself(directory: ModelDirectory, chosen: CalibrationSet) -> None:
    source = DirectorySource(directory)
    seen: list[tuple[int, int]] = []
    found = compare(source, source, chosen, processor(directory), lambda done, total, name: seen.append((done, total)))
    assert all(layer.relative_l2 == layer.max_abs == 0 for layer in found.layers)
    tokens, kl = found.agreement.tokens(), found.agreement.kl()
    assert (tokens.value, kl.value, tokens.positions) == (1.0, 0.0, chosen.positions)
    assert seen == [(i + 1, len(found.layers)) for i in range(len(found.layers))]


def test_rounding_shows_and_exactness_shows(
    directory: ModelDirectory, originals: OriginalSource, chosen: CalibrationSet
) -> None:
    found = compare(originals, DirectorySource(directory), chosen, processor(directory))
    last = found.layers[-1].relative_l2
    if directory.config.quantization.text == "none":
        assert last < 1e-5 and found.agreement.tokens().value == 1.0
    else:
        assert 1e-3 < last < 1 and found.agreement.kl().value > 1e-4


def test_a_planted_fault_shows_first_in_its_own_layer(
    directory: ModelDirectory, originals: OriginalSource, chosen: CalibrationSet
) -> None:
    class Faulty(OriginalSource):
        def tensor(self, name: str) -> Tensor:
            values = super().tensor(name)
            return values.flip(0) if name == "text.layers.1.attn.qkv.weight" else values

    found = compare(originals, Faulty(originals.plan), chosen, processor(directory))
    errors = {layer.name: layer.relative_l2 for layer in found.layers}
    assert errors["text.layers.0"] == 0 and errors["text.layers.1"] > 0.01


def test_infinite_states_are_infinite_errors(
    directory: ModelDirectory, originals: OriginalSource, chosen: CalibrationSet
) -> None:
    class Broken(OriginalSource):
        def tensor(self, name: str) -> Tensor:
            values = super().tensor(name)
            return values * math.nan if name == "ln_vision.weight" else values

    pixels = [processor(directory).pixels(picture) for picture in chosen.pictures]
    pairs = zip(walk_vision(originals, pixels), walk_vision(Broken(originals.plan), pixels), strict=True)
    errors = {name: _error(name, ours, theirs) for (name, ours), (_, theirs) in pairs}
    assert errors["vision.layers.2"].relative_l2 == 0 and errors["ln_vision"].relative_l2 == math.inf


@pytest.mark.parametrize("name", ["text.embed.weight", "text.head.weight", "text.layers.0.mlp.fc2.weight"])
def test_rows_are_rows_of_the_tensor(directory: ModelDirectory, originals: OriginalSource, name: str) -> None:
    for source in (DirectorySource(directory), originals):
        whole = source.tensor(name)
        assert torch.equal(source.rows(name, [5, 0, 5]), whole[[5, 0, 5]])
        assert torch.equal(source.rows(name, range(3, 7)), whole[3:7])


def test_calibration_sets_are_the_same_for_the_same_seed(directory: ModelDirectory) -> None:
    one, same, other = small_set(directory), small_set(directory), small_set(directory, seed=4)
    assert one.inputs == same.inputs and one.inputs != other.inputs
    assert [p.tobytes() for p in one.pictures] == [p.tobytes() for p in same.pictures]


def test_judged_positions_are_those_before_answer_tokens(directory: ModelDirectory, chosen: CalibrationSet) -> None:
    assert directory.config.qformer is not None
    tokenizer = Tokenizer.from_file(directory.tokenizer_file)
    scene, rng = scene_from_seed(3, TEXT), generator(3, 0)
    questions = [q for q in (ask(rng, scene, kind) for kind in _KINDS) if q is not None]
    assert len(questions) == len(chosen.inputs)
    for question, one in zip(questions, chosen.inputs, strict=True):
        told = tokenizer.encode(question.answer + directory.template.stop[0])
        flat = [i for segment in one.segments for i in segment]
        start = len(flat) - (len(told) - 1)  # the answer's last token is predicted, not fed
        assert flat[start:] == told[:-1]
        first = start - 1 + directory.config.qformer.queries
        assert one.judged == tuple(range(first, first + len(told)))


def test_text_only_sets_have_no_pictures(directory: ModelDirectory) -> None:
    tokenizer = Tokenizer.from_file(directory.tokenizer_file)
    found = calibration_set(tokenizer, directory.template, query_tokens=None)
    assert found.pictures == [] and found.positions > 20
    assert all(one.pictures == () and len(one.segments) == 1 for one in found.inputs)


def test_another_model_is_refused(directory: ModelDirectory, golden_dir: Path) -> None:
    other = dataclasses.replace(directory.config, text=dataclasses.replace(directory.config.text, layers=7))
    with pytest.raises(CheckpointError, match="layers=7"):
        check_same_model(directory.config, other, "the files")
    with pytest.raises(CheckpointError, match="another model"):
        open_originals(directory, golden_dir / "phi")
