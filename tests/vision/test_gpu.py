"""The arithmetic of a GPU, computed by torch on the CPU, against the reference; where things are put, and what
is said when there is no room. What a GPU makes of it no test here says (docs/gpu_status.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tinygptv_fast as tgv
from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.engine.pictures import PictureEncoder
from tinygptv_fast.errors import CapacityError, InvalidArgumentError, UnsupportedError
from tinygptv_fast.generate.loading import locate
from tinygptv_fast.vision import VisionTower, choose_on_gpu, gpu_device
from tinygptv_fast.vision.gpu import OnDevice
from tinygptv_fast.vision.offload import Offloaded

from ..golden_support import CASES, convert_case, load_case
from .conftest import MemorySource, picture, reference_of
from .test_tower import LIMITS, relative

HERE = torch.device("cpu")  # in a GPU's place
KINDS = ("float32", "bfloat16", "int8")


@pytest.mark.parametrize("name", CASES)
def test_golden_embeddings(name: str, tmp_path: Path) -> None:
    case, directory = load_case(name), open_directory(convert_case(name, tmp_path / "model"))
    tower = VisionTower(directory, gpu=HERE)
    assert str(tower.arithmetic) == "float32 on a GPU"
    for pixels, expected in zip(case.array("pixel_values"), case.array("img_embeds"), strict=True):
        assert float((tower.encode(pixels) - expected).abs().max()) <= 2e-4  # the tolerance of all golden arrays


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_each_arithmetic(kind: str, state: dict[str, Tensor]) -> None:
    expected = reference_of(state).encode_image(picture(1)[None])[0]
    out = VisionTower(MemorySource(state, "float32"), kind, gpu=HERE).encode(picture(1))
    assert out.dtype == torch.float32 and out.shape == (12, 320)
    assert relative(out, expected) <= LIMITS[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
def test_stored_weights_are_taken_as_they_are(kind: str, stored: str, plain: dict[str, Tensor]) -> None:
    """Against the reference on exactly the stored values: only the activations' roundings are left."""
    source = MemorySource(plain, stored)
    expected = reference_of(source.held()).encode_image(picture(2)[None])[0]
    found = VisionTower(source, kind, gpu=HERE).encode(picture(2))
    assert relative(found, expected) <= LIMITS["float32" if kind == "float32" else "bfloat16"]


@pytest.mark.parametrize(
    ("requested", "stored", "expected"),
    [
        ("auto", "float32", "float32 on a GPU"),
        ("auto", "bfloat16", "bfloat16 on a GPU"),
        ("auto", "int8", "bfloat16 on a GPU"),
        ("int8", "int8", "int8/bfloat16 on a GPU"),
        ("float32", "int8", "float32 on a GPU"),
    ],
)
def test_which_arithmetic(requested: str, stored: str, expected: str) -> None:
    assert str(choose_on_gpu(requested, stored)) == expected


def test_unknown_names() -> None:
    with pytest.raises(InvalidArgumentError, match="vision dtype is 'float16', expected one of"):
        choose_on_gpu("float16", "int8")
    with pytest.raises(InvalidArgumentError, match="stored is 'int4', expected one of"):
        choose_on_gpu("auto", "int4")


def test_all_weights_go_to_the_device(plain: dict[str, Tensor]) -> None:
    source = MemorySource(plain, "int8")
    moved = OnDevice(source, torch.device("meta"))
    assert moved.config is source.config
    for name in plain:
        if moved.kind(name) == "int8":
            levels = moved.quantized(name)
            assert levels.qweight.is_meta and levels.scales.is_meta
        else:
            assert moved.tensor(name).is_meta
    moved.release("vision.cls_token")
    assert source.released == ["vision.cls_token"]


