"""``doctor``: what this machine can run. Measured facts first, predictions marked as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import env
from ..errors import InvalidArgumentError, TinyGPTVError
from . import options
from .cache import cache_facts, cache_line
from .fit import show_fit
from .models import local_directory
from .output import console, gigabytes, print_json, progress

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..diagnosis.machine import Machine
    from ..diagnosis.settings import Prediction


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="DIR|demo", help="Also say what this model needs.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Choose settings that fit this much memory: 4GB, 3.5GiB, 900MB.")
    ] = None,
    ttft: Annotated[
        str | None, typer.Option(metavar="TIME", help="... and answer a picture's first token in this time: 2s, 500ms.")
    ] = None,
    image_size: Annotated[
        Literal["224", "448"] | None, typer.Option(help="... of the model of stages 1-3 or of stage 4 (the default).")
    ] = None,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """What this machine can run: instruction sets, cores, memory, read bandwidth, GPU, and which settings fit.

    With --memory or --ttft: the settings with the least rounding that keep to both, what is predicted of them, what
    was measured here, and the commands that use them. With --model: of that model, as it is converted. --threads is
    then the most that may be used.

    The read bandwidth is measured (a second, half a gigabyte). Memory and speed limits of settings are predictions
    from sizes: no model is loaded and nothing is timed. But on a machine with a GPU, --model loads that model there
    and says what capturing its decode steps took.
    """
    if memory is not None or ttft is not None:
        show_fit(model, memory, ttft, image_size, threads, json_output, quiet)
        return
    if image_size is not None:
        raise InvalidArgumentError("--image-size is given without --memory or --ttft")
    import torch

    from .. import _native
    from ..diagnosis.machine import inspect_machine
    from ..diagnosis.settings import RELEASED, predict, reference_bytes

    config = _config(model) if model is not None else None
    with progress("measuring read bandwidth", quiet=quiet):
        machine = inspect_machine(threads or env.read_settings().threads)
    usable, bandwidth = machine.memory.usable_bytes, machine.read_bandwidth
    predictions = predict(RELEASED, usable_bytes=usable, read_bandwidth=bandwidth)
    data: dict[str, Any] = {
        "machine": machine.to_dict(),
        "torch_threads": torch.get_num_threads(),
        "torch_cuda": torch.cuda.is_available(),
        "backends": {
            "native": f"available, {env.read_settings().cpu_isa or _native.best_isa()}",
            "native on CUDA": _cuda_state(machine),
            "reference": "available",
        },
        "packed_cache": cache_facts(),
        "predictions": {
            "note": "computed from sizes and the measured bandwidth; limits, not measurements",
            "model": "TinyGPT-V, released sizes, 448 px",
            "settings": [prediction.to_dict() for prediction in predictions],
            "reference_backend_bytes": reference_bytes(RELEASED),
        },
    }
    if config is not None:
        data["model"] = _model_data(str(model), config, usable, bandwidth)
        if machine.gpus or env.read_settings().cuda_emulation:
            with progress("loading the model on the GPU", quiet=quiet):
                data["model"]["graphs"] = _graphs(str(model))
    if json_output:
        print_json("doctor", data)
    else:
        _show_machine(machine, data)
        _show_predictions(predictions, usable, reference_bytes(RELEASED))
        if config is not None:
            _show_model(data["model"])


def _config(model: str) -> ModelConfig:
    from ..checkpoint.directory import open_directory

    return open_directory(local_directory(model)).config


def _model_data(model: str, config: ModelConfig, usable: int, bandwidth: float | None) -> dict[str, Any]:
    from ..diagnosis.settings import predict_one, reference_bytes

    needed = reference_bytes(config)
    prediction = predict_one(config, usable_bytes=usable, read_bandwidth=bandwidth)
    return {
        "model": model,
        "setting": prediction.to_dict(),
        "reference_backend_bytes": needed,
        "reference_backend_fits": needed <= usable,
    }


def _graphs(model: str) -> dict[str, Any]:
    """What captured graphs of this model's decode steps took on the GPU, or under ``why_not`` why it does not run."""
    from ..generate.model import TinyGPTV

    try:
        with TinyGPTV.from_pretrained(local_directory(model), device="cuda", vision=False) as opened:
            info = opened.info
    except TinyGPTVError as error:
        return {"why_not": str(error)}
    if "graphs" not in info:
        return {"why_not": "TINYGPTV_CUDA_GRAPHS is 0"}
    return {"count": info["graphs"], "seconds": info["graph_seconds"], "bytes": info["graph_bytes"], "gpu": info["gpu"]}


