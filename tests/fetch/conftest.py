"""A local hub that holds small files under the real names, and a request for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from hub_server import HubServer, serving
from tinygptv_fast.fetch import Request

REPO, SPACE = "models/Tyrannosaurus/TinyGPT-V", "spaces/llizhx/TinyGPT-V"


def noise(name: str, size: int) -> bytes:
    """Bytes that depend on ``name``."""
    return hashlib.shake_128(name.encode()).digest(size)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving() as server:
        server.repos[REPO] = {
            "README.md": b"hello",
            **{f"TinyGPT-V_for_Stage{n}.pth": noise(f"stage {n}", 30_000 + n) for n in (1, 2, 3, 4)},
        }
        server.repos[SPACE] = {
            "app.py": b"print()",
            "phi-2/config.json": b'{"model_type": "phi"}',
            "phi-2/tokenizer.json": noise("tokenizer", 5000),
            "phi-2/README.md": b"never fetched",
            "phi-2/model.safetensors.index.json": b"{}",
            "phi-2/model-00001-of-00002.safetensors": noise("first", 3_000_000),
            "phi-2/model-00002-of-00002.safetensors": noise("second", 40_000),
            "phi-2/pytorch_model.bin": noise("the same again", 50_000),
        }
        server.store = {
            "eva_vit_g.pth": noise("vit", 2_500_000),
            "blip2_pretrained_flant5xxl.pth": noise("qformer", 60_000),
        }
        yield server


@pytest.fixture
def request_4(hub: HubServer) -> Request:
    return Request.parse(4, storage=f"{hub.url}/store")