def test_torch_may_have_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TINYGPTV_CUDA_EMULATION", raising=False)
    with pytest.raises(UnsupportedError, match=r"torch .* has no GPU: install torch with CUDA, or give vision_device"):
        gpu_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_device() == torch.device("cuda", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights_give_the_same_tokens(kind: str, plain: dict[str, Tensor]) -> None:
    stays, offloaded = (VisionTower(MemorySource(plain, "int8"), kind, gpu=HERE, offload=off) for off in (False, True))
    assert torch.equal(offloaded.encode(picture(3)), stays.encode(picture(3)))
    assert offloaded.arithmetic == stays.arithmetic and offloaded.steps == stays.steps


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights_are_all_brought_and_stay_where_they_were(kind: str, plain: dict[str, Tensor]) -> None:
    """On "meta", which refuses to compute with a tensor that is not there."""
    tower = VisionTower(MemorySource(plain, "bfloat16"), kind, gpu=torch.device("meta"), offload=True)
    encoder, over = tower.begin(picture(3)), False
    while not over:
        over = encoder.step()
    assert encoder._rows is not None and encoder._rows.x.is_meta and encoder._rows.x.shape == (12, 320)
    again = VisionTower(MemorySource(plain, "bfloat16"), kind, gpu=HERE, offload=True)
    for step, fresh in zip(tower._steps, again._steps, strict=True):
        assert isinstance(step, Offloaded) and isinstance(fresh, Offloaded)
        mine, other = tensors_of(step), tensors_of(fresh)
        assert mine and all(torch.equal(a, b) and a.device == HERE for a, b in zip(mine, other, strict=True))


def tensors_of(part: Any) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    return [tensor for inner in getattr(part, "__dict__", {}).values() for tensor in tensors_of(inner)]


# --- memory -----------------------------------------------------------------------------------------------------------
def full(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture
def small() -> PictureEncoder:
    directory = open_directory(locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True))
    return PictureEncoder(directory, "auto", 1 << 20, gpu=True)


def test_a_full_gpu_says_what_helps(plain: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    tower = VisionTower(MemorySource(plain, "int8"), gpu=HERE)
    encoder = tower.begin(picture(1))
    encoder.step()
    with monkeypatch.context() as patch:
        patch.setattr("tinygptv_fast.vision.blocks.attend", full)
        with pytest.raises(CapacityError, match=r"no room on the GPU for the vision side.*vision_dtype='int8'"):
            encoder.step()
    while not encoder.step():
        pass
    assert torch.equal(encoder.result(), tower.encode(picture(1)))  # the step that failed changed nothing
    with monkeypatch.context() as patch:
        patch.setattr("tinygptv_fast.vision.linear.GpuLinear.__init__", full)
        with pytest.raises(CapacityError, match="no room on the GPU for the vision side"):
            VisionTower(MemorySource(plain, "int8"), gpu=HERE)


def test_pictures_take_no_turn_of_the_cpu(small: PictureEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_CUDA_EMULATION", "not loaded")
    turn: Callable[[], Any] = full
    small.warm_up()
    vision = small.tower.config.vision
    assert vision is not None
    asked = _Picture(vision.image_size)
    tokens = small.encode(asked, turn, lambda: None)
    assert torch.equal(tokens, small.encode(asked, turn, lambda: None))
    assert small.stats()["hits"] == 1


class _Picture:
    def __init__(self, side: int) -> None:
        from PIL import Image

        self.image = Image.new("RGB", (side, side), "red")
        self._side = side

    def pixels(self) -> Tensor:
        return picture(5, self._side)


# --- the setting ------------------------------------------------------------------------------------------------------
def test_the_vision_side_follows_the_text() -> None:
    with tgv.TinyGPTV.from_pretrained("demo", kv_tokens=512) as model:
        assert model.info["vision_device"] == "cpu"
    with tgv.TinyGPTV.from_pretrained("demo", kv_tokens=512, vision=False) as model:
        assert model.info["vision_device"] is None
    with pytest.raises(UnsupportedError, match="vision_device is 'cuda' with device 'auto', expected device='cuda'"):
        tgv.TinyGPTV.from_pretrained("demo", vision_device="cuda")
    with pytest.raises(
        InvalidArgumentError, match="vision_device is 'gpu', expected one of 'auto', 'cpu', 'cuda', 'offload'"
    ):
        tgv.TinyGPTV.from_pretrained("demo", vision_device="gpu")