def _graphs_line(graphs: dict[str, Any]) -> str:
    if "why_not" in graphs:
        return f"decode steps on the GPU: not captured, {graphs['why_not']}"
    return (
        f"decode steps on {graphs['gpu']}: {graphs['count']} captured graphs, made in {graphs['seconds']:.2f} s, "
        f"{graphs['bytes'] / 1e6:.1f} MB of its memory (measured)"
    )


def _show_machine(machine: Machine, data: dict[str, Any]) -> None:
    screen, memory = console(), machine.memory
    have = [name for name, there in machine.instruction_sets.items() if there]
    lack = [name for name, there in machine.instruction_sets.items() if not there]
    quota = f", limited to {machine.cpu_quota:g} by the control group" if machine.cpu_quota else ""
    limit = f", control group limit {gigabytes(memory.limit_bytes)}" if memory.limit_bytes is not None else ""
    gpu = "; ".join(map(_gpu_line, machine.gpus)) or f"none: {machine.cuda_why_not}"
    packages = ", ".join(f"{name} {version or 'missing'}" for name, version in machine.packages.items())
    lines = {
        "CPU": f"{machine.cpu or 'unnamed'}: {machine.physical_cores} cores, {machine.logical_cpus} logical{quota}",
        "has": " ".join(have) or "none of the instruction sets we use",
        "lacks": " ".join(lack) or "nothing",
        "threads": f"{machine.threads} by default (torch alone would take {data['torch_threads']})",
        "memory": f"{gigabytes(memory.total_bytes)}, {gigabytes(memory.usable_bytes)} free for us{limit}",
        "huge pages": memory.huge_pages,
        "reads": f"{(machine.read_bandwidth or 0) / 1e9:.1f} GB/s with {machine.threads} threads (measured)",
        "GPU": gpu,
        "native core": ", ".join(f"{key} {value}" for key, value in machine.native.items()),
        "backends": "; ".join(f"{name}: {state}" for name, state in data["backends"].items()),
        "packed cache": cache_line(data["packed_cache"]),
        "versions": f"Python {machine.python}, {packages}",
        "system": machine.platform,
    }
    for name, text in lines.items():
        screen.print(f"{name:<12} {text}", soft_wrap=True)


def _cuda_state(machine: Machine) -> str:
    """Why there is no GPU stands in the machine's own line."""
    if emulation := env.read_settings().cuda_emulation:
        return f"an emulation on the CPU, for tests: {emulation}"
    return "available, not proved on a GPU yet" if machine.gpus else "not available"


def _gpu_line(gpu: dict[str, Any]) -> str:
    major, minor = gpu["compute_capability"]
    memory, cache = gigabytes(gpu["memory_bytes"]), gigabytes(gpu["l2_bytes"])
    return f"{gpu['name']}, sm_{major}{minor}, {gpu['multiprocessors']} multiprocessors, {memory}, L2 {cache}"


def _show_predictions(predictions: list[Prediction], usable: int, reference: int) -> None:
    from rich.table import Table

    table = Table(title="Predicted for the released TinyGPT-V (448 px): limits, not measurements", title_justify="left")
    for heading in ("text", "vision", "file", "memory", "read per token", "limit tokens/s", "fits"):
        table.add_column(heading, justify="left" if heading in ("text", "vision", "fits") else "right")
    for one in predictions:
        limit = f"{one.decode_limit:.1f}" if one.decode_limit else "-"
        sizes = [gigabytes(size) for size in (one.file_bytes, one.memory_bytes, one.token_bytes)]
        table.add_row(one.text, one.vision, *sizes, limit, "yes" if one.fits else "no")
    screen = console()
    screen.print()
    screen.print(table)
    fits = "fits" if reference <= usable else "does not fit"
    screen.print(
        f"The limit is what the memory allows an engine that reads packed weights once per token. The reference "
        f"backend keeps float32 weights: {gigabytes(reference)}, which {fits}.",
        soft_wrap=True,
    )


def _show_model(data: dict[str, Any]) -> None:
    setting = data["setting"]
    fits = "fits" if data["reference_backend_fits"] else "does not fit"
    limit = f", limit {setting['decode_limit']:.0f} tokens/s" if setting["decode_limit"] else ""
    console().print(
        f"\n{data['model']}: text {setting['text']}, vision {setting['vision']}, "
        f"file {gigabytes(setting['file_bytes'])}{limit} (predicted); "
        f"reference backend {gigabytes(data['reference_backend_bytes'])}, which {fits}",
        soft_wrap=True,
    )
    if "graphs" in data:
        console().print(_graphs_line(data["graphs"]), soft_wrap=True)
