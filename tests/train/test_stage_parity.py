"""Parity of training with the original: what is trained, losses through the whole path from texts, gradients, weight
decay, the rate, and five steps of AdamW.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from golden_support import CASES, Case, load_case, sizes, text_name
from tinygptv_fast.errors import ConfigError, InvalidArgumentError
from tinygptv_fast.processing.templates import get_template
from tinygptv_fast.reference import TinyGPTVReference
from tinygptv_fast.train.stages.config import StageConfig, load_stage, read_stage_file
from tinygptv_fast.train.stages.examples import Example, Turn
from tinygptv_fast.train.stages.features import FrozenVision
from tinygptv_fast.train.stages.rows import RowMaker
from tinygptv_fast.train.stages.sharding import Shared
from tinygptv_fast.train.stages.step import Stepper
from tinygptv_fast.train.stages.trainable import decays, freeze, make_optimizer
from tinygptv_fast.train.stages.world import ALONE

STAGE = {"A_stage1": 1, "A_stage3": 3, "B_stage4": 4}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return load_case(request.param)


def ours(name: str) -> str:
    """Our name of an original's parameter, LoRA factors and projections included."""
    for number, source in (("1", "llama_proj."), ("2", "llama_proj2.")):
        if name.startswith(source):
            return f"projector.proj{number}." + name.removeprefix(source)
    return text_name(name)


def config_of(case: Case, **changes: Any) -> StageConfig:
    """The stage's own config with the golden sizes, no dropout and full precision."""
    build = case.info["build"]
    fixed = {"lora_rank": build["lora_r"], "lora_dropout": 0.0, "precision": "float32", "recompute": False}
    return load_stage(STAGE[case.name], "original", {**fixed, **changes})


def stepper(case: Case, config: StageConfig) -> Stepper:
    model = TinyGPTVReference(case.model.config, lora=config.lora, projector_hidden=sizes()["proj"])
    model.load_state_dict(copy.deepcopy(case.model.state_dict()))
    trained = freeze(model, config)
    rows = RowMaker(config, case.tokenizer, get_template("inst"), model.text)
    optimizer = make_optimizer(trained, config)
    return Stepper(config, model, rows, FrozenVision(model, None), trained, optimizer, Shared(ALONE, model))


def seen(run: Stepper, case: Case) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(run.model.qformer(run.model.ln_vision(run.model.vision(case.array("pixel_values")))))


def question_of(text: str) -> str:
    """The question inside a recorded prompt of either form."""
    text = text.removeprefix("###Human: ").removesuffix(" ###Assistant: ")
    return text.removeprefix("<Img><ImageHere></Img> ").removesuffix(" ")


def examples_of(run: Stepper, case: Case, entry: dict[str, Any]) -> list[Example]:
    samples = entry["samples"]
    pictures = seen(run, case) if "image" in samples else None
    if "conv_q" in samples:
        join = samples["connect_sym"][0]
        turns = [
            tuple(Turn(question_of(q), a) for q, a in zip(asked.split(join), said.split(join), strict=True))
            for asked, said in zip(samples["conv_q"], samples["conv_a"], strict=True)
        ]
    else:
        asked = samples.get("instruction_input") or [None] * len(samples["answer"])
        turns = [
            (Turn(None if q is None else question_of(q), a),) for q, a in zip(asked, samples["answer"], strict=True)
        ]
    if pictures is not None and len(turns) == 1:
        pictures = pictures[2:]  # the one single-row recording used the third picture
    return [Example(t, () if pictures is None else (pictures[i],)) for i, t in enumerate(turns)]


# (case, recorded loss) whose recorded prompts are in the stage's own training template
RECORDED = [
    ("A_stage1", "loss_no_prompt_stage1", {}),
    ("A_stage3", "loss_pair", {}),
    ("A_stage3", "loss_trunc", {"max_answer": 4}),
    ("A_stage3", "loss_newline_end", {"end_symbol": "\n"}),
    ("A_stage3", "loss_text_only", {}),
    ("A_stage3", "loss_ctx_truncated", {"max_context": 17}),
    ("A_stage3", "loss_prompt_list_stage3", {"prompts": ["Describe this image in detail."]}),
    ("B_stage4", "loss_stage4_template", {}),
    ("B_stage4", "loss_stage4_text_only", {}),
    ("B_stage4", "loss_stage4_conversation", {}),
]


@pytest.mark.parametrize(("name", "loss", "changes"), RECORDED, ids=[f"{c}-{n}" for c, n, _ in RECORDED])
@torch.no_grad()
def test_losses_from_texts(name: str, loss: str, changes: dict[str, Any]) -> None:
    case = load_case(name)
    entry = case.info["losses"][loss]
    run = stepper(case, config_of(case, **changes))
    rows = run.rows.rows(examples_of(run, case, entry), step=0)
    with torch.no_grad():
        batch = run.rows.batch(rows, run._visual(rows))
    assert batch.labels.tolist() == entry["labels"]
    assert batch.attention_mask.tolist() == entry["attention_mask"]
    torch.testing.assert_close(run.loss(rows), case.array(f"{loss}_loss"), rtol=1e-5, atol=0)


def test_trained_tensors_are_the_originals(case: Case) -> None:
    run = stepper(case, config_of(case))
    assert set(run.trained) == {ours(name) for name in case.info["trainable"]}


