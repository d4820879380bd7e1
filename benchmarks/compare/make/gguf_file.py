"""Writes the checkpoint as a GGUF file in f16 and quantises it. Two commands, because two environments have the tools.

    venv-torch/bin/python gguf_file.py write CHECKPOINT OUT.gguf
    venv-llamacpp/bin/python gguf_file.py quantize IN.gguf OUT.gguf q4_0_pure|q4_k_m

q, k and v are stacked into one matrix, as the phi2 architecture of that format has them; matrices stay float16, norms
and biases become float32 (both exact). ``q4_0_pure`` stores every matrix, embedding and head included, in groups of 32.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Get = Callable[[str], np.ndarray]
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
TOP = {"output_norm": "model.final_layernorm", "output": "lm_head"}
FTYPE_Q4_0, FTYPE_Q4_K_M = 2, 15  # llama.cpp's llama_ftype


def reader(checkpoint: Path) -> Get:
    from safetensors import safe_open

    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
    files = {name: safe_open(checkpoint / name, "numpy") for name in set(index.values())}
    return lambda name: files[index[name]].get_tensor(name)


def stored(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 2 else values.astype(np.float32)


def layer_tensors(get: Get, index: int) -> dict[str, np.ndarray]:
    theirs, ours = f"model.layers.{index}", f"blk.{index}"
    out = {}
    for part in ("weight", "bias"):
        names = [f"{theirs}.self_attn.{x}_proj.{part}" for x in "qkv"]
        out[f"{ours}.attn_qkv.{part}"] = stored(np.concatenate([get(name) for name in names]))
        for new, old in LAYER.items():
            out[f"{ours}.{new}.{part}"] = stored(get(f"{theirs}.{old}.{part}"))
    return out


def top_tensors(get: Get) -> dict[str, np.ndarray]:
    out = {"token_embd.weight": get("model.embed_tokens.weight")}
    for new, old in TOP.items():
        out |= {f"{new}.{part}": stored(get(f"{old}.{part}")) for part in ("weight", "bias")}
    return out


def add_tokenizer(writer: Any, checkpoint: Path, size: int) -> None:
    """The byte-level BPE of tokenizer.json, padded to the rows of the embedding."""
    import gguf

    data = json.loads((checkpoint / "tokenizer.json").read_text())
    tokens = {index: token for token, index in data["model"]["vocab"].items()}
    tokens |= {entry["id"]: entry["content"] for entry in data["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(index, f"[PAD{index}]") for index in range(size)])
    normal, unused = gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    writer.add_token_types([normal if index in tokens else unused for index in range(size)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]])


def write(checkpoint: Path, out: Path) -> None:
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer = gguf.GGUFWriter(str(out), "phi2", use_temp_file=False)
    writer.add_name("random Phi-2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_rope_dimension_count(round(config["partial_rotary_factor"] * width / heads))
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_add_bos_token(False)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    add_tokenizer(writer, checkpoint, config["vocab_size"])
    get = reader(checkpoint)
    for index in range(config["num_hidden_layers"]):
        for name, values in layer_tensors(get, index).items():
            writer.add_tensor(name, values)
    for name, values in top_tensors(get).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, out: Path, kind: str) -> None:
    import llama_cpp

    llama_cpp.llama_backend_init()
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread = len(os.sched_getaffinity(0))
    options.ftype = {"q4_0_pure": FTYPE_Q4_0, "q4_k_m": FTYPE_Q4_K_M}[kind]
    options.pure = kind.endswith("_pure")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(options))
    if code != 0:
        raise SystemExit(f"llama_model_quantize returned {code} for {out}")


if __name__ == "__main__":
    command, source, out, *kind = sys.argv[1:]
    if command == "write":
        write(Path(source), Path(out))
    else:
        quantize(Path(source), Path(out), kind[0])
