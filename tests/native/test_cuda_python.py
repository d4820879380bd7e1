"""``device="cuda"`` from Python, over the CUDA library compiled for the CPU: the ids of the CPU's engine, and every
refusal. What a GPU does to the same calls no test here says."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import tinygptv_fast as tgv
from engine_support import Answer, ask, nothing_left
from golden_support import convert_case
from model.support import Stored, put, random_backbone, small_config, stored_tensors
from tinygptv_fast import _native
from tinygptv_fast.checkpoint.directory import TEMPLATE_KEY, open_directory
from tinygptv_fast.conversion.writing import write_model
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.showcase import SHOWCASE_SIDE, showcase
from tinygptv_fast.engine.cuda import MemoryPlan, choose_cuda_forms, plan_memory
from tinygptv_fast.engine.forms import Forms, Matrix
from tinygptv_fast.engine.native_backend import kv_token_bytes
from tinygptv_fast.errors import CapacityError, CheckpointError, InvalidArgumentError, TinyGPTVError, UnsupportedError
from tinygptv_fast.generate.loading import locate
from tinygptv_fast.processing.image import ImageProcessor

VARIABLE = "TINYGPTV_CUDA_EMULATION"
CONFIG = small_config(width=128, heads=2, head_dim=64, rotary_dims=32, mlp_width=192, layers=2, max_positions=192)
pytestmark = pytest.mark.filterwarnings("ignore:.*emulation on the CPU:RuntimeWarning")
SMALL = {"max_sequences": 2, "kv_tokens": 512, "threads": 1}


@pytest.fixture(scope="module")
def library(cpp_build: Path) -> str:
    return str(cpp_build / "csrc" / "tests" / "libtinygptv_cuda_emulated.so")


def locate_demo() -> Path:
    return locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True)


@pytest.fixture
def emulated(library: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, library)
    return library


# --- engines over the same random weights -----------------------------------------------------------------------------
def forms_of(kind: str, embedding: str, group_size: int = 32, symmetric: bool = True) -> dict[str, object]:
    matrix = (kind, group_size, symmetric)
    return {"body": matrix, "head": matrix, "embedding": embedding}


def fill(weights: _native.Weights | _native.CudaWeights, tensors: dict[str, Stored]) -> None:
    for name, tensor in tensors.items():
        if isinstance(weights, _native.Weights):
            put(weights, f"text.{name}", tensor)
        else:
            put(_WithoutThreads(weights), f"text.{name}", tensor)  # type: ignore[arg-type]


class _WithoutThreads:
    """A GPU's weights under the calls of the CPU's, which say with how many threads they are packed."""

    def __init__(self, weights: _native.CudaWeights) -> None:
        self._weights = weights

    def __getattr__(self, name: str) -> Callable[..., None]:
        call = getattr(self._weights, name)
        return lambda *values, threads=0: call(*values)


def on_cuda(library: str, forms: dict[str, object], tensors: dict[str, Stored], kv_kind: str) -> _native.Engine:
    weights = _native.CudaWeights(dataclasses.asdict(CONFIG), forms, "test", emulation=library)
    fill(weights, tensors)
    return _native.Engine(weights, kv_kind=kv_kind, threads=1, max_sequences=2, kv_tokens=512)


def exact_on_cpu() -> _native.Engine:
    weights = _native.Weights(dataclasses.asdict(CONFIG), forms_of("f32", "f32"), "test")
    fill(weights, stored_tensors(random_backbone(CONFIG), "f32"))
    return _native.Engine(weights, kv_kind="f32", threads=1, max_sequences=2, kv_tokens=512)


def some_ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count).astype(np.int32)


def logits_of(engine: _native.Engine, ids: np.ndarray) -> np.ndarray:
    request, out = engine.submit_logits(ids, None), []
    while True:
        for event in engine.next(request, 60.0):
            if event[0] == "logits":
                out.append(event[1])
            elif event[0] == "done":
                return np.concatenate(out)


def test_the_exact_mode_says_what_the_cpu_says(library: str) -> None:
    cpu = exact_on_cpu()
    cuda = on_cuda(library, forms_of("f32", "f32"), stored_tensors(random_backbone(CONFIG), "f32"), "f32")

    def answers(engine: _native.Engine) -> list[Answer]:
        return [
            ask(engine, some_ids(40), None, max_new_tokens=8),
            ask(engine, some_ids(40), None, max_new_tokens=8, temperature=1.0, seed=7, samples=2),
        ]

    for expected, found in zip(answers(cpu), answers(cuda), strict=True):
        assert found.ids == expected.ids
        for sample, logprobs in expected.logprobs.items():
            np.testing.assert_allclose(found.logprobs[sample], logprobs, atol=1e-4)
    nothing_left(cuda)


HALF, BFLOAT = 2.0**-11, 2.0**-8
INT8 = 2.7 / 254  # half a level of a row whose largest number is 2.7 of its root mean square
PAGE = {"f16": HALF, "bf16": BFLOAT, "int8": INT8, "f32": 0.0}


def roundings_on_cuda(kv_kind: str, weights: float = 0.0) -> float:
    """How far the roundings of a step move its logits at most, relative to their deviation, as half_tolerance in
    csrc/tests/cuda_decoder_test.cc has it: these models keep norms, so what each rounding moves adds up. Of a layer:
    the normed row, attention's output, the GELU and four biases in f16, q and the weights of attention, K and V in
    pages, and four matrices by ``weights`` each; the last norm, the head's bias, the head."""
    query = BFLOAT if kv_kind == "bf16" else HALF
    return CONFIG.layers * (7 * HALF + 2 * query + 2 * PAGE[kv_kind] + 4 * weights) + 2 * HALF + weights