def test_weight_decay_groups(case: Case) -> None:
    run = stepper(case, config_of(case))
    with_decay = {name for name, p in run.trained.items() if decays(name, p)}
    assert with_decay == {ours(name) for name in case.info["weight_decay_names"]}
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.05, 0.0]
    assert run.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def pair(run: Stepper, case: Case) -> list[Any]:
    """The rows of ``loss_pair``, whose prompts the recorder wrote in full."""
    entry = case.info["losses"]["loss_pair"]
    pictures = seen(run, case)
    out = []
    for index, text in enumerate(entry["samples"]["instruction_input"]):
        answer = case.tokenizer.encode(entry["samples"]["answer"][index] + "###")
        row = run.rows.row(Example((Turn("x", "y"),), (pictures[index],)))
        ids, labels = run.rows.layout.answer(answer)
        out.append(dataclasses.replace(row, segments=case.segments(text), ids=ids, labels=labels))
    return out


def test_gradients(case: Case) -> None:
    run = stepper(case, config_of(case))
    run.loss(pair(run, case)).backward()
    golden = {ours(name): value for name, value in case.info["grad_l2"].items()}
    norms = {name: p.grad.norm().item() for name, p in run.trained.items() if p.grad is not None}
    assert norms == pytest.approx(golden, rel=2e-5)
    assert all(p.grad is None for name, p in run.model.named_parameters() if name not in run.trained)


def test_five_steps_of_adamw(case: Case) -> None:
    golden = case.info["adamw_losses"]
    # A constant rate: one long warm-up from the rate to itself.
    flat = {"init_lr": golden["lr"], "min_lr": golden["lr"], "warmup_steps": 0}
    config = config_of(case, weight_decay=golden["weight_decay"], betas=golden["betas"], **flat)
    run = stepper(case, config)
    rows = pair(run, case)
    run.rows.rows = lambda examples, step: rows  # type: ignore[method-assign]
    losses = [run.run(step, []).loss for step in range(len(golden["losses"]))]
    assert losses == pytest.approx(golden["losses"], rel=2e-5)


@pytest.mark.parametrize("changes", [{"accumulation": 2}, {"recompute": True}], ids=["accumulation", "recompute"])
def test_accumulation_and_recomputation_change_nothing(changes: dict[str, Any]) -> None:
    case = load_case("A_stage3")
    whole, other = stepper(case, config_of(case)), stepper(case, config_of(case, **changes))
    for run in (whole, other):
        rows = pair(run, case)
        for part in run._parts(rows):
            run.loss(part, run.rows.total_weight(rows)).backward()
    for name, parameter in whole.trained.items():
        torch.testing.assert_close(other.trained[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)


def test_rates_of_every_stage() -> None:
    first = load_stage(1, "paper")
    assert [first.lr(0), first.lr(1000), first.lr(16000)] == [1e-5] * 3  # anew in each of the 17 epochs
    assert first.lr(999) == pytest.approx(1e-4, rel=1e-2) and first.steps == 17_000
    again = load_stage(1, "original")
    assert again.steps == 85_000 and again.lr(0) == again.lr(5000) == 1e-6
    last = load_stage(4)
    assert last.lr(1000) < last.lr(25_000) < last.lr(49_999) < 8.001e-5  # min_lr above init_lr: the rate rises
    second = load_stage(2)
    assert second.lr(4999) == pytest.approx(1e-4, rel=1e-3) and second.lr(5000) < 1e-4
    assert load_stage(2, changes={"warmup_steps": 7000}).lr(5000) == 1e-6  # the original's warm-up, per epoch
    once = load_stage(2, changes={"warmup_steps": 7000, "per_epoch_warmup": False})
    assert once.lr(5000) == pytest.approx(1e-6 + (1e-4 - 1e-6) * 5 / 7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batchsize": 3}, r"unknown keys \['batchsize'\]"),
        ({"batch_size": 0}, "stage.batch_size is 0"),
        ({"init_lr": "high"}, "stage.init_lr is 'high'"),
        ({"template": "sing"}, "template is 'sing'"),
        ({"layout": "odd"}, "stage.layout is 'odd'"),
        ({"ratios": {"a": -1}}, "stage.ratios"),
        ({"frozen_dtype": "bfloat16", "precision": "float32"}, "stage.frozen_dtype"),
        ({"accumulation": 9, "batch_size": 3}, "stage.accumulation is 9, expected at most"),
    ],
)
def test_bad_configs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, InvalidArgumentError), match=words):
        load_stage(3, changes=changes)


@pytest.mark.parametrize("stage", [0, 5, "six", True])
def test_unknown_stages(stage: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected 1, 2, 3, 4 or 'finetune'"):
        read_stage_file(stage)


def test_square_root_weights_keep_short_answers_from_drowning() -> None:
    case = load_case("A_stage3")
    run = stepper(case, config_of(case, row_weight="sqrt"))
    rows = pair(run, case)
    with torch.no_grad():
        each = [stepper(case, config_of(case)).loss([row]).item() for row in rows]  # mean over each row's tokens
        both = run.loss(rows).item()
    roots = [row.learnt**0.5 for row in rows]
    expected = sum(root * loss for root, loss in zip(roots, each, strict=True)) / sum(roots)
    assert both == pytest.approx(expected, rel=1e-5)


def test_frozen_matrices_in_bfloat16_train_the_rest_in_float32() -> None:
    case = load_case("A_stage3")
    run = stepper(case, config_of(case, precision="bfloat16", frozen_dtype="bfloat16"))
    for name, parameter in run.model.text.named_parameters():
        if parameter.ndim == 2 and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
            assert f"text.{name}" not in run.trained
    loss = run.loss(pair(run, case))
    loss.backward()
    assert loss.item() == pytest.approx(case.info["losses"]["loss_pair"]["loss"], rel=0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in run.trained.values())
