"""Pictures on the native backend: encoded once, half a block a turn, given up at a deadline, never kept half done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tinygptv_fast as tgv
from golden_support import GOLDEN
from tinygptv_fast.engine import NativeBackend, pictures

IMAGES = [str(GOLDEN / "images" / f"img{index}.png") for index in range(2)]


@pytest.fixture
def model(directories: dict[str, Path]) -> Iterator[tgv.TinyGPTV]:
    """Fresh, so that nothing is in its image cache."""
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"]) as opened:
        yield opened


def images(model: tgv.TinyGPTV) -> dict[str, int]:
    return model.stats()["images"]


def backend_of(model: tgv.TinyGPTV) -> NativeBackend:
    assert isinstance(model._backend, NativeBackend)
    return model._backend


def test_a_picture_is_encoded_once_whatever_it_comes_as(model: tgv.TinyGPTV) -> None:
    state = model.encode_image(IMAGES[0])
    again = model.encode_image(Path(IMAGES[0]).read_bytes())
    model.encode_image(IMAGES[1])
    assert torch.equal(state.embeddings, again.embeddings)
    assert (images(model)["misses"], images(model)["hits"], images(model)["entries"]) == (2, 1, 2)


def test_callers_at_once_share_one_encoding(model: tgv.TinyGPTV) -> None:
    states: list[tgv.ImageState] = []
    threads = [threading.Thread(target=lambda: states.append(model.encode_image(IMAGES[0]))) for _ in range(4)]
    with backend_of(model).engine.turn():
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
    assert len({state.embeddings.numpy().tobytes() for state in states}) == 1 and len(states) == 4
    assert images(model)["misses"] == 1


def test_the_last_picture_gives_memory_back(model: tgv.TinyGPTV, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for pictures that are on their way together, not at all where the cache answers."""
    trims: list[None] = []
    monkeypatch.setattr(pictures, "trim_heap", lambda: trims.append(None))
    threads = [threading.Thread(target=model.encode_image, args=(image,)) for image in IMAGES]
    encoder = backend_of(model)._pictures
    assert encoder is not None
    with encoder._on_its_way():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert images(model)["misses"] == 2 and not trims
    assert len(trims) == 1
    model.encode_image(IMAGES[0])
    assert images(model)["hits"] == 1 and len(trims) == 1


def test_a_deadline_inside_the_tower_keeps_nothing(model: tgv.TinyGPTV) -> None:
    golden = tgv.TinyGPTV.from_pretrained(model.info["path"], backend="reference")
    released = threading.Event()

    def hold() -> None:
        with backend_of(model).engine.turn():
            held.set()
            released.wait(60)

    held, holder = threading.Event(), threading.Thread(target=hold)
    holder.start()
    held.wait()
    threading.Timer(0.2, released.set).start()
    answer = model.generate(IMAGES[0], "where?", deadline_ms=50.0)
    holder.join()
    assert (answer.finish_reason, answer.token_ids, answer.usage.generated) == ("deadline", [], 0)
    assert images(model)["entries"] == 0
    after = model.generate(IMAGES[0], "where?", max_new_tokens=5)
    with golden:
        assert after.token_ids == golden.generate(IMAGES[0], "where?", max_new_tokens=5).token_ids


def test_the_cache_is_bounded_by_the_environment(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGPTV_IMAGE_CACHE_MB", "0")
    with tgv.TinyGPTV.from_pretrained(directories["B_stage4"]) as model:
        first, second = (model.encode_image(IMAGES[0]) for _ in range(2))
        assert torch.equal(first.embeddings, second.embeddings)
        assert (images(model)["misses"], images(model)["bytes"]) == (2, 0)


def test_loading_for_text_makes_no_tower(model: tgv.TinyGPTV) -> None:
    model.generate(None, "where?", max_new_tokens=2)
    pictures = backend_of(model)._pictures
    assert pictures is not None and pictures._tower is None
