"""``verify``: is a model directory whole, and is it what its original files make?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import CheckpointError, InvalidArgumentError
from . import options
from .models import local_directory, use_threads
from .options import check_exists
from .output import console, print_json, progress

if TYPE_CHECKING:
    from ..checkpoint.directory import ModelDirectory
    from ..diagnosis.compare import Comparison
    from ..diagnosis.verify import TensorCheck, Verification
    from ..diagnosis.weights import OriginalSource, WeightSource

_EXACT_BOUND = 1e-4  # relative error of a layer's states when nothing was rounded


def verify(
    directory: Annotated[str, typer.Argument(metavar="DIR|demo", help="A directory written by 'tinygptv convert'.")],
    phi: Annotated[Path | None, typer.Option(metavar="DIR", help="The Phi directory it was made from.")] = None,
    vision: Annotated[Path | None, typer.Option(metavar="FILE", help="eva_vit_g.pth")] = None,
    qformer: Annotated[Path | None, typer.Option(metavar="FILE", help="blip2_pretrained_*.pth")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="TinyGPT-V_for_StageN.pth")] = None,
    architecture: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Sizes of a model other than the released one.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Compare with this directory instead of the original files."),
    ] = None,
    agreement: Annotated[
        bool,
        typer.Option(
            "--agreement", help="Measure how often both versions choose the same token; goes to quality.json."
        ),
    ] = False,
    pictures: Annotated[
        int, typer.Option(min=1, max=64, help="Drawn pictures in the calibration set, up to six questions each.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the calibration set.")] = 20_240_613,
    summary: Annotated[bool, typer.Option("--summary", help="Leave out the line per original key.")] = False,
    threads: options.Threads = None,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check a model directory: what became of every original key, all hashes, missing, extra and NaN tensors.

    With the original files (or --against another directory) also every weight and, layer by layer, the states on
    drawn pictures. One layer is in memory at a time. Exit code 2 if anything is wrong.
    """
    _check_arguments(phi, vision, qformer, checkpoint, architecture, against, agreement)
    from ..checkpoint.directory import open_directory
    from ..diagnosis.verify import verify_directory

    use_threads(threads)
    opened = open_directory(local_directory(directory))
    with progress("checking", quiet=quiet) as report:
        found = verify_directory(opened, report)
    checks: list[TensorCheck] = []
    compared: Comparison | None = None
    if found.ok and (phi is not None or against is not None):
        reference = _reference(opened, phi, vision, qformer, checkpoint, architecture, against)
        checks = _check_tensors(opened, reference, found, quiet)
        compared = _compare(opened, reference, pictures if agreement else 1, seed, quiet)
        _judge(opened, compared, found)
        if agreement and found.ok:
            _record(opened, compared)
    _show(found, checks, compared, agreement, summary, json_output)
    if not found.ok:
        more = f" (and {len(found.problems) - 1} more problems)" if len(found.problems) > 1 else ""
        raise CheckpointError(f"{found.path} failed: {found.problems[0]}{more}")


def _check_arguments(
    phi: Path | None,
    vision: Path | None,
    qformer: Path | None,
    checkpoint: Path | None,
    architecture: Path | None,
    against: Path | None,
    agreement: bool,
) -> None:
    check_exists("--phi", phi, directory=True)
    check_exists("--against", against, directory=True)
    files = {"--vision": vision, "--qformer": qformer, "--checkpoint": checkpoint, "--architecture": architecture}
    for option, path in files.items():
        check_exists(option, path)
        if path is not None and phi is None:
            raise InvalidArgumentError(f"{option} is given without --phi, expected all the original files")
    if phi is not None and against is not None:
        raise InvalidArgumentError("both --phi and --against are given, expected one of them")
    if agreement and phi is None and against is None:
        raise InvalidArgumentError(
            "--agreement needs the original files (--phi ...) or --against, expected one of them"
        )


def _reference(
    opened: ModelDirectory,
    phi: Path | None,
    vision: Path | None,
    qformer: Path | None,
    checkpoint: Path | None,
    architecture: Path | None,
    against: Path | None,
) -> WeightSource:
    from ..checkpoint.directory import open_directory
    from ..diagnosis.weights import DirectorySource, check_same_model, open_originals

    if against is not None:
        other = open_directory(against)
        check_same_model(opened.config, other.config, str(against))
        return DirectorySource(other)
    assert phi is not None  # for the type checker: one of the two is given
    return open_originals(opened, phi, vision, qformer, checkpoint, architecture)


def _check_tensors(
    opened: ModelDirectory, reference: WeightSource, found: Verification, quiet: bool
) -> list[TensorCheck]:
    from ..diagnosis.verify import verify_tensors
    from ..diagnosis.weights import OriginalSource

    if not isinstance(reference, OriginalSource):
        return []
    with progress("comparing weights", quiet=quiet) as report:
        checks = verify_tensors(opened, reference, report)
    for check in checks:
        if not check.ok:
            expected = "unknown" if check.expected is None else f"{check.expected:.3g}"
            found.problems.append(
                f"tensor {check.name} ({check.kind}) differs from the original files by {check.relative_l2:.3g} "
                f"(relative), expected {expected}"
            )
    _check_keys_again(reference, found)
    return checks


