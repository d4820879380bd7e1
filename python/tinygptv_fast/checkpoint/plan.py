"""From the original's files to a complete list of recipes: which tensor of the model is made from what.

``make_plan`` reads headers only. It returns only if every tensor of the model has a recipe and every tensor of every
file is accounted for.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ModelConfig, TextConfig
from ..errors import CheckpointError, InvalidArgumentError
from ..processing.tokenizer import Tokenizer
from .architecture import Architecture
from .ledger import Ledger
from .names import canonical_shapes, text_shapes
from .recipe import Recipe, add_lora, direct, ones, zeros
from .sources.phi import PhiSource
from .sources.qformer import open_qformer, qformer_recipes
from .sources.stage import StageSource
from .sources.vision import open_vision, vision_recipes
from .table import TableEntry

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Plan:
    """``config`` says nothing about storage yet; ``lora_rank`` is 0 without LoRA."""

    config: ModelConfig
    recipes: dict[str, Recipe]
    ledger: Ledger
    tokenizer_file: Path
    lora_rank: int = 0
    lora_alpha: float | None = None

    @property
    def folds(self) -> bool:
        """True if any text matrix is computed (LoRA) rather than copied."""
        return self.lora_rank > 0


def make_plan(
    phi: PathLike,
    vision: PathLike | None = None,
    qformer: PathLike | None = None,
    checkpoint: PathLike | None = None,
    *,
    architecture: Architecture,
    image_size: int | None = None,
    untrained: bool = False,
) -> Plan:
    """Plan a TinyGPT-V (all four given) or a text-only stock Phi (``phi`` alone).

    untrained: the model that stage 1 starts from: no ``checkpoint``; norms that no file has start at weight 1, bias 0,
    as in the original, and the projector at 0 (stage 1 draws it).

    Raises ``CheckpointError`` listing every missing, left-over or mis-shaped tensor.
    """
    ledger = Ledger()
    source = PhiSource.open(phi, ledger)
    _check_phi_sizes(source, architecture)
    tokenizer = _tokenizer(source.path)
    if vision is None and qformer is None and checkpoint is None:
        return _text_only(source, ledger, tokenizer)
    if untrained:
        return _untrained(source, vision, qformer, checkpoint, ledger, tokenizer, architecture, image_size)
    given = {"vision": vision, "qformer": qformer, "checkpoint": checkpoint}
    absent = [name for name, value in given.items() if value is None]
    if vision is None or qformer is None or checkpoint is None:
        raise InvalidArgumentError(f"{', '.join(absent)} not given; expected vision, qformer and checkpoint, or none")
    stage = StageSource.open(checkpoint, ledger)
    config = _model_config(source, stage, architecture, image_size)
    config = _with_original_token_ids(config, tokenizer)
    rank, alpha = _lora(stage, config.text, architecture, ledger)
    recipes = _tower(vision, qformer, config, architecture, ledger)
    recipes |= stage.projection_recipes(architecture.projection, config.text.width, architecture.qformer.width, ledger)
    recipes |= _text(source, stage, config.text, ledger)
    if rank:
        _fold_lora(recipes, stage, alpha / rank)
    _finish(recipes, config, ledger)
    return Plan(config, recipes, ledger, tokenizer, rank, alpha if rank else None)


def _text_only(source: PhiSource, ledger: Ledger, tokenizer: Path) -> Plan:
    text = dataclasses.replace(
        source.config.text,
        qk_norm=source.config.qk_layernorm or source.has_norm("attn.q_norm") or source.has_norm("attn.k_norm"),
        post_attention_norm=source.has_norm("attn.post_norm"),
    )
    config = ModelConfig(text=text, **_token_ids(source))
    recipes = _text(source, None, text, ledger)
    _finish(recipes, config, ledger)
    return Plan(config, recipes, ledger, tokenizer)


def _untrained(
    source: PhiSource,
    vision: PathLike | None,
    qformer: PathLike | None,
    checkpoint: PathLike | None,
    ledger: Ledger,
    tokenizer: Path,
    architecture: Architecture,
    image_size: int | None,
) -> Plan:
    if vision is None or qformer is None or checkpoint is not None:
        raise InvalidArgumentError("untrained is given, expected it with vision and qformer, and without checkpoint")
    config = _with_original_token_ids(_model_config(source, None, architecture, image_size), tokenizer)
    recipes = _tower(vision, qformer, config, architecture, ledger)
    recipes |= _text(source, None, config.text, ledger, untrained=True)
    for name, shape in canonical_shapes(config).items():
        if name.startswith("projector."):
            ledger.zero(name, "untrained: stage 1 draws it")
            recipes[name] = zeros(name, shape)
    _finish(recipes, config, ledger)
    return Plan(config, recipes, ledger, tokenizer)


def _model_config(
    source: PhiSource, stage: StageSource | None, architecture: Architecture, image_size: int | None
) -> ModelConfig:
    size = image_size if image_size is not None or stage is None else stage.image_size
    if size is None:
        said = "" if stage is None else f" and {stage.path} does not state it"
        raise InvalidArgumentError(
            f"image_size is not given{said}; expected 224 for stages 1-3 or 448 for stage 4 of the released model"
        )
    if type(size) is not int or size < architecture.vision.patch_size or size % architecture.vision.patch_size:
        raise InvalidArgumentError(
            f"image_size is {size!r}, expected a positive multiple of the patch size {architecture.vision.patch_size}"
        )
    return ModelConfig(
        text=dataclasses.replace(source.config.text, qk_norm=True, post_attention_norm=True),
        vision=dataclasses.replace(architecture.vision, image_size=size),
        qformer=architecture.qformer,
        stage=None if stage is None else stage.stage,
        **_token_ids(source),
    )


def _token_ids(source: PhiSource) -> dict[str, Any]:
    return {f"{name}_token_id": value for name, value in source.config.token_ids.items()}


def _with_original_token_ids(config: ModelConfig, tokenizer: Path) -> ModelConfig:
    """BOS and pad where the Phi config leaves them open: ``<|endoftext|>``, as the original takes from its tokenizer.

    BOS is never fed, but the original's repetition penalty and minimum length count it.
    """
    end_of_text = Tokenizer.from_file(tokenizer).token_id("<|endoftext|>")
    bos = end_of_text if config.bos_token_id is None else config.bos_token_id
    pad = bos if config.pad_token_id is None else config.pad_token_id
    return dataclasses.replace(config, bos_token_id=bos, pad_token_id=pad)


def _lora(stage: StageSource, text: TextConfig, architecture: Architecture, ledger: Ledger) -> tuple[int, float]:
    rank = stage.lora_rank(text, architecture.lora_rank, ledger)
    meant = architecture.lora_rank if architecture.lora_rank is not None else stage.settings.get("lora_r")
    if rank == 0 and meant != 0 and (stage.stage or 1) >= 2:
        raise CheckpointError(
            f"{stage.path} has no LoRA tensors, but stages 2-4 are trained with LoRA; "
            "if this run was not, pass an architecture with lora_r 0"
        )
    return rank, stage.alpha(architecture.lora_alpha)


def _tower(
    vision: PathLike, qformer: PathLike, config: ModelConfig, architecture: Architecture, ledger: Ledger
) -> dict[str, Recipe]:
    assert config.vision is not None  # for the type checker: _model_config always sets it
    if architecture.checkpoint_image_size % config.vision.patch_size:
        raise InvalidArgumentError(
            f"architecture.vit.checkpoint_image_size is {architecture.checkpoint_image_size}, "
            f"expected a multiple of patch_size {config.vision.patch_size}"
        )
    grid = architecture.checkpoint_image_size // config.vision.patch_size
    out = vision_recipes(open_vision(vision), config.vision, grid, architecture.checkpoint_depth, ledger)
    return out | qformer_recipes(open_qformer(qformer), architecture.qformer, config.vision.width, ledger)


def _text(
    source: PhiSource, stage: StageSource | None, text: TextConfig, ledger: Ledger, *, untrained: bool = False
) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    for name, shape in text_shapes(text).items():
        trained = stage.norms.get(name) if stage else None
        if trained is not None:
            recipes[name] = _trained(trained, name, shape, source, ledger)
            continue
        if stage and "norm." in name and name.endswith(".weight"):
            ledger.problem(
                f"{stage.path}: the trained weight of {name} {list(shape)} is missing; the file is incomplete"
            )
            continue
        recipe = source.recipe(name, shape, text, ledger)
        if recipe is None and name.endswith(("q_norm.bias", "k_norm.bias")):
            ledger.zero(name, "in neither file; the original leaves it at 0 (only weights are trained and saved)")
            recipe = zeros(name, shape)
        if recipe is None and untrained and name.endswith(("q_norm.weight", "k_norm.weight", "post_norm.weight")):
            ledger.zero(name, "untrained: a new norm, whose weight starts at 1")
            recipe = ones(name, shape)
        if recipe is None:
            ledger.problem(f"{source.path}: no tensor for {name}, expected {list(shape)}")
        else:
            recipes[name] = recipe
    return recipes


def _trained(entry: TableEntry, name: str, shape: tuple[int, ...], source: PhiSource, ledger: Ledger) -> Recipe:
    replaced = source.tensors.get(name)
    if replaced is not None and ledger.expect(replaced, shape, name):
        ledger.dropped(replaced, f"replaced by the trained tensor of {entry.path.name}")
    if not ledger.expect(entry, shape, name):
        return zeros(name, shape)  # never used: the fault is in the ledger
    ledger.loaded(entry, name)
    return direct(name, entry)


def _fold_lora(recipes: dict[str, Recipe], stage: StageSource, scale: float) -> None:
    for target, pair in stage.lora.items():
        if target in recipes and len(pair) == 2:
            recipes[target] = add_lora(recipes[target], pair["A"], pair["B"], scale)


def _finish(recipes: dict[str, Recipe], config: ModelConfig, ledger: Ledger) -> None:
    ledger.close()
    shapes = canonical_shapes(config)
    wrong = [name for name, shape in shapes.items() if name not in recipes or recipes[name].shape != shape]
    if wrong or set(recipes) != set(shapes):
        raise CheckpointError(
            f"internal: recipes do not match the model: {wrong or sorted(set(recipes) ^ set(shapes))}"
        )


def _check_phi_sizes(source: PhiSource, architecture: Architecture) -> None:
    text = source.config.text
    stated = {
        "hidden_size": text.width,
        "num_attention_heads": text.heads,
        "intermediate_size": text.mlp_width,
        "num_hidden_layers": text.layers,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_positions,
    }
    for name, value in (architecture.phi or {}).items():
        if name == "partial_rotary_factor":
            value, found = int(value * text.head_dim), text.rotary_dims
        elif name in stated:
            found = stated[name]
        else:
            raise InvalidArgumentError(f"architecture.phi has unknown key {name!r}, expected {sorted(stated)}")
        if value != found:
            raise CheckpointError(f"{source.path / 'config.json'}: {name} gives {found}, the architecture says {value}")


def _tokenizer(directory: Path) -> Path:
    """``tokenizer.json``, or the directory itself where it holds the older ``vocab.json`` and ``merges.txt``."""
    if (directory / "tokenizer.json").is_file():
        return directory / "tokenizer.json"
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return directory
    raise CheckpointError(f"{directory} has no tokenizer.json, nor vocab.json and merges.txt")
