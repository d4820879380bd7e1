"""Golden files with something changed: what the tests of bad and unusual checkpoints start from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tinygptv_fast.checkpoint.architecture import read_architecture
from tinygptv_fast.checkpoint.plan import Plan, make_plan

Tensors = dict[str, Any]
Edit = Callable[[Tensors], Any]


def unchanged(tensors: Tensors) -> None:
    pass


@dataclass
class Originals:
    """The four files of one golden case, written to ``folder`` after the edits; ``plan`` reads their headers."""

    golden: Path
    folder: Path
    phi_name: str = "phi"
    stage_name: str = "TinyGPT-V_for_Stage3.pth"
    phi: Edit = unchanged
    phi_config: Edit = unchanged
    vision: Edit = unchanged
    qformer: Edit = unchanged
    stage: Edit = unchanged
    sizes: Edit = unchanged
    written: dict[str, Path] = field(default_factory=dict)

    def write(self) -> dict[str, Path]:
        """Arguments of ``convert``: phi, vision, qformer, checkpoint."""
        self.folder.mkdir(exist_ok=True)
        phi = self.folder / "phi"
        shutil.copytree(self.golden / self.phi_name, phi, dirs_exist_ok=True)
        for file in phi.iterdir():
            file.chmod(0o644)
        self._edit_phi(phi)
        config = json.loads((phi / "config.json").read_text())
        self.phi_config(config)
        (phi / "config.json").write_text(json.dumps(config))
        self.written = {
            "phi": phi,
            "vision": self._edit_pickle("eva_vit_g.pth", self.vision, nested=False),
            "qformer": self._edit_pickle("blip2_pretrained_flant5xxl.pth", self.qformer, nested=True),
            "checkpoint": self._edit_pickle(self.stage_name, self.stage, nested=True),
        }
        return self.written

    def tensors(self, name: str) -> list[str]:
        """Names of the tensors in one golden file (``phi``, ``vision``, ``qformer``, ``stage``), by torch's reader."""
        if name == "phi":
            return sorted(load_file(self.golden / self.phi_name / "model.safetensors"))
        files = {"vision": "eva_vit_g.pth", "qformer": "blip2_pretrained_flant5xxl.pth", "stage": self.stage_name}
        root = torch.load(self.golden / files[name], weights_only=True)
        return sorted(root if name == "vision" else root["model"])

    def architecture(self) -> dict[str, Any]:
        sizes = json.loads((self.golden / "sizes.json").read_text())
        self.sizes(sizes)
        return dict(sizes)

    def plan(self, image_size: int | None = 56) -> Plan:
        return make_plan(**self.write(), architecture=read_architecture(self.architecture()), image_size=image_size)

    def _edit_phi(self, phi: Path) -> None:
        if (phi / "model.safetensors").exists():
            tensors = load_file(phi / "model.safetensors")
            self.phi(tensors)
            save_file({k: v.contiguous() for k, v in tensors.items()}, phi / "model.safetensors")
        else:
            tensors = torch.load(phi / "pytorch_model.bin", weights_only=True)
            self.phi(tensors)
            torch.save(tensors, phi / "pytorch_model.bin")

    def _edit_pickle(self, name: str, edit: Edit, *, nested: bool) -> Path:
        root = torch.load(self.golden / name, weights_only=True)
        edit(root["model"] if nested else root)
        torch.save(root, self.folder / name)
        return self.folder / name