def roundings_on_cpu() -> float:
    """The same of the CPU over f32 pages: the rows that its products of quantised matrices round to 8 bits."""
    return CONFIG.layers * 3 * INT8 + INT8  # the normed row, attention's output, the GELU; the last norm


def logits_on_cpu(forms: dict[str, object], tensors: dict[str, Stored], ids: np.ndarray) -> np.ndarray:
    weights = _native.Weights(dataclasses.asdict(CONFIG), forms, "test")
    fill(weights, tensors)
    return logits_of(_native.Engine(weights, kv_kind="f32", threads=1, max_sequences=2, kv_tokens=512), ids)


def check_beside_the_cpu(
    library: str, forms: dict[str, object], tensors: dict[str, Stored], kv_kind: str, bound: float
) -> None:
    """Over the same stored weights; ``bound`` in deviations of the logits."""
    ids = some_ids(24)
    expected = logits_on_cpu(forms, tensors, ids)
    difference = np.abs(logits_of(on_cuda(library, forms, tensors, kv_kind), ids) - expected).max() / expected.std()
    assert difference < bound, (difference, bound)


@pytest.mark.parametrize(
    ("group_size", "symmetric", "kv_kind"), [(32, True, "int8"), (64, False, "f16"), (128, False, "bf16")]
)
def test_int4_is_as_close_as_on_the_cpu(library: str, group_size: int, symmetric: bool, kv_kind: str) -> None:
    """Activations are rounded to f16 here and to 8 bits there, K and V here, and of a prompt the weights here."""
    tensors = stored_tensors(random_backbone(CONFIG), "int4", group_size, symmetric)
    forms = forms_of("int4", "int8", group_size, symmetric)
    check_beside_the_cpu(library, forms, tensors, kv_kind, roundings_on_cuda(kv_kind, HALF) + roundings_on_cpu())


@pytest.mark.parametrize("kv_kind", ["int8", "f16"])
def test_int8_is_as_close_as_on_the_cpu(library: str, kv_kind: str) -> None:
    tensors = stored_tensors(random_backbone(CONFIG), "int8")
    bound = roundings_on_cuda(kv_kind) + roundings_on_cpu()
    check_beside_the_cpu(library, forms_of("int8", "int8"), tensors, kv_kind, bound)


def test_int4_with_an_int8_head(library: str) -> None:
    """As quality receipts may ask for it."""
    backbone = random_backbone(CONFIG)
    tensors = stored_tensors(backbone, "int4") | {"head.weight": stored_tensors(backbone, "int8")["head.weight"]}
    forms = forms_of("int4", "int8") | {"head": ("int8", 32, True)}
    check_beside_the_cpu(library, forms, tensors, "f16", roundings_on_cuda("f16", HALF) + roundings_on_cpu())