def _check_keys_again(reference: OriginalSource, found: Verification) -> None:
    """The ledger of the directory must be what these files give."""
    now = {(line["file"], line["tensor"]): line["status"] for line in reference.plan.ledger.lines.values()}
    then = {(line["file"], line["tensor"]): line["status"] for line in found.keys}
    if now != then:
        different = sorted(key for key in set(now) | set(then) if now.get(key) != then.get(key))
        found.problems.append(
            f"report.json and the original files differ in {len(different)} keys, the first is "
            f"{different[0][1]!r} of {different[0][0]}"
        )


def _compare(opened: ModelDirectory, reference: WeightSource, pictures: int, seed: int, quiet: bool) -> Comparison:
    from ..diagnosis.calibration import calibration_set
    from ..diagnosis.compare import compare
    from ..diagnosis.weights import DirectorySource
    from ..processing.image import ImageProcessor
    from ..processing.tokenizer import Tokenizer

    config = opened.config
    chosen = calibration_set(
        Tokenizer.from_file(opened.tokenizer_file),
        opened.template,
        query_tokens=config.qformer.queries if config.qformer is not None else None,
        pictures=pictures,
        seed=seed,
    )
    processor = ImageProcessor.from_dict(opened.preprocessor) if opened.preprocessor is not None else None
    with progress("comparing layers", quiet=quiet) as report:
        return compare(reference, DirectorySource(opened), chosen, processor, report)


def _judge(opened: ModelDirectory, compared: Comparison, found: Verification) -> None:
    exact = opened.config.quantization.text == "none" and opened.config.dtype == "float32"
    exact = exact and (opened.config.vision is None or opened.config.quantization.vision == "float32")
    bound = _EXACT_BOUND if exact else float("inf")
    for layer in compared.layers:
        if not layer.relative_l2 < bound:
            found.problems.append(
                f"states after {layer.name} differ by {layer.relative_l2:.3g} (relative), expected less than {bound:g}"
            )
            return


def _record(opened: ModelDirectory, compared: Comparison) -> None:
    from ..quantize.receipt import write_receipt

    write_receipt(opened.path / "quality.json", opened.quality.with_agreement(compared.agreement))


def _show(
    found: Verification,
    checks: list[TensorCheck],
    compared: Comparison | None,
    agreement: bool,
    summary: bool,
    json_output: bool,
) -> None:
    if json_output:
        data: dict[str, Any] = found.to_dict()
        if summary:
            del data["keys"]
        data["weights"] = [check.to_dict() for check in checks]
        data["layers"] = [layer.to_dict() for layer in compared.layers] if compared is not None else []
        data["agreement"] = compared.agreement.to_dict() if compared is not None and agreement else None
        print_json("verify", data)
        return
    screen = console()
    if not summary:
        _show_keys(found)
    counts = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in found.counts().items())
    screen.print(f"original keys: {counts}" if found.keys else "original keys: none recorded")
    screen.print(f"{found.tensors} tensors finite or named below, {found.hashes_checked} hashes checked")
    if checks:
        worst = max(checks, key=lambda check: check.relative_l2)
        good = sum(check.ok for check in checks)
        screen.print(
            f"weights: {good} of {len(checks)} as the original files make them; "
            f"largest rounding error {worst.relative_l2:.3g} (relative) in {worst.name}"
        )
    if compared is not None:
        screen.print("error of the states after each layer (relative, largest):")
        for layer in compared.layers:
            screen.print(f"  {layer.name:<24} {layer.relative_l2:10.3g} {layer.max_abs:10.3g}")
    if compared is not None and agreement:
        tokens, kl = compared.agreement.tokens(), compared.agreement.kl()
        screen.print(
            f"same token at {tokens.value:.1%} of {tokens.positions} positions "
            f"(95 %: {tokens.low:.1%}..{tokens.high:.1%}), KL {kl.value:.3g} nats; written to quality.json"
        )
    for text in found.notes:
        screen.print(f"note: {text}")
    for text in found.problems:
        screen.print(f"problem: {text}")
    if found.ok:
        screen.print(f"{found.path} is whole", style="green")


def _show_keys(found: Verification) -> None:
    for line in found.keys:
        what = line["target"] if "target" in line else line["reason"]
        shape = "x".join(map(str, line.get("shape", [])))
        print(f"{line['status']:<8} {line['file']}: {line['tensor']} [{shape}] -> {what}")
    for line in found.set_to_zero:
        print(f"zero     {line['target']}: {line['reason']}")
