"""OpenVINO GenAI's continuous batching pipeline (what its LLMPipeline runs on), one scheduler step at a time.

Options: kv 'u8' (its own default) | 'f16' | 'f32'. The logits come from the same file through a plain infer request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from engines.base import Run, Timer
from layout import Prompt

_BLOCK = 32  # positions of a block of its cache on CPU
_POSITIONS = 2304


class Engine:
    """The scheduler may take a whole prompt, or the prompts of a whole batch, in one step."""

    def __init__(self, path: Path, threads: int, kv: str = "u8", **_: Any) -> None:
        self._path, self._kv = path, kv
        self._properties = {
            "INFERENCE_NUM_THREADS": str(threads),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "KV_CACHE_PRECISION": kv,
        }
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = 2048
        scheduler.num_kv_blocks = _POSITIONS // _BLOCK
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(path), scheduler, "CPU", self._properties)
        self._next = 0

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new_tokens
        config.ignore_eos, config.do_sample = True, False
        handles = []  # a request whose handle is gone is cancelled
        for prompt in prompts:
            ids = openvino.Tensor(np.array([prompt.ids], dtype=np.int64))
            handles.append(self._pipeline.add_request(self._next, ids, config))
            self._next += 1
        with Timer() as prefill:
            self._pipeline.step()
        run = Run(prefill.seconds)
        while self._pipeline.has_non_finished_requests():
            with Timer() as timer:
                self._pipeline.step()
            run.steps.append(timer.seconds)
        if len(run.steps) != new_tokens - 1:
            raise SystemExit(f"OpenVINO took {len(run.steps)} steps after the prefill, expected {new_tokens - 1}")
        return run

    def logits(self, prompt: Prompt) -> np.ndarray:
        core = openvino.Core()
        model = core.compile_model(core.read_model(str(self._path / "openvino_model.xml")), "CPU", self._properties)
        request = model.create_infer_request()
        ids = np.array([prompt.ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "beam_idx": np.zeros(1, dtype=np.int32)}
        if any("position_ids" in value.names for value in model.inputs):
            feeds["position_ids"] = np.arange(ids.shape[1], dtype=np.int64)[None]
        request.infer(feeds)
        return request.get_output_tensor(0).data[0].astype(np.float32)

    def about(self) -> dict[str, Any]:
        return {"version": openvino.__version__, "genai": openvino_genai.__version__, "kv": self._kv}