def test_bfloat16_weights(library: str) -> None:
    """Beside the exact CPU over the same rounded weights, as float32 and as codes."""
    tensors = {
        name: tensor.bfloat16().float() if tensor.ndim == 2 else tensor  # type: ignore[union-attr]
        for name, tensor in stored_tensors(random_backbone(CONFIG), "f32").items()
    }
    ids = some_ids(24)
    expected = logits_on_cpu(forms_of("f32", "f32"), tensors, ids)
    found = logits_of(on_cuda(library, forms_of("bf16", "bf16"), tensors, "f16"), ids)
    assert np.abs(found - expected).max() < roundings_on_cuda("f16") * expected.std()


def test_float16_weights(library: str) -> None:
    """Rounded by the loader from float32, the embedding too."""
    tensors = stored_tensors(random_backbone(CONFIG), "f32")
    ids = some_ids(24)
    found = logits_of(on_cuda(library, forms_of("f16", "f16"), tensors, "f16"), ids)
    expected = logits_of(exact_on_cpu(), ids)
    assert np.abs(found - expected).max() < (roundings_on_cuda("f16", HALF) + HALF) * expected.std()


# --- the facade -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exact(library: str) -> Iterator[tuple[tgv.TinyGPTV, tgv.TinyGPTV]]:
    """The shipped demo model, dequantised: on the CPU and on the emulation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, library)
        with (
            tgv.TinyGPTV.from_pretrained("demo", dtype="float32", **SMALL) as cpu,
            tgv.TinyGPTV.from_pretrained("demo", dtype="float32", device="cuda", **SMALL) as cuda,
        ):
            yield cpu, cuda


def test_pictures_and_questions_end_to_end(exact: tuple[tgv.TinyGPTV, tgv.TinyGPTV]) -> None:
    cpu, cuda = exact
    example = showcase(1)
    picture = draw(example.scene, SHOWCASE_SIDE)
    requests = [{"image": picture, "prompt": one.prompt, "task": one.task} for one in example.questions[:2]]
    expected, found = (model.generate_batch(requests) for model in (cpu, cuda))
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]  # type: ignore[union-attr]
    assert [one.text for one in found] == [one.text for one in expected]  # type: ignore[union-attr]


def test_pictures_with_offloaded_weights(emulated: str, exact: tuple[tgv.TinyGPTV, tgv.TinyGPTV]) -> None:
    example = showcase(1)
    asked = {"image": draw(example.scene, SHOWCASE_SIDE), "prompt": example.questions[0].prompt}
    with tgv.TinyGPTV.from_pretrained(
        "demo", device="cuda", dtype="float32", vision_device="offload", **SMALL
    ) as offloaded:
        assert offloaded.info["vision_device"] == "offload"
        assert offloaded.generate(**asked).token_ids == exact[1].generate(**asked).token_ids


def test_info_says_what_it_runs_on(exact: tuple[tgv.TinyGPTV, tgv.TinyGPTV]) -> None:
    cpu, cuda = exact
    for name in ("device", "vision_device"):
        assert (cpu.info[name], cuda.info[name]) == ("cpu", "cuda")
    assert "emulation" in cuda.info["gpu"] and cuda.info["weights_mapped"] is False
    assert cuda.stats()["weight_bytes"] == cuda.info["weights_bytes"]
    assert cuda.info["arena_bytes"] > 0
    assert cuda.info["graphs"] == 4 and cuda.info["graph_seconds"] > 0  # of 1 row and 2, with draws and without
    assert "graphs" not in cpu.info


def test_the_demo_as_it_is_stored(emulated: str) -> None:
    """int4 weights, an int8 embedding, int8 keys and values: the text of the CPU's answer, whose rounding differs."""
    example = showcase(2)
    picture, question = draw(example.scene, SHOWCASE_SIDE), example.questions[0]
    with pytest.warns(RuntimeWarning, match="emulation on the CPU, for tests"):
        cuda = tgv.TinyGPTV.from_pretrained("demo", device="cuda", **SMALL)
    with cuda:
        found = cuda.generate(picture, question.prompt, task=question.task)
    with tgv.TinyGPTV.from_pretrained("demo", **SMALL) as cpu:
        assert found.text == cpu.generate(picture, question.prompt, task=question.task).text


