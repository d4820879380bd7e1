"""Random Phis of transformers, the demo's backbone as one, and the settings that both sides are asked with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PhiConfig, PhiForCausalLM, StoppingCriteria

from tinygptv_fast.checkpoint.directory import open_directory
from tinygptv_fast.generate.loading import locate

V = 120
PAD = 0


def phi_config(**changes: Any) -> PhiConfig:
    """A small Phi; ids 3 and 5 end a row."""
    fields: dict[str, Any] = {
        "vocab_size": V,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "partial_rotary_factor": 0.5,
        "bos_token_id": 1,
        "eos_token_id": [3, 5],
        "pad_token_id": PAD,
    }
    return PhiConfig(**{**fields, **changes})


def random_phi(seed: int = 7, std: float = 0.3, **changes: Any) -> PhiForCausalLM:
    """Weights large enough to tell layouts and epsilons apart and to say something else at every token."""
    torch.manual_seed(seed)
    model = PhiForCausalLM(phi_config(**changes)).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=std)
    return model


class _RMSNorm(torch.nn.Module):
    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)
        self.variance_epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, C]."""
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def demo_phi() -> PhiForCausalLM:
    """The language model of the demo: transformers' Phi with q/k norms, and the original's norm after attention."""
    directory = open_directory(locate("demo", revision=None, token=None, cache_dir=None, local_files_only=True))
    text = directory.config.text
    config = PhiConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.width,
        intermediate_size=text.mlp_width,
        num_hidden_layers=text.layers,
        num_attention_heads=text.heads,
        max_position_embeddings=text.max_positions,
        partial_rotary_factor=text.rotary_dims / text.head_dim,
        layer_norm_eps=text.norm_eps,
        qk_layernorm=text.qk_norm,
        bos_token_id=directory.config.bos_token_id,
        eos_token_id=directory.config.eos_token_id,
        pad_token_id=PAD,
    )
    model = PhiForCausalLM(config).eval()
    state = {name: directory.dequantized(name).float() for name in directory.names() if name.startswith("text.")}
    if text.post_attention_norm:
        for index, layer in enumerate(model.model.layers):
            norm = _RMSNorm(state.pop(f"text.layers.{index}.attn.post_norm.weight"), text.rms_norm_eps)
            layer.post_layernorm = norm
            layer.self_attn.dense.register_forward_hook(lambda _module, _inputs, output, norm=norm: norm(output))
    model.load_state_dict(_hf_names(state, text.heads), strict=False)
    return model


