"""Writes random weights of the real model's sizes in the layouts of the original's files.

What: ``phi-2/`` (2.78 B parameters, fp16 safetensors in two shards), ``eva_vit_g.pth`` (40 blocks, fp16),
``blip2_pretrained_flant5xxl.pth`` (fp32, text branch included) and ``TinyGPT-V_for_Stage4.pth`` (LoRA r=64 with the
trainer's optimiser state). So conversion, memory and speed can be tested at the size users have, without the weights.
How: every tensor is drawn from a seed of its own name and streamed to disk; nothing larger than a block is in memory.
A file appears under its name only when complete, so an interrupted run continues where it stopped.

``--outliers`` plants what trained models have and random ones lack: 0.2 % of the channels are 30-100 times larger in
norm gains, in the embedding's and in the matching columns of fc1 and of the attention's output matrix, and two layers
have fc1 outputs beyond fp16's 65,504.

    python benchmarks/make_full_size.py --out full_size
    python benchmarks/make_full_size.py --out full_size_outliers --outliers
    python benchmarks/make_full_size.py --out tiny --small
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from stand_in_tokenizer import END_OF_TEXT, tokenizer_json
from tinygptv_fast.checkpoint.names import Part
from tinygptv_fast.checkpoint.writer import SafetensorsWriter
from torch_zip import Later, save

PHI, VISION, QFORMER, STAGE = "phi-2", "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "TinyGPT-V_for_Stage4.pth"
_BLOCK = 1 << 22
_MLP_RATIO = 4.3637
_OUTLIER_SHARE = 0.002
_BIG_ROWS = 8  # fc1 rows of a layer whose outputs leave fp16's range
_ROW_SCALE = 512.0  # with the outlier columns the rows themselves still fit fp16
Fill = Callable[[str, tuple[int, ...], int], torch.Tensor]


@dataclass(frozen=True)
class Sizes:
    """Everything that sets a shape. Defaults are the released model at stage 4."""

    width: int = 2560
    layers: int = 32
    heads: int = 32
    mlp: int = 10240
    vocab: int = 51200
    merges: int = 50_000
    positions: int = 2048
    vit_width: int = 1408
    vit_blocks: int = 40
    vit_heads: int = 16
    image_small: int = 224
    image_large: int = 448
    q_width: int = 768
    q_layers: int = 12
    q_heads: int = 12
    q_mlp: int = 3072
    queries: int = 32
    words: int = 30523
    projection: int = 4096
    rank: int = 64

    def architecture(self) -> dict[str, Any]:
        """The same sizes in the form ``tinygptv convert --architecture`` reads."""
        vit = {
            "embed_dim": self.vit_width,
            "depth": self.vit_blocks - 1,
            "num_heads": self.vit_heads,
            "patch_size": 14,
            "mlp_ratio": _MLP_RATIO,
            "norm_eps": 1e-6,
            "checkpoint_image_size": self.image_small,
            "checkpoint_depth": self.vit_blocks,
        }
        qf = {
            "hidden_size": self.q_width,
            "num_hidden_layers": self.q_layers,
            "num_attention_heads": self.q_heads,
            "intermediate_size": self.q_mlp,
            "cross_attention_freq": 2,
            "layer_norm_eps": 1e-12,
        }
        return {
            "vit": vit,
            "qf": qf,
            "num_query": self.queries,
            "proj": self.projection,
            "img_small": self.image_small,
            "img_large": self.image_large,
            "lora_r": self.rank,
            "lora_alpha": 16,
        }


SMALL = Sizes(
    width=64, layers=3, heads=4, mlp=256, vocab=640, merges=320, positions=256, vit_width=32, vit_blocks=3, vit_heads=2,
    image_small=28, image_large=56, q_width=48, q_layers=2, q_heads=4, q_mlp=96, queries=4, words=50, projection=40,
    rank=4,
)  # fmt: skip


class Maker:
    """Draws tensors by name. The same name, seed and ``outliers`` always give the same values."""

    def __init__(self, sizes: Sizes, seed: int, outliers: bool) -> None:
        self.sizes = sizes
        self.seed = seed
        self.outliers = outliers

    def later(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Later:
        """A tensor for ``torch_zip``."""
        return Later(shape, dtype, lambda: (block.reshape(-1) for block in self.blocks(name, shape, dtype)))

    def blocks(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """The tensor in blocks of rows."""
        step = max(1, _BLOCK * shape[0] // math.prod(shape))
        generator = torch.Generator().manual_seed(self._seed_of(name))
        for start in range(0, shape[0], step):
            rows = (min(step, shape[0] - start), *shape[1:])
            values = self._draw(name, rows, generator)
            if self.outliers:
                self._plant(name, values, start)
            yield values.to(dtype)

    def channels(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(indices, factors 30..100) of the outlier channels of a stream of ``width``; the same in every layer."""
        generator = torch.Generator().manual_seed(self._seed_of(f"outlier channels of {width}"))
        count = max(1, round(_OUTLIER_SHARE * width))
        picked = torch.randperm(width, generator=generator)[:count]
        return picked, 30 + 70 * torch.rand(count, generator=generator)

    def _seed_of(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7], "little")

    def _draw(self, name: str, rows: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
        values = torch.empty(rows).normal_(generator=generator)
        if len(rows) == 1:
            gain = name.endswith("weight")  # norms: gains around 1; every other vector is a bias
            return values.mul_(0.1 if gain else 0.02).add_(1.0 if gain else 0.0)
        if "embed" in name or "token" in name:
            return values.mul_(0.5 if "embed_tokens" in name else 0.02)
        residual = name.endswith(("dense.weight", "fc2.weight", "attn.proj.weight", "lora_B.weight"))
        return values.mul_((0.125 if residual else 1.0) / math.sqrt(math.prod(rows[1:])))

    def _plant(self, name: str, values: torch.Tensor, start: int) -> None:
        width = self.sizes.vit_width if name.startswith("blocks.") else self.sizes.width
        picked, factors = self.channels(width)
        if name.endswith(("layernorm.weight", "norm1.weight", "norm2.weight")) and values.shape == (width,):
            values[picked] *= factors
        elif name.endswith(("fc1.weight", "dense.weight", "attn.proj.weight", "embed_tokens.weight")):
            if values.dim() == 2 and values.shape[1] == width:
                values[:, picked] *= factors
        if name.split(".mlp.")[0] in self._big_layers():
            self._enlarge(name, values, start)

    def _big_layers(self) -> tuple[str, str]:
        return "model.layers.1", f"model.layers.{self.sizes.layers - 1}"

    def _enlarge(self, name: str, values: torch.Tensor, start: int) -> None:
        """A few fc1 outputs leave fp16's range; fc2 makes up for it, so that the layer's output stays ordinary."""
        if name.endswith("fc1.weight"):
            values[: max(0, _BIG_ROWS - start)] *= _ROW_SCALE
        elif name.endswith("fc1.bias"):
            values[: max(0, _BIG_ROWS - start)] += 60_000
        elif name.endswith("fc2.weight"):
            values[:, :_BIG_ROWS] /= 8 * _ROW_SCALE


Tensors = list[tuple[str, tuple[int, ...]]]


def _linear(name: str, rows: int, columns: int) -> Tensors:
    return [(f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,))]