@pytest.fixture
def rewritten(tmp_path: Path) -> Callable[..., Path]:
    """The shipped demo model's directory, its weights stored otherwise."""
    demo = open_directory(locate_demo())

    def write(quantization: str, dtype: str) -> Path:
        stored = dataclasses.replace(demo.config.quantization, text=quantization)
        config = dataclasses.replace(demo.config, quantization=stored, dtype=dtype)
        vision = config.vision
        assert vision is not None
        tensors = {name: demo.dequantized(name).float() for name in demo.names()}
        image = ImageProcessor(vision.image_size).to_dict()
        settings = json.loads((locate_demo() / "generation_config.json").read_text(encoding="utf-8"))
        template = settings[TEMPLATE_KEY]
        write_model(tmp_path / "model", config, tensors, locate_demo(), image, {"max_new_tokens": 128}, template)
        return tmp_path / "model"

    return write


@pytest.mark.parametrize(
    ("quantization", "dtype", "held"), [("int8", "float32", "int8"), ("none", "bfloat16", "bfloat16")]
)
def test_directories_of_other_forms(
    emulated: str, rewritten: Callable[..., Path], quantization: str, dtype: str, held: str
) -> None:
    """The text of the CPU's answer, from the same directory."""
    path = rewritten(quantization, dtype)
    example = showcase(2)
    picture, question = draw(example.scene, SHOWCASE_SIDE), example.questions[0]
    with tgv.TinyGPTV.from_pretrained(path, device="cuda", **SMALL) as cuda:
        assert cuda.info["dtype"] == held
        found = cuda.generate(picture, question.prompt, task=question.task)
    with tgv.TinyGPTV.from_pretrained(path, **SMALL) as cpu:
        assert found.text == cpu.generate(picture, question.prompt, task=question.task).text


# --- memory -----------------------------------------------------------------------------------------------------------
def test_memory_is_known_before_it_is_taken(library: str) -> None:
    forms, config = forms_of("f32", "f32"), dataclasses.asdict(CONFIG)
    plan = _native.cuda_memory_plan(config, forms, kv_kind="f32", kv_tokens=512, max_sequences=2, emulation=library)
    engine = on_cuda(library, forms, stored_tensors(random_backbone(CONFIG), "f32"), "f32")
    taken = engine.metrics()
    logits = 4 * 2 * 8 * CONFIG.vocab_size  # of 2 sequences and 7 drafted ids each, pinned on the host
    assert plan["weights_bytes"] == taken["weight_bytes"]
    assert plan["arena_bytes"] + logits == taken["arena_bytes"]
    assert taken["kv_bytes"] <= plan["kv_bytes"] < taken["kv_bytes"] + 8192
    assert plan["pinned_bytes"] > logits


def test_what_does_not_fit_says_what_would(emulated: str) -> None:
    with pytest.raises(CapacityError, match=r"bytes of weights, .* positions .* are free; kv_tokens=\d+ would fit"):
        tgv.TinyGPTV.from_pretrained("demo", device="cuda", kv_tokens=1 << 26, kv_dtype="float32")


