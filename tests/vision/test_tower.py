"""The tower against the reference's modules and the golden files; its steps, threads and refusals."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.errors import CancelledError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.vision import VisionTower
from tinygptv_fast.vision.arithmetic import EXACT, Arithmetic
from tinygptv_fast.vision.blocks import CrossAttention, QFormerMLP, Rows, SelfAttention

from ..generate.conftest import convert_case
from ..golden_support import CASES, load_case
from .conftest import CONFIG, KINDS, MemorySource, draw_state, needs, picture, reference_of

LIMITS = {"float32": 2e-5, "bfloat16": 0.01, "int8": 0.03}  # relative L2 of the embeddings (docs/vision.md)


def relative(x: Tensor, exact: Tensor) -> float:
    return float((x - exact).double().norm() / exact.double().norm())


@pytest.mark.parametrize("name", CASES)
def test_golden_embeddings(name: str, tmp_path: Path) -> None:
    """The original's own numbers, through conversion."""
    case, directory = load_case(name), open_directory(convert_case(name, tmp_path / "model"))
    tower = VisionTower(directory)
    assert str(tower.arithmetic) == "float32"
    for pixels, expected in zip(case.array("pixel_values"), case.array("img_embeds"), strict=True):
        assert float((tower.encode(pixels) - expected).abs().max()) <= 2e-4  # the tolerance of all golden arrays
        with torch.no_grad():
            assert relative(tower.encode(pixels), case.model.encode_image(pixels[None])[0]) <= LIMITS["float32"]


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_each_arithmetic(kind: str, state: dict[str, Tensor]) -> None:
    expected = reference_of(state).encode_image(picture(1)[None])[0]
    out = VisionTower(MemorySource(state, "float32"), kind).encode(picture(1))
    assert out.dtype == torch.float32 and out.shape == (12, 320)
    assert relative(out, expected) <= LIMITS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
def test_stored_weights_are_taken_as_they_are(kind: str, stored: str, plain: dict[str, Tensor]) -> None:
    """Against the reference on exactly the stored values: only the activations' roundings are left."""
    source = MemorySource(plain, stored)
    expected = reference_of(source.held()).encode_image(picture(2)[None])[0]
    assert relative(VisionTower(source, kind).encode(picture(2)), expected) <= LIMITS[kind]


@needs("int8")
@pytest.mark.parametrize("step", [SelfAttention, CrossAttention, QFormerMLP])
def test_the_qformers_own_rows_are_rounded_finely(step: type[SelfAttention], plain: dict[str, Tensor]) -> None:
    """In int8 but for attention: a step's rows are as near to those of float32 products as two roundings of a number
    leave them (2^-9 / 127 of the largest each), where one would leave some thousandths."""
    source = MemorySource(plain, "int8")
    qformer, vision = source.config.qformer, source.config.vision
    assert qformer is not None and vision is not None
    generator = torch.Generator().manual_seed(8)
    x, image = (
        torch.randn(n, w, generator=generator) for n, w in ((qformer.queries, qformer.width), (50, vision.width))
    )
    seen = []
    for matrices in ("float32", "int8"):
        one = step(source, 0, qformer, Arithmetic(matrices, "float32"))
        if isinstance(one, CrossAttention):  # what it reads of the picture is rounded once
            one._key_value = CrossAttention(source, 0, qformer, EXACT)._key_value
        rows = Rows(x, image)
        one(rows)
        seen.append(rows.x)
    assert 0 < relative(seen[1], seen[0]) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_encode_bit_for_bit(kind: str, plain: dict[str, Tensor]) -> None:
    tower = VisionTower(MemorySource(plain, "int8"), kind)
    whole = tower.encode(picture(3))
    first, second = tower.begin(picture(3)), tower.begin(picture(4))
    assert first.remaining == tower.steps == 1 + 2 * 6 + 1 + 2 * 4 + 2 + 1
    for left in range(tower.steps - 1, -1, -1):
        assert first.step() is (left == 0) and first.remaining == left
        second.step()
    assert first.step() is True
    assert torch.equal(first.result(), whole) and torch.equal(tower.encode(picture(3)), whole)
    assert not torch.equal(second.result(), whole)


