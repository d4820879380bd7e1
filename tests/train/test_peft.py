"""Adapters and PEFT itself: what we write PEFT loads, what PEFT writes we load, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from stage_support import begin, data, settings, tiny_model
from tinygptv_fast.checkpoint.adapter import AdaptedDirectory, original_name, read_adapter
from tinygptv_fast.checkpoint.directory import ModelDirectory, open_directory
from tinygptv_fast.train.stages.run import train_stage

ROUNDING = 4 * 2**-24  # B A in another order of summation, added to a weight


class Weights(nn.Module):
    """A norm: weight, and bias where the original has one."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor))


class OriginalLayout(nn.Module):
    """The language model's trained modules at the paths they have in the original (``modeling_phi.py``)."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.config = {"model_type": "phi"}
        modules: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            path, _, leaf = original_name(name).rpartition(".")
            modules.setdefault(path, {})[leaf] = tensor
        for path, held in modules.items():
            self._put(path, _linear(held) if path.endswith(("query_key_value", "dense")) else Weights(held))

    def _put(self, path: str, module: nn.Module) -> None:
        parent: nn.Module = self
        *steps, last = path.split(".")
        for step in steps:
            if step not in dict(parent.named_children()):
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, module)

    def prepare_inputs_for_generation(self, **inputs: Any) -> Any:
        """PEFT asks a causal language model for it; nothing is generated here."""
        raise NotImplementedError


def _linear(held: dict[str, Tensor]) -> nn.Linear:
    out = nn.Linear(held["weight"].shape[1], held["weight"].shape[0], bias="bias" in held)
    out.load_state_dict(held)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def original(model: Path) -> OriginalLayout:
    directory = open_directory(model)
    return OriginalLayout({name: directory.dequantized(name).float().clone() for name in adaptable(directory)})


def adaptable(directory: ModelDirectory) -> list[str]:
    """The tensors of the language model that an adapter may change, and the biases beside them."""
    return [n for n in directory.names() if n.startswith("text.") and (".attn." in n or "norm" in n)]


def assert_same(plain: nn.Module, adapted: AdaptedDirectory) -> int:
    """Compare every tensor of ``plain`` with ours under its canonical name; how many LoRA has changed."""
    state, changed, untouched = plain.state_dict(), 0, open_directory(adapted.path)
    for name in adaptable(untouched):
        theirs, ours = state[original_name(name)], adapted.dequantized(name).float()
        torch.testing.assert_close(theirs, ours, rtol=ROUNDING, atol=ROUNDING * float(ours.abs().max()))
        changed += not torch.equal(ours, untouched.dequantized(name).float())
    return changed


def test_peft_loads_our_adapter(model: Path, tmp_path: Path) -> None:
    config = settings()
    assert train_stage(begin(model, config), config, data(tmp_path, config), tmp_path / "run")
    folder = tmp_path / "run" / "adapter"
    loaded = PeftModel.from_pretrained(original(model), str(folder))
    directory = open_directory(model)
    adapted = AdaptedDirectory(directory, read_adapter(folder, directory.config))
    changed = assert_same(loaded.merge_and_unload(), adapted)
    assert changed >= 4 * directory.config.text.layers  # two matrices and the norms of every layer


def test_we_load_an_adapter_of_peft(model: Path, tmp_path: Path) -> None:
    norms = ["input_layernorm", "post_layernorm", "final_layernorm"]
    lora = LoraConfig(r=3, lora_alpha=7, target_modules=["query_key_value", "dense"], modules_to_save=norms,
                      task_type="CAUSAL_LM", use_rslora=True)  # fmt: skip
    wrapped = get_peft_model(original(model), lora)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 8
    wrapped.save_pretrained(str(tmp_path / "theirs"))
    directory = open_directory(model)
    adapted = AdaptedDirectory(directory, read_adapter(tmp_path / "theirs", directory.config))
    changed = assert_same(wrapped.merge_and_unload(), adapted)
    assert changed >= 4 * directory.config.text.layers
