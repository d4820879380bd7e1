"""llama.cpp through llama-cpp-python's low-level API, float16 keys and values, flash attention off.

Its 8-bit cache cannot run this geometry: with flash attention it refuses q8_0, because a block of 32 does not divide
the head dim of 80; without, it takes q8_0 for keys alone and the logits are NaN (version 0.3.36). Flash attention with
float16 was slower here.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp as lc
import numpy as np

from engines.base import Run, Timer
from layout import Prompt

_F16 = 1  # of ggml_type
_FLASH_OFF = 0
_UBATCH, _BATCH = 512, 2048  # the defaults


@lc.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    del level, text, data


class Engine:
    """Weights are mapped, and repacked into a second copy, which are the defaults."""

    def __init__(self, path: Path, threads: int, **_: Any) -> None:
        lc.llama_log_set(_silent, ctypes.c_void_p(0))
        lc.llama_backend_init()
        self._threads = threads
        self._model = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self._vocabulary = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))
        self._batch = lc.llama_batch_init(_BATCH, 0, 1)

    def generate(self, prompts: list[Prompt], new_tokens: int) -> Run:
        length, count = len(prompts[0].ids), len(prompts)
        context = self._context(count * (-(-(length + new_tokens) // 256) * 256), count)
        last = [(sequence + 1) * length - 1 for sequence in range(count)]
        self._fill_prompts(prompts, last)
        with Timer() as prefill:
            self._run(context)
            tokens = [self._best(context, row) for row in last]
        run = Run(prefill.seconds)
        for step in range(new_tokens - 1):
            with Timer() as timer:
                self._fill_step(tokens, length + step)
                self._run(context)
                tokens = [self._best(context, row) for row in range(count)]
            run.steps.append(timer.seconds)
        lc.llama_free(context)
        return run

    def logits(self, prompt: Prompt) -> np.ndarray:
        context = self._context(256, 1)
        self._fill_prompts([prompt], range(len(prompt.ids)))
        self._run(context)
        out = np.stack([self._row(context, row) for row in range(len(prompt.ids))])
        lc.llama_free(context)
        return out

    def about(self) -> dict[str, Any]:
        system = lc.llama_print_system_info().decode()
        return {"version": lc.__version__, "kv": "f16", "system": system}

    def _context(self, positions: int, sequences: int) -> Any:
        options = lc.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = positions, _BATCH, _UBATCH, sequences
        options.n_threads = options.n_threads_batch = self._threads
        options.flash_attn_type = _FLASH_OFF
        options.type_k = options.type_v = _F16
        options.no_perf = True
        context = lc.llama_init_from_model(self._model, options)
        if not context:
            raise SystemExit(f"llama.cpp cannot make a context of {positions} positions")
        return context

    def _fill_prompts(self, prompts: list[Prompt], wanted: Any) -> None:
        rows = [(token, at, sequence) for sequence, p in enumerate(prompts) for at, token in enumerate(p.ids)]
        self._fill(rows, set(wanted))

    def _fill_step(self, tokens: list[int], position: int) -> None:
        self._fill([(token, position, sequence) for sequence, token in enumerate(tokens)], set(range(len(tokens))))

    def _fill(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for row, (token, position, sequence) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = row in wanted

    def _run(self, context: Any) -> None:
        code = lc.llama_decode(context, self._batch)
        if code:
            raise SystemExit(f"llama_decode returned {code}")
        lc.llama_synchronize(context)

    def _row(self, context: Any, row: int) -> np.ndarray:
        values = lc.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(values, shape=(self._vocabulary,)).copy()

    def _best(self, context: Any, row: int) -> int:
        return int(np.argmax(self._row(context, row)))