def test_pixels_are_not_changed(plain: dict[str, Tensor]) -> None:
    tower, pixels = VisionTower(MemorySource(plain, "float32"), "float32"), picture(3)
    strided = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(tower.encode(strided), tower.encode(pixels)) and torch.equal(pixels, picture(3))


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_several_threads(kind: str, plain: dict[str, Tensor]) -> None:
    tower = VisionTower(MemorySource(plain, "int8"), kind)
    expected = [tower.encode(picture(seed)) for seed in range(4)]
    found: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        torch.set_num_threads(1)  # a setting of each thread; sums may be cut differently for another number
        for _ in range(3):
            found[seed] = tower.encode(picture(seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], expected[seed]) for seed in range(4))


def test_cancel(plain: dict[str, Tensor]) -> None:
    tower = VisionTower(MemorySource(plain, "float32"))
    encoder, other = tower.begin(picture(1)), tower.begin(picture(1))
    encoder.step()
    with pytest.raises(InvalidArgumentError, match=r"unfinished encoder: 24 of 25 steps left"):
        encoder.result()
    encoder.cancel()
    encoder.cancel()
    for call in (encoder.step, encoder.result):
        with pytest.raises(CancelledError, match="cancelled with 24 steps left"):
            call()
    while not other.step():
        pass
    assert torch.equal(other.result(), tower.encode(picture(1)))
    other.cancel()
    with pytest.raises(CancelledError, match="cancelled with 0 steps left"):
        other.result()


@pytest.mark.parametrize(
    "pixels,message",
    [
        (torch.zeros(3, 98, 97), r"pixels is \[3, 98, 97\] float32 on cpu, expected \[3, 98, 98\] float32 on cpu"),
        (torch.zeros(1, 3, 98, 98), r"pixels is \[1, 3, 98, 98\] float32"),
        (torch.zeros(3, 98, 98, dtype=torch.float64), r"pixels is \[3, 98, 98\] float64"),
        (torch.zeros(3, 98, 98, dtype=torch.uint8), r"pixels is \[3, 98, 98\] uint8"),
        (torch.zeros(3, 98, 98, device="meta"), r"on meta"),
        (torch.full((3, 98, 98), float("nan")), "pixels holds NaN or infinity"),
        (torch.full((3, 98, 98), float("inf")), "pixels holds NaN or infinity"),
        ([[0.0]], "pixels is list, expected a float32 tensor"),
    ],
)
def test_bad_pixels(plain: dict[str, Tensor], pixels: Tensor, message: str) -> None:
    tower = VisionTower(MemorySource(plain, "float32"))
    for call in (tower.encode, tower.begin):
        with pytest.raises(InvalidArgumentError, match=message):
            call(pixels)


def test_text_only_model(plain: dict[str, Tensor]) -> None:
    source = MemorySource(plain, "float32", replace(CONFIG, vision=None, qformer=None))
    with pytest.raises(UnsupportedError, match="no vision tower: it is text-only"):
        VisionTower(source)


@needs("bfloat16")
def test_what_was_copied_is_released() -> None:
    """All that a bfloat16 or int8 tower reads; of a float32 tower all but the matrices it goes on reading."""
    state = draw_state(CONFIG, False)
    names = {name for name in state if not name.startswith("text.")}
    for stored, kind in (("int8", "bfloat16"), ("bfloat16", "bfloat16"), ("int8", "float32")):
        source = MemorySource(state, stored)
        VisionTower(source, kind)
        kept = names - set(source.released)
        views = {
            n
            for n in names
            if source.kind(n) == stored and not n.endswith(("query.weight", "key.weight", "value.weight"))
        }
        cross = {n for n in names if n.endswith("cross_attn.query.weight")}
        assert kept == (views | cross if kind == "float32" else {"projector.weight"})
