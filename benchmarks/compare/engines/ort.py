"""onnxruntime-genai. The logits come from the same file through onnxruntime itself, which its builder wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_genai as og

from engines.base import Run, Timer
from layout import Prompt


class Engine:
    """Keys and values are float32 in its CPU models, and the builder offers no other kind."""

    def __init__(self, path: Path, threads: int, **_: Any) -> None:
        self._path, self._threads = path, threads
        config = og.Config(str(path))
        session = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = og.Model(config)

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        length = len(prompts[0].ids) + new_tokens
        options = og.GeneratorParams(self._model)
        options.set_search_options(
            max_length=length + 1, min_length=length + 1, batch_size=len(prompts), do_sample=False
        )
        generator = og.Generator(self._model, options)
        ids = np.array([p.ids for p in prompts], dtype=np.int32)
        with Timer() as prefill:
            generator.append_tokens(ids[0] if len(prompts) == 1 else ids)
            generator.generate_next_token()
        run = Run(prefill.seconds)
        for _ in range(new_tokens - 1):
            with Timer() as timer:
                generator.generate_next_token()
            run.steps.append(timer.seconds)
        return run

    def logits(self, prompt: Prompt) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        session = onnxruntime.InferenceSession(str(self._path / "model.onnx"), options, ["CPUExecutionProvider"])
        ids = np.array([prompt.ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for value in session.get_inputs():
            if value.name.startswith("past_key_values"):
                _, heads, _, width = value.shape
                width = width if isinstance(width, int) else self._head_size()
                feeds[value.name] = np.zeros((1, heads, 0, width), dtype=np.float32)
        return session.run(["logits"], feeds)[0][0].astype(np.float32)

    def about(self) -> dict[str, Any]:
        return {"version": og.__version__, "onnxruntime": onnxruntime.__version__, "kv": "f32"}

    def _head_size(self) -> int:
        config = json.loads((self._path / "genai_config.json").read_text())
        return int(config["model"]["decoder"]["head_size"])