def test_the_cache_takes_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full contexts where they fit, else nine tenths of what weights and arena leave, but one context at least."""
    text = small_config(max_positions=1024)
    token_bytes = kv_token_bytes(text, "f16")
    forms = Forms(Matrix("int4", 32, True), Matrix("int4", 32, True), "int8")

    def tokens(room: int, kv_tokens: int | None = None) -> int:
        def plan(*_: object, kv_tokens: int, **_more: object) -> dict[str, int]:
            sizes = {"weights_bytes": 1000, "kv_bytes": kv_tokens * token_bytes, "arena_bytes": 500, "pinned_bytes": 1}
            return {**sizes, "free_bytes": 1500 + room * token_bytes, "total_bytes": 1 << 40}

        monkeypatch.setattr(_native, "cuda_memory_plan", plan)
        return plan_memory(text, forms, kv_kind="f16", kv_tokens=kv_tokens, max_sequences=4).kv_tokens

    assert tokens(10_000) == 4096
    assert tokens(2000) == 1808  # whole pages: 0.9 of 2000 is 1800
    assert tokens(1040) == 1024
    assert tokens(2000, 2000) == 2000
    with pytest.raises(CapacityError, match="kv_tokens=1008 would fit"):
        tokens(1010)
    with pytest.raises(CapacityError, match="not even one page"):
        tokens(3)


def test_a_full_gpu_has_no_advice_about_positions() -> None:
    plan = MemoryPlan(900, 200, 200, 0, 1000, 4000, kv_tokens=32, token_bytes=5)
    assert not plan.fits and plan.affordable_tokens == 0
    assert "not even one page" in plan.advice() and "of the GPU's 4000 bytes 1000 are free" in plan.sizes()


@pytest.mark.parametrize("what", ["CudaWeights", "Engine"])
def test_memory_that_somebody_took_meanwhile(emulated: str, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise CapacityError("cannot have 5 bytes of GPU memory")

    monkeypatch.setattr(_native, what, refuse)
    with pytest.raises(CapacityError, match=r"cannot have 5 bytes.*when this was planned: needed are \d+ bytes"):
        tgv.TinyGPTV.from_pretrained("demo", device="cuda", vision=False, **SMALL)


# --- refusals ---------------------------------------------------------------------------------------------------------
def test_float16_stays_float16(tmp_path: Path) -> None:
    forms = choose_cuda_forms(open_directory(convert_case("A_stage1", tmp_path / "half", dtype="float16")), "auto")
    assert (forms.body.kind, forms.head.kind, forms.embedding) == ("f16", "f16", "f16")
    assert (forms.dtype, forms.kv_dtype("auto")) == ("float16", "float16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load": "mmap"}, "load is not available with device 'cuda'"),
    ],
)
def test_what_cuda_has_not_is_refused(emulated: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        tgv.TinyGPTV.from_pretrained("demo", device="cuda", **settings)  # type: ignore[arg-type]


def test_a_model_of_other_sizes_is_refused(emulated: str, tmp_path: Path) -> None:
    path = convert_case("A_stage1", tmp_path / "model")
    with pytest.raises(UnsupportedError, match="head_dim is 20"):
        tgv.TinyGPTV.from_pretrained(path, device="cuda")


def test_tensors_that_do_not_fit_are_refused(library: str) -> None:
    config, forms = dataclasses.asdict(CONFIG), forms_of("int4", "int8", 32, False)
    weights = _native.CudaWeights(config, forms, "test", emulation=library)
    levels, scales = np.zeros((192, 64), np.uint8), np.ones((192, 4), np.float16)
    with pytest.raises(InvalidArgumentError, match="given without zeros"):
        weights.put_int4("text.layers.0.mlp.fc1", levels, scales)
    zeros = np.zeros((192, 2), np.uint8)
    with pytest.raises(InvalidArgumentError, match="scales"):
        weights.put_int4("text.layers.0.mlp.fc1", levels, scales[:, :3], zeros)
    with pytest.raises(InvalidArgumentError, match="embedding has no int4 form"):
        weights.put_int4("text.embed", levels, scales, zeros)
    with pytest.raises(InvalidArgumentError, match="was never put"):
        _native.Engine(weights, kv_kind="f16", kv_tokens=64)
    with pytest.raises(InvalidArgumentError, match="'int4', 'int8', 'bf16', 'f16' or 'f32' on a GPU"):
        _native.CudaWeights(config, forms_of("int3", "int8"), "test", emulation=library)


def test_only_an_emulation_is_taken_for_one(tmp_path: Path) -> None:
    config, forms = dataclasses.asdict(CONFIG), forms_of("f32", "f32")
    with pytest.raises(TinyGPTVError, match="emulation cannot be loaded"):
        _native.CudaWeights(config, forms, "test", emulation=str(tmp_path / "none.so"))
    with pytest.raises(TinyGPTVError, match="of another version"):
        _native.CudaWeights(config, forms, "test", emulation=str(_native.__file__))


def test_without_a_gpu_there_is_one_error_and_no_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is looked at: the directory is not there."""
    why_not = _native.cuda_why_not()
    if not why_not:  # where there is a GPU, as if there were none
        why_not = "planted"
        monkeypatch.setattr(_native, "cuda_why_not", lambda: why_not)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UnsupportedError) as caught:
        tgv.TinyGPTV.from_pretrained("nowhere", device="cuda")
    assert str(caught.value) == f"device is 'cuda', but it cannot be used: {why_not}"
    if why_not != "planted":
        with pytest.raises(UnsupportedError, match=re.escape(why_not)):
            _native.CudaWeights(dataclasses.asdict(CONFIG), forms_of("f32", "f32"), "test")
    with pytest.raises(CheckpointError, match="does not exist"):
        tgv.TinyGPTV.from_pretrained("nowhere", device="cpu")


def test_the_cpu_never_imports_the_cuda_side() -> None:
    code = (
        "import sys, tinygptv_fast as tgv\n"
        "tgv.TinyGPTV.from_pretrained('demo', vision=False, kv_tokens=512).close()\n"
        "assert 'tinygptv_fast.engine.cuda' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
