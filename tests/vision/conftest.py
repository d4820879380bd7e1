"""A vision side of a few million weights, drawn here, as a source of weights and as the reference's modules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tinygptv_fast import _native
from tinygptv_fast.checkpoint.names import canonical_shapes, storage_kind
from tinygptv_fast.config import ModelConfig, QFormerConfig, QuantizationConfig, TextConfig, VisionConfig
from tinygptv_fast.quantize.int8 import Int8Tensor, dequantize_int8, quantize_int8
from tinygptv_fast.reference import TinyGPTVReference
from tinygptv_fast.vision.arithmetic import why_not

TEXT = TextConfig(width=320, layers=1, heads=4, head_dim=80, mlp_width=32, vocab_size=32, max_positions=32)
CONFIG = ModelConfig(
    text=TEXT,
    vision=VisionConfig(image_size=98, width=264, layers=6, heads=3, mlp_width=1152),
    qformer=QFormerConfig(queries=12, width=192, layers=4, heads=4, mlp_width=768),
)


def needs(kind: str) -> pytest.MarkDecorator:
    """Skips where this CPU has no arithmetic ``kind``."""
    reason = why_not(kind, _native.cpu_features())
    return pytest.mark.skipif(reason is not None, reason=f"ISA absent: {reason}")


KINDS = [pytest.param(kind, marks=needs(kind)) for kind in ("float32", "bfloat16", "int8")]


class MemorySource:
    """Weights in memory. ``stored``: float32, bfloat16 or int8, for the matrices that may be."""

    def __init__(self, state: dict[str, Tensor], stored: str, config: ModelConfig = CONFIG) -> None:
        self.config = replace(config, quantization=QuantizationConfig(vision=stored))
        self.state = state
        self.released: list[str] = []

    def kind(self, name: str) -> str:
        return storage_kind(name, self.config)

    def tensor(self, name: str) -> Tensor:
        assert self.kind(name) != "int8"
        return self.state[name].to(getattr(torch, self.kind(name)))

    def quantized(self, name: str) -> Int8Tensor:
        assert self.kind(name) == "int8"
        return quantize_int8(self.state[name])

    def release(self, name: str) -> None:
        self.released.append(name)

    def held(self) -> dict[str, Tensor]:
        """What is stored, in float32."""
        return {
            name: dequantize_int8(self.quantized(name)) if self.kind(name) == "int8" else self.tensor(name).float()
            for name in self.state
        }


def draw_state(config: ModelConfig, outliers: bool, seed: int = 3) -> dict[str, Tensor]:
    """Random weights by the rules of benchmarks/make_full_size.py: norm gains around 1, residual branches at 1/8; with
    ``outliers`` three channels of the tower's norms and of the columns that read them are 30 to 100 times larger."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in canonical_shapes(config).items():
        values = torch.empty(shape).normal_(generator=generator)
        if len(shape) == 1:
            gain = name.endswith("weight")
            out[name] = values * (0.1 if gain else 0.02) + (1.0 if gain else 0.0)
        elif "embed" in name or "token" in name:
            out[name] = values * 0.02
        else:
            residual = name.endswith(("attn.out.weight", "fc2.weight"))
            out[name] = values * (0.125 if residual else 1.0) / math.sqrt(math.prod(shape[1:]))
        if outliers and name.startswith("vision.layers.") and "weight" in name:
            if "norm" in name:
                out[name][:3] *= torch.tensor([34.0, 61.0, 97.0])
            elif "fc1" in name or "attn.out" in name:
                out[name][:, :3] *= torch.tensor([34.0, 61.0, 97.0])
    return out


def reference_of(state: dict[str, Tensor], config: ModelConfig = CONFIG) -> TinyGPTVReference:
    with torch.device("meta"):
        model = TinyGPTVReference(config)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def picture(seed: int, size: int = 98) -> Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "outliers"])
def state(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return draw_state(CONFIG, request.param)


@pytest.fixture(scope="session")
def plain() -> dict[str, Tensor]:
    return draw_state(CONFIG, False)