def _norm(name: str, width: int) -> Tensors:
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def phi_tensors(s: Sizes, split: bool) -> Tensors:
    """The Phi-2 directory as Microsoft ships it: no q/k norms, no post-attention norm."""
    out: Tensors = [("model.embed_tokens.weight", (s.vocab, s.width))]
    for index in range(s.layers):
        layer = f"model.layers.{index}"
        out += _norm(f"{layer}.input_layernorm", s.width)
        if split:
            for part in ("q_proj", "k_proj", "v_proj"):
                out += _linear(f"{layer}.self_attn.{part}", s.width, s.width)
        else:
            out += _linear(f"{layer}.self_attn.query_key_value", 3 * s.width, s.width)
        out += _linear(f"{layer}.self_attn.dense", s.width, s.width)
        out += _linear(f"{layer}.mlp.fc1", s.mlp, s.width) + _linear(f"{layer}.mlp.fc2", s.width, s.mlp)
    return out + _norm("model.final_layernorm", s.width) + _linear("lm_head", s.vocab, s.width)


def vision_tensors(s: Sizes) -> Tensors:
    width, hidden = s.vit_width, int(s.vit_width * _MLP_RATIO)
    out: Tensors = [("cls_token", (1, 1, width)), ("pos_embed", (1, 1 + (s.image_small // 14) ** 2, width))]
    out += [("patch_embed.proj.weight", (width, 3, 14, 14)), ("patch_embed.proj.bias", (width,))]
    for index in range(s.vit_blocks):
        block = f"blocks.{index}"
        out += _norm(f"{block}.norm1", width)
        out += [(f"{block}.attn.q_bias", (width,)), (f"{block}.attn.v_bias", (width,))]
        out += [(f"{block}.attn.qkv.weight", (3 * width, width)), *_linear(f"{block}.attn.proj", width, width)]
        out += _norm(f"{block}.norm2", width)
        out += _linear(f"{block}.mlp.fc1", hidden, width) + _linear(f"{block}.mlp.fc2", width, hidden)
    return out + _norm("norm", width) + _linear("head", 1000, width)


def qformer_tensors(s: Sizes) -> Tensors:
    """With the text branch, the language modelling head and the projection to T5, all of which conversion drops."""
    width, bert = s.q_width, "Qformer.bert"
    out: Tensors = [("query_tokens", (1, s.queries, width))]
    out += [(f"{bert}.embeddings.word_embeddings.weight", (s.words, width))]
    out += [(f"{bert}.embeddings.position_embeddings.weight", (512, width))]
    out += _norm(f"{bert}.embeddings.LayerNorm", width)
    for index in range(s.q_layers):
        layer = f"{bert}.encoder.layer.{index}"
        for kind, source in (("attention", width), ("crossattention", s.vit_width)):
            if kind == "crossattention" and index % 2:
                continue
            out += _linear(f"{layer}.{kind}.self.query", width, width)
            out += _linear(f"{layer}.{kind}.self.key", width, source)
            out += _linear(f"{layer}.{kind}.self.value", width, source)
            out += _linear(f"{layer}.{kind}.output.dense", width, width)
            out += _norm(f"{layer}.{kind}.output.LayerNorm", width)
        for suffix in ("", "_query"):
            out += _linear(f"{layer}.intermediate{suffix}.dense", s.q_mlp, width)
            out += _linear(f"{layer}.output{suffix}.dense", width, s.q_mlp)
            out += _norm(f"{layer}.output{suffix}.LayerNorm", width)
    out += _linear("Qformer.cls.predictions.decoder", s.words, width)
    return out + _norm("ln_vision", s.vit_width) + _linear("t5_proj", s.projection, width)


def stage_tensors(s: Sizes) -> Tensors:
    """What training changed: LoRA, the weights (not biases) of the norms, both projections."""
    out: Tensors = []
    for index in range(s.layers):
        layer = f"llama_model.base_model.model.model.layers.{index}"
        for target, rows in (("query_key_value", 3 * s.width), ("dense", s.width)):
            out += [(f"{layer}.self_attn.{target}.lora_A.weight", (s.rank, s.width))]
            out += [(f"{layer}.self_attn.{target}.lora_B.weight", (rows, s.rank))]
        for norm in ("q_layernorm", "k_layernorm"):
            out += [(f"{layer}.self_attn.{norm}.weight", (s.width // s.heads,))]
        out += [(f"{layer}.input_layernorm.weight", (s.width,)), (f"{layer}.post_layernorm.weight", (s.width,))]
    out += [("llama_model.base_model.model.model.final_layernorm.weight", (s.width,))]
    return out + _linear("llama_proj", s.projection, s.q_width) + _linear("llama_proj2", s.width, s.projection)


def _bytes(tensors: Tensors, itemsize: int) -> int:
    return sum(math.prod(shape) for _, shape in tensors) * itemsize


def _position_ids(count: int) -> Later:
    return Later((1, count), torch.int64, lambda: iter([torch.arange(count)]))


def write_phi(folder: Path, maker: Maker, split: bool, wrote: Callable[[int], None]) -> None:
    """Config, tokenizer and two shards with their index, in a directory that appears when complete."""
    s, tensors = maker.sizes, phi_tensors(maker.sizes, split)
    folder.mkdir()
    half = len(tensors) // 2
    shards = {
        f"model-0000{i + 1}-of-00002.safetensors": part for i, part in enumerate((tensors[:half], tensors[half:]))
    }
    for file, part in shards.items():
        writer = SafetensorsWriter(folder / file, [Part(n, shape, "F16") for n, shape in part], {"format": "pt"})
        try:
            for name, shape in part:
                for block in maker.blocks(name, shape, torch.float16):
                    writer.write(name, block)
                    wrote(block.numel() * 2)
            writer.finish()
        finally:
            writer.close()
    index = {name: file for file, part in shards.items() for name, _ in part}
    _json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": _bytes(tensors, 2)}, "weight_map": index}
    )
    end = 256 + s.merges
    config = {
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "hidden_size": s.width,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "intermediate_size": s.mlp,
        "vocab_size": s.vocab,
        "max_position_embeddings": s.positions,
        "partial_rotary_factor": 0.5 if s.width // s.heads == 16 else 0.4,
        "rope_theta": 10000.0,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "qk_layernorm": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": end,
        "eos_token_id": end,
    }
    _json(folder / "config.json", config)
    (folder / "tokenizer.json").write_text(tokenizer_json(s.merges), encoding="utf-8")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    _json(
        folder / "tokenizer_config.json", {"tokenizer_class": "CodeGenTokenizer", "add_prefix_space": False, **special}
    )


def stage_tree(maker: Maker) -> dict[str, Any]:
    """The trainer's whole dict: weights, Adam's two moments for each, configuration, scaler, epoch."""
    s, tensors = maker.sizes, stage_tensors(maker.sizes)
    model: dict[str, Any] = {name: maker.later(name, shape, torch.float32) for name, shape in tensors}
    model["Qformer.bert.embeddings.position_ids"] = _position_ids(512)
    state = {
        index: {
            "step": 50_000,
            "exp_avg": maker.later(f"exp_avg {name}", shape, torch.float32),
            "exp_avg_sq": maker.later(f"exp_avg_sq {name}", shape, torch.float32),
        }
        for index, (name, shape) in enumerate(tensors)
    }
    settings = {"arch": "minigpt_v2", "image_size": s.image_large, "lora_r": s.rank, "lora_alpha": 16}
    return {
        "model": model,
        "optimizer": {"state": state, "param_groups": [{"lr": 1e-5, "params": list(state)}]},
        "config": {"model": settings, "run": {"task": "image_text_pretrain"}},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "epoch": 49,
    }


def make(out: Path, sizes: Sizes, *, seed: int, outliers: bool, split: bool, wrote: Callable[[int], None]) -> None:
    """Write everything that is not there yet. Files of other settings in ``out`` are an error."""
    maker = Maker(sizes, seed, outliers)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "outliers": outliers, "split": split, **vars(sizes)}
    stamp = out / "settings.json"
    if stamp.exists() and json.loads(stamp.read_text()) != settings:
        raise SystemExit(f"{out} holds files of other settings (see settings.json); choose another --out")
    _json(stamp, settings)
    _json(out / "architecture.json", sizes.architecture())
    half, full = torch.float16, torch.float32
    qformer: dict[str, Any] = {name: maker.later(name, shape, full) for name, shape in qformer_tensors(sizes)}
    qformer["Qformer.bert.embeddings.position_ids"] = _position_ids(512)
    vision = {name: maker.later(name, shape, half) for name, shape in vision_tensors(sizes)}
    _complete(out / PHI, lambda path: write_phi(path, maker, split, wrote))
    _complete(out / VISION, lambda path: save(path, vision, wrote))
    _complete(out / QFORMER, lambda path: save(path, {"model": qformer}, wrote))
    _complete(out / STAGE, lambda path: save(path, stage_tree(maker), wrote))


def total_bytes(sizes: Sizes, split: bool) -> int:
    parts = (phi_tensors(sizes, split), 2), (vision_tensors(sizes), 2), (qformer_tensors(sizes), 4)
    return sum(_bytes(tensors, size) for tensors, size in parts) + 3 * _bytes(stage_tensors(sizes), 4)


def _complete(path: Path, write: Callable[[Path], Any]) -> None:
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        write(partial)
        os.rename(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write (9.7 GB at full size)")
    parser.add_argument("--outliers", action="store_true", help="plant outlier channels and large activations")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for tests of the layouts")
    parser.add_argument("--split", action="store_true", help="q_proj, k_proj, v_proj instead of the fused matrix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    sizes = SMALL if args.small else Sizes()
    total = total_bytes(sizes, args.split)
    args.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(args.out).free
    present = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    if total - present > free:
        print(f"{args.out}: {total / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free", file=sys.stderr)
        return 2
    with Progress(disable=args.quiet) as progress:
        task = progress.add_task("writing", total=total)
        make(args.out, sizes, seed=args.seed, outliers=args.outliers, split=args.split,
             wrote=lambda count: progress.advance(task, count))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
