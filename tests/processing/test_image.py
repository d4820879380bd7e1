"""processing.image: the original's pixels, every kind of picture, and what must be refused."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinygptv_fast.errors import ConfigError, ImageError, InvalidArgumentError
from tinygptv_fast.processing.image import ImageProcessor

PROCESSOR = ImageProcessor(8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def array(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def colourful(width: int = 7, height: int = 5) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("case", "size"), [("A_stage1", 56), ("B_stage4", 112)])
def test_pixels_equal_the_originals_bit_for_bit(golden_dir: Path, case: str, size: int) -> None:
    expected = np.load(golden_dir / f"golden/{case}.npz")["pixel_values"]
    pictures = np.load(golden_dir / "golden/images.npz")
    processor = ImageProcessor(size)
    for index in range(3):
        raw = pictures[f"img{index}"]
        path = golden_dir / f"images/img{index}.png"
        sources = [raw, str(path), path, path.read_bytes(), bytearray(path.read_bytes()), Image.open(path)]
        for source in sources:
            assert np.array_equal(processor.pixels(source).numpy(), expected[index])
        assert np.array_equal(processor.pixels(raw[:, :, ::-1], color="bgr").numpy(), expected[index])


def test_pixels_form() -> None:
    pixels = PROCESSOR.pixels(colourful())
    assert pixels.shape == (3, 8, 8) and str(pixels.dtype) == "torch.float32" and pixels.is_contiguous()


def test_equal_to_hugging_faces_blip_processor() -> None:
    """The written preprocessor_config.json means the same to transformers."""
    transformers = pytest.importorskip("transformers")
    config = {key: value for key, value in ImageProcessor(32).to_dict().items() if key != "image_processor_type"}
    slow = getattr(transformers, "BlipImageProcessorPil", None) or transformers.BlipImageProcessor
    picture = colourful(61, 83)
    theirs = slow(**config)(picture, return_tensors="np")["pixel_values"][0]
    # float32 against their order of operations: values up to 2.7, half a unit of 1/255 would be 7e-3
    assert np.abs(np.asarray(theirs) - ImageProcessor(32).pixels_array(picture)).max() < 1e-5


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes_convert_as_pillow_does(mode: str) -> None:
    image = colourful().convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (3, 3), (128, 128, 128))
    assert np.array_equal(array(PROCESSOR.load(image)), np.asarray(image.convert("RGB")))


def test_palette() -> None:
    image = colourful().quantize(16)
    assert np.array_equal(array(PROCESSOR.load(encoded(image))), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (10, 10, 10, 255))
    image.putpixel((1, 0), (10, 10, 10, 0))
    out = array(PROCESSOR.load(image.convert(mode)))
    assert out[0, 0].tolist() == [10, 10, 10] and out[0, 1].tolist() == [255, 255, 255]


def test_half_transparent_pixels_mix_with_white() -> None:
    out = array(PROCESSOR.load(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert out[0, 0].tolist() == [127, 127, 127]


def test_transparency_of_palette_and_rgb_files() -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    assert array(PROCESSOR.load(encoded(palette, transparency=0)))[0].tolist() == [[255, 255, 255], [200, 0, 0]]
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.putpixel((0, 0), (9, 9, 9))
    out = array(PROCESSOR.load(encoded(keyed, transparency=(9, 9, 9))))
    assert out[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 257, 32896, 65535, 128, 129]], dtype=np.uint16)
    out = array(PROCESSOR.load(encoded(Image.fromarray(values))))
    assert out[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I" and array(PROCESSOR.load(wide))[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


def test_exif_orientation() -> None:
    image = colourful(4, 6)
    for orientation, turn in {1: None, 3: 2, 6: 3, 8: 1}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        loaded = PROCESSOR.load(encoded(image, exif=exif))
        expected = np.asarray(image) if turn is None else np.rot90(np.asarray(image), turn)
        assert np.array_equal(array(loaded), expected), orientation
    exif = Image.Exif()
    exif[0x0112] = 6
    assert PROCESSOR.load(encoded(colourful(40, 60), "JPEG", exif=exif)).size == (60, 40)


def test_broken_exif_means_upright() -> None:
    image = colourful()
    data = encoded(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert np.array_equal(array(PROCESSOR.load(data)), np.asarray(image))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert array(PROCESSOR.load(data))[0, 0].tolist() == [255, 0, 0]


def test_load_keeps_the_size_and_leaves_the_argument_alone() -> None:
    image = colourful(123, 45)
    before = np.array(image)
    out = PROCESSOR.load(image)
    assert out.size == (123, 45) and out is not image
    out.paste((0, 0, 0), (0, 0, 123, 45))
    assert np.array_equal(np.asarray(image), before)
    values = before.copy()
    PROCESSOR.load(values).paste((0, 0, 0), (0, 0, 123, 45))
    assert np.array_equal(values, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    assert bool(np.isfinite(PROCESSOR.pixels_array(Image.new("RGB", size, "red"))).all())


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    idat = b"IDAT" + zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))


@pytest.mark.parametrize("size", [(60_000, 60_000), (15_000, 15_000), (2**31 - 1, 2**31 - 1)])
def test_too_large_pictures_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="image is"):
        PROCESSOR.load(png_header(*size))


def test_max_pixels() -> None:
    small = ImageProcessor(8, max_pixels=100)
    assert small.load(Image.new("RGB", (10, 10))).size == (10, 10)
    for source in (Image.new("RGB", (101, 1)), encoded(Image.new("RGB", (101, 1))), np.zeros((1, 101, 3), np.uint8)):
        with pytest.raises(ImageError, match="101x1 pixels, expected at most 100"):
            small.load(source)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_files(kind: str) -> None:
    data = encoded(colourful(64, 64), kind)
    for keep in (0, 1, 8, 20, len(data) // 2):
        with pytest.raises(ImageError, match="image is") as caught:
            PROCESSOR.load(data[:keep])
        assert "\n" not in str(caught.value)


def test_random_damage_never_escapes_as_another_error() -> None:
    """Flipped bytes either still decode or are an ImageError."""
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        data = encoded(colourful(32, 32), kind)
        for _ in range(40):
            hurt = bytearray(data)
            for position in rng.integers(0, len(data), 6):
                hurt[position] = int(rng.integers(0, 256))
            try:
                assert ImageProcessor(8, max_pixels=10**6).load(bytes(hurt)).mode == "RGB"
            except ImageError:
                pass


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
        np.zeros((), object),
        None,
        3,
        ["photo.png"],
        object(),
        b"",
        b"not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n",
        Image.new("RGB", (0, 3)),
        Image.new("F", (2, 2)),
        "no/such/picture.png",
        "http://example.org/a.png",
        "nul\0character.png",
        "/dev/zero",
        os.curdir,
    ],
    ids=lambda value: f"{type(value).__name__}-{str(getattr(value, 'shape', value))[:19]!r}",  # of an object no address
)
def test_what_is_no_picture(value: Any) -> None:
    with pytest.raises(ImageError, match=r"^image is") as caught:
        PROCESSOR.load(value)
    assert "\n" not in str(caught.value)


def test_error_names_array_and_expectation() -> None:
    with pytest.raises(ImageError, match=r"image is a float32 array \[4, 4, 3\], expected uint8 \[height, width, 3\]"):
        PROCESSOR.pixels(np.zeros((4, 4, 3), np.float32))


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        PROCESSOR.load(tmp_path / "pipe.png")


def test_color() -> None:
    with pytest.raises(InvalidArgumentError, match="color is 'grb'"):
        PROCESSOR.load(np.zeros((2, 2, 3), np.uint8), color="grb")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="color is 'bgr' with image a str"):
        PROCESSOR.load("photo.png", color="bgr")


def test_threads_agree(golden_dir: Path) -> None:
    path = golden_dir / "images/img0.png"
    expected = PROCESSOR.pixels_array(path)
    same: list[bool] = []
    work = [
        threading.Thread(target=lambda: same.append(np.array_equal(PROCESSOR.pixels_array(path), expected)))
        for _ in range(8)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert same == [True] * 8


def test_config_round_trip() -> None:
    processor = ImageProcessor(448, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    again = ImageProcessor.from_dict(processor.to_dict())
    assert again.to_dict() == processor.to_dict()
    assert (again.image_size, again.mean, again.std) == (448, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"resample": 2},
        {"do_resize": False},
        {"do_normalize": 1},
        {"rescale_factor": 1.0},
        {"image_mean": [0.5, 0.5]},
        {"image_mean": [0.5, 0.5, float("nan")]},
        {"image_mean": [0.5, 0.5, "0.5"]},
        {"image_std": [0.5, 0.5, 0.0]},
        {"image_std": None},
        {"size": 224},
        {"size": {"height": 224}},
        {"size": {"height": 224, "width": 225}},
        {"size": {"height": True, "width": True}},
        {"size": {"height": 0, "width": 0}},
        {"size": {"height": "224", "width": "224"}},
    ],
    ids=str,
)
def test_config_is_strict(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ImageProcessor.from_dict({**PROCESSOR.to_dict(), **change})


@pytest.mark.parametrize("key", sorted(PROCESSOR.to_dict()))
def test_config_keys_are_all_needed(key: str) -> None:
    data = PROCESSOR.to_dict()
    del data[key]
    with pytest.raises(ConfigError, match=key):
        ImageProcessor.from_dict(data)


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_config_must_be_an_object(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a json object"):
        ImageProcessor.from_dict(value)


@pytest.mark.parametrize("arguments", [(0,), (1.5,), (True,), (8, (0.5, 0.5)), (8, (0, 0, 0), (1, -1, 1))])
def test_bad_settings(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        ImageProcessor(*arguments)