def _hf_names(state: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    places = {
        "norm": "input_layernorm",
        "attn.out": "self_attn.dense",
        "attn.q_norm": "self_attn.q_layernorm",
        "attn.k_norm": "self_attn.k_layernorm",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("text.layers."):
            _, _, index, rest = name.split(".", 3)
            part, kind = rest.rsplit(".", 1)
            if part == "attn.qkv":
                for letter, rows in zip("qkv", tensor.unflatten(0, (heads, 3, -1)).unbind(1), strict=True):
                    out[f"model.layers.{index}.self_attn.{letter}_proj.{kind}"] = rows.flatten(0, 1)
            else:
                out[f"model.layers.{index}.{places[part]}.{kind}"] = tensor
        else:
            stem, kind = name.removeprefix("text.").rsplit(".", 1)
            top = {"embed": "model.embed_tokens", "final_norm": "model.final_layernorm", "head": "lm_head"}[stem]
            out[f"{top}.{kind}"] = tensor
    return out


# --- prompts ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Prompts:
    """input_ids [B, T] and attention_mask [B, T]."""

    ids: Tensor
    mask: Tensor | None

    def keywords(self) -> dict[str, Any]:
        return {"input_ids": self.ids} | ({} if self.mask is None else {"attention_mask": self.mask})


@cache
def prompts(kind: str, vocab: int = V) -> Prompts:
    """one: a row of 7. three: rows of 9. left, right: rows of 9, 4 and 6, padded to 9. holes: masked in the middle."""
    random = torch.Generator().manual_seed(3)
    rows = 1 if kind == "one" else 3
    ids = torch.randint(6, vocab, (rows, 7 if kind == "one" else 9), generator=random)
    if kind in ("one", "three"):
        return Prompts(ids, None)
    mask = torch.ones_like(ids)
    for row, gone in ((1, 5), (2, 3)):
        where = {"left": slice(0, gone), "right": slice(9 - gone, 9), "holes": slice(2, 2 + gone)}[kind]
        mask[row, where] = 0
    return Prompts(torch.where(mask == 1, ids, PAD), mask)


class FavourEven(LogitsProcessor):
    """A processor that only Python has."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [B, V] plus 2 for even ids, minus 1 for the id before."""
        scores = scores.clone()
        scores[:, ::2] += 2.0
        return scores.scatter_add(1, input_ids[:, -1:], torch.full((len(scores), 1), -1.0))


class StopAtSum(StoppingCriteria):
    """A criterion that only Python has: rows end when the last two ids sum to a multiple of 5."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """bool [B]."""
        return (input_ids[:, -2:].sum(1) % 5) == 0


@dataclass(frozen=True)
class Setting:
    """One call: prompts of a kind, as ids or embeddings, and keywords (made anew for each side)."""

    name: str
    prompts: str = "one"
    embeds: bool = False
    make: Callable[[], dict[str, Any]] = field(default=dict)
    route: str = ""  # the route it is known to take; empty: not said

    def keywords(self, model: Any) -> dict[str, Any]:
        """What ``generate`` of either side is called with. model: the torch one, for its embeddings."""
        given = prompts(self.prompts, model.config.vocab_size)
        keywords = given.keywords()
        if self.embeds:
            keywords["inputs_embeds"] = model.get_input_embeddings()(keywords.pop("input_ids")).detach()
        return {"max_new_tokens": 12, "do_sample": False, **keywords, **self.make()}


def _setting(name: str, prompts: str = "one", embeds: bool = False, route: str = "", **keywords: Any) -> Setting:
    return Setting(name, prompts, embeds, lambda: dict(keywords), route)


_SCORES = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
_KINDS = ("one", "three", "left", "right", "holes")


def settings() -> list[Setting]:
    """The grid; every one is greedy or searches with beams, so that both sides have one right answer."""
    out: list[Setting] = []
    for kind in _KINDS:
        native, loop = ("torch", "torch") if kind == "right" else ("native", "loop")
        out += [
            _setting(f"greedy-{kind}", kind, route=native),
            _setting(f"greedy-embeds-{kind}", kind, embeds=True, route=native),
            _setting(f"penalty-{kind}", kind, route=native, repetition_penalty=1.4),
            _setting(f"beams-{kind}", kind, route=loop, num_beams=3),
            _setting(f"scores-{kind}", kind, route=loop, **_SCORES),
            Setting(f"processor-{kind}", kind, False, lambda: {"logits_processor": [FavourEven()]}, loop),
            Setting(f"criterion-{kind}", kind, False, lambda: {"stopping_criteria": [StopAtSum()]}, loop),
        ]
    for embeds in (False, True):
        kind = "embeds" if embeds else "ids"
        out += [
            _setting(f"min-new-{kind}", "left", embeds, "native", min_new_tokens=8),
            # transformers 5 counts the padding of the prompt among the generated ids; the loop does it too
            _setting(f"min-new-penalty-{kind}", "left", embeds, min_new_tokens=8, repetition_penalty=0.8),
            _setting(f"min-length-{kind}", "left", embeds, "native", min_length=16),
            _setting(f"no-eos-{kind}", "left", embeds, "native", eos_token_id=[]),
            _setting(f"many-eos-{kind}", "left", embeds, "native", eos_token_id=list(range(3, 60))),
            _setting(f"beams-scores-{kind}", "left", embeds, "loop", num_beams=3, num_return_sequences=3, **_SCORES),
            _setting(f"no-cache-{kind}", "left", embeds, "native", use_cache=False, max_new_tokens=4),
        ]
    out += [
        _setting("eos-int", "three", route="native", eos_token_id=17),
        _setting("max-length", "three", route="native", max_new_tokens=None, max_length=15),
        _setting("one-token", "left", route="native", max_new_tokens=1),
        _setting("long", route="native", max_new_tokens=80, eos_token_id=[]),
        _setting("penalty-low", "left", route="native", repetition_penalty=0.6, eos_token_id=[]),
        _setting("bad-words", "left", route="loop", bad_words_ids=[[9], [11, 12]]),
        _setting("suppress", "left", route="loop", suppress_tokens=[2, 4, 6, 8, 10]),
        _setting("begin-suppress", "left", route="loop", begin_suppress_tokens=list(range(50))),
        _setting("no-repeat", "left", route="loop", no_repeat_ngram_size=2),
        _setting("forced-eos", "left", route="loop", forced_eos_token_id=3, eos_token_id=3),
        _setting("bias", "left", route="loop", sequence_bias=[[[20], 5.0], [[21, 22], -5.0]]),
        _setting("decay", "left", route="loop", exponential_decay_length_penalty=(2, 1.2), eos_token_id=3),
        _setting("renormalize", "left", route="loop", renormalize_logits=True),
        _setting("max-time", "left", route="loop", max_time=1000.0),
        _setting("guidance", "one", route="loop", guidance_scale=1.5),
        _setting(
            "beams-early", "left", route="loop", num_beams=4, early_stopping=True, eos_token_id=list(range(3, 30))
        ),
        _setting("beams-never", "left", route="loop", num_beams=2, early_stopping="never", length_penalty=2.0),
        _setting(
            "beams-short", "left", route="loop", num_beams=4, length_penalty=-1.0, eos_token_id=list(range(3, 20))
        ),
        _setting("beams-long", "one", route="loop", num_beams=5, max_new_tokens=40, eos_token_id=119),
        _setting("beams-min", "left", route="loop", num_beams=3, min_new_tokens=6, repetition_penalty=1.2),
        _setting("beams-returned", "three", route="loop", num_beams=4, num_return_sequences=4),
        _setting("beams-no-cache", "left", route="loop", num_beams=2, use_cache=False, max_new_tokens=4),
        _setting("lookup", "one", prompt_lookup_num_tokens=3, max_new_tokens=30, eos_token_id=[]),
        Setting(
            "prefix-allowed",
            "left",
            make=lambda: {"prefix_allowed_tokens_fn": lambda row, ids: [int(ids[-1] + i) % V for i in range(1, 9)]},
            route="loop",
        ),
    ]
    return out


# --- comparing --------------------------------------------------------------------------------------------------------
def call(model: Any, setting: Setting, source: Any) -> Any:
    """What ``generate`` of one side gives. source: the torch model."""
    torch.manual_seed(11)
    return model.generate(**setting.keywords(source))


def sequences_of(result: Any) -> Tensor:
    """int64 [B, n] of either form of result."""
    return result if isinstance(result, Tensor) else result.sequences


def score_difference(mine: Any, theirs: Any) -> float:
    """Greatest difference of scores, logits and sequence scores; infinite where only one of two is finite."""
    if isinstance(theirs, Tensor):
        return 0.0
    pairs = []
    for name in ("scores", "logits"):
        left, right = getattr(mine, name), getattr(theirs, name)
        assert (left is None) == (right is None) and len(left or ()) == len(right or ())
        pairs += list(zip(left or (), right or (), strict=True))
    if getattr(theirs, "sequences_scores", None) is not None:
        pairs.append((mine.sequences_scores, theirs.sequences_scores))
    worst = 0.0
    for left, right in pairs:
        finite = torch.isfinite(right)
        if not torch.equal(finite, torch.isfinite(left)):
            return float("inf")
        worst = max(worst, float((left - right)[finite].abs().max()))
    return worst
