"""Every tensor of the original's files is loaded, folded or dropped for a reason; anything else is named."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from original_files import Edit, Originals, Tensors
from tinygptv_fast.checkpoint.architecture import Architecture, read_architecture
from tinygptv_fast.checkpoint.plan import make_plan
from tinygptv_fast.checkpoint.sources.phi import canonical
from tinygptv_fast.errors import CheckpointError, ConfigError, InvalidArgumentError, UnsupportedError

TEXT = "llama_model.base_model.model.model"


@pytest.fixture
def originals(golden_dir: Path, tmp_path: Path) -> Callable[..., Originals]:
    folders = (tmp_path / f"files{index}" for index in itertools.count())  # a mapped file must not be rewritten
    return lambda **edits: Originals(golden_dir, next(folders), **edits)


def test_every_tensor_of_every_file_is_in_the_account(originals: Any) -> None:
    files = originals()
    plan = files.plan()
    held = [len(files.tensors(name)) for name in ("phi", "vision", "qformer", "stage")]
    assert len(plan.ledger.lines) == sum(held)
    assert {line["status"] for line in plan.ledger.lines.values()} == {"loaded", "folded", "dropped"}
    assert all(line.get("reason") for line in plan.ledger.lines.values() if line["status"] == "dropped")
    folded = sorted(line["tensor"] for line in plan.ledger.lines.values() if line["status"] == "folded")
    assert sum("lora_" in key for key in folded) == 12
    assert sum("llama_proj" in key for key in folded) == 4
    assert not plan.ledger.defaults
    assert (plan.lora_rank, plan.lora_alpha, plan.config.stage) == (8, 16.0, 3)


def test_dropped_tensors_are_the_known_ones(originals: Any) -> None:
    plan = originals().plan()
    dropped = {line["tensor"] for line in plan.ledger.lines.values() if line["status"] == "dropped"}
    replaced = {key for key in dropped if "layernorm.weight" in key}
    assert len(replaced) == 4 * 3 + 1  # input, post, q, k of three layers and the final norm: trained in the stage file
    rest = dropped - replaced
    assert {re.sub(r"\d+", "N", key).split(".")[0] for key in rest} == {
        "blocks", "norm", "head", "tN_proj", "Qformer",
    }  # fmt: skip
    assert {key.split(".")[1] for key in rest if key.startswith("blocks")} == {"3"}


def test_a_base_directory_without_norms_gets_them_from_the_stage_file(originals: Any) -> None:
    plan = originals(phi_name="phi_base_bin", stage_name="TinyGPT-V_for_Stage4.pth").plan(112)
    zeros = {item["target"] for item in plan.ledger.defaults}
    assert zeros == {f"text.layers.{i}.attn.{q}_norm.bias" for i in range(3) for q in "qk"}
    assert torch.equal(plan.recipes["text.layers.1.attn.q_norm.bias"].all(), torch.zeros(20))


def test_both_lora_namings_give_the_same_model(originals: Any) -> None:
    names = "TinyGPT-V_for_Stage4.pth", "TinyGPT-V_for_Stage4_peft_default_names.pth"
    first, second = (originals(phi_name="phi_base_bin", stage_name=name).plan(112) for name in names)
    for name, recipe in first.recipes.items():
        assert torch.equal(recipe.all(), second.recipes[name].all()), name


def rename(pattern: str, replacement: str) -> Edit:
    def edit(tensors: Tensors) -> None:
        for key in list(tensors):
            tensors[re.sub(pattern, replacement, key)] = tensors.pop(key)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        rename(r"llama_model\.base_model\.model\.", "llama_model."),
        rename(r"\.lora_([AB])\.weight", r".lora_\1.default.weight"),
        lambda t: t.update({f"{TEXT}.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
        lambda t: t.update({k: v.bfloat16() for k, v in list(t.items()) if v.is_floating_point()}),
        lambda t: t.update({k: v.half() for k, v in list(t.items()) if v.is_floating_point()}),
    ],
    ids=["no peft prefix", "default names", "rotary buffer", "bfloat16", "float16"],
)
def test_spellings_of_the_stage_file(originals: Any, edit: Edit) -> None:
    plan = originals(stage=edit).plan()
    assert plan.lora_rank == 8


def split_qkv(tensors: Tensors, heads: int = 4) -> None:
    """Fused rows [H, 3, D] to the q_proj, k_proj, v_proj of current Hugging Face directories."""
    for key in [k for k in tensors if "query_key_value" in k]:
        fused = tensors.pop(key)
        parts = fused.view(heads, 3, -1, *fused.shape[1:])
        for index, name in enumerate(("q_proj", "k_proj", "v_proj")):
            tensors[key.replace("query_key_value", name)] = parts[:, index].reshape(-1, *fused.shape[1:])


def phi_msft(tensors: Tensors, heads: int = 4) -> None:
    """The names of Microsoft's own early code, whose Wqkv has rows [3, H, D]."""
    names = {
        r"model\.embed_tokens": "transformer.embd.wte", r"model\.final_layernorm": "lm_head.ln",
        r"lm_head\.(weight|bias)$": r"lm_head.linear.\1",
        r"model\.layers\.(\d+)\.input_layernorm": r"transformer.h.\1.ln",
        r"model\.layers\.(\d+)\.mlp": r"transformer.h.\1.mlp",
        r"model\.layers\.(\d+)\.self_attn\.dense": r"transformer.h.\1.mixer.out_proj",
        r"model\.layers\.(\d+)\.self_attn\.query_key_value": r"transformer.h.\1.mixer.Wqkv",
    }  # fmt: skip
    for key in list(tensors):
        value, new = tensors.pop(key), key
        for pattern, replacement in names.items():
            new = re.sub(pattern, replacement, new)
        if "Wqkv" in new:
            value = value.view(heads, 3, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
        tensors[new] = value


@pytest.mark.parametrize(
    "edit",
    [split_qkv, phi_msft, rename(r"^model\.", ""), rename(r"^model\.layers", "model.layers"),
     lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})],
    ids=["split", "phi-msft", "no prefix", "fused", "rotary buffer"],
)  # fmt: skip
def test_layouts_of_the_phi_directory_give_the_same_weights(originals: Any, edit: Edit) -> None:
    base = {"phi_name": "phi_base_bin", "stage_name": "TinyGPT-V_for_Stage4.pth"}
    expected = originals(**base).plan(112).recipes
    found = originals(**base, phi=edit).plan(112).recipes
    for name in expected:
        assert torch.equal(expected[name].all(), found[name].all()), name


def test_rows_of_an_interleaved_matrix_do_not_depend_on_the_block(originals: Any) -> None:
    recipe = originals(phi_name="phi_base_bin", stage_name="TinyGPT-V_for_Stage4.pth", phi=split_qkv).plan(112).recipes
    for name in ("text.layers.0.attn.qkv.weight", "text.layers.0.attn.qkv.bias"):
        whole = recipe[name].all()
        for start, stop in ((0, 1), (7, 33), (59, 61), (239, 240), (13, 240)):
            torch.testing.assert_close(recipe[name].rows(start, stop), whole[start:stop], rtol=1e-6, atol=1e-6)


LORA = f"{TEXT}.layers.1.self_attn.query_key_value.lora_"
BAD = {
    "missing text matrix": ({"phi": lambda t: t.pop("model.layers.1.mlp.fc1.weight")}, r"text\.layers\.1\.mlp\.fc1\.w"),
    "missing norm bias": ({"phi": lambda t: t.pop("model.layers.0.input_layernorm.bias")}, r"layers\.0\.norm\.bias"),
    "missing head bias": ({"phi": lambda t: t.pop("lm_head.bias")}, r"text\.head\.bias"),
    "extra phi tensor": ({"phi": lambda t: t.update({"model.layers.9.mlp.fc1.bias": torch.ones(3)})}, r"layers\.9\."),
    "unknown phi tensor": ({"phi": lambda t: t.update(surprise=torch.ones(3))}, r"'surprise' \[3\]"),
    "mis-shaped phi tensor": ({"phi": lambda t: t.update({"lm_head.bias": torch.ones(511)})}, r"bias' is \[511\]"),
    "integer weights": ({"phi": lambda t: t.update({"lm_head.bias": torch.ones(512).int()})}, "int32"),
    "one split part missing": ({"phi": lambda t: (split_qkv(t), t.pop("model.layers.0.self_attn.k_proj.bias"))}, "qkv"),
    "both layouts": ({"phi": lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(80)})}, "split"),
    "same tensor twice": ({"phi": lambda t: t.update({"lm_head.linear.bias": torch.ones(512)})}, "both text.head.bias"),
    "missing vision block": ({"vision": lambda t: t.pop("blocks.2.mlp.fc1.weight")}, r"'blocks\.2\.mlp\.fc1\.weight'"),
    "vision of another size": ({"vision": lambda t: t.update(cls_token=torch.ones(1, 1, 50))}, "'cls_token' is"),
    "too many vision blocks": ({"vision": lambda t: t.update({"blocks.4.norm1.bias": torch.ones(48)})}, "blocks.4"),
    "positions of another grid": ({"vision": lambda t: t.update(pos_embed=torch.ones(1, 26, 48))}, "'pos_embed' is"),
    "unknown vision tensor": ({"vision": lambda t: t.update(extra=torch.ones(1))}, "'extra'"),
    "missing query tokens": ({"qformer": lambda t: t.pop("query_tokens")}, "'query_tokens' is missing"),
    "missing ln_vision": ({"qformer": lambda t: t.pop("ln_vision.bias")}, r"'ln_vision\.bias' is missing"),
    "unknown Q-Former tensor": ({"qformer": lambda t: t.update({"Qformer.x": torch.ones(1)})}, "'Qformer.x'"),
    "missing projection": ({"stage": lambda t: t.pop("llama_proj2.bias")}, r"'llama_proj2\.bias' is missing"),
    "projections that do not meet": ({"stage": lambda t: t.update({"llama_proj.bias": torch.ones(95)})}, r"\[95\]"),
    "half a LoRA pair": ({"stage": lambda t: t.pop(LORA + "B.weight")}, "lora_B of text.layers.1.attn.qkv"),
    "a LoRA layer missing": (
        {"stage": lambda t: (t.pop(LORA + "A.weight"), t.pop(LORA + "B.weight"))}, "lora_A of text.layers.1.attn.qkv"),
    "mixed LoRA ranks": ({"stage": lambda t: t.update({LORA + "A.weight": torch.ones(4, 80)})}, r"ranks \[4, 8\]"),
    "B of another rank": ({"stage": lambda t: t.update({LORA + "B.weight": torch.ones(240, 4)})}, r"is \[240, 4\]"),
    "LoRA twice": ({"stage": lambda t: t.update({LORA + "A.default.weight": torch.ones(8, 80)})}, "same tensor"),
    "LoRA on another matrix": (
        {"stage": lambda t: t.update({f"{TEXT}.layers.1.mlp.fc1.lora_A.weight": torch.ones(8, 80)})}, "no matrix"),
    "another rank than the architecture": ({"sizes": lambda s: s.update(lora_r=16)}, r"ranks \[8\], expected rank 16"),
    "no LoRA in stage 3": (
        {"stage": lambda t: [t.pop(k) for k in list(t) if "lora" in k]}, "stages 2-4 are trained with LoRA"),
    "a trained norm missing": (
        {"stage": lambda t: t.pop(f"{TEXT}.layers.2.post_layernorm.weight")}, r"layers\.2\.attn\.post_norm\.weight"),
    "a norm in neither file": (
        {"phi_name": "phi_base_bin", "stage": lambda t: t.pop(f"{TEXT}.layers.2.self_attn.q_layernorm.weight")},
        r"layers\.2\.attn\.q_norm\.weight"),
    "unknown stage tensor": ({"stage": lambda t: t.update({"llama_model.x.weight": torch.ones(2)})}, "llama_model.x"),
    "base weights in the stage file": (
        {"stage": lambda t: t.update({f"{TEXT}.layers.0.mlp.fc1.bias": torch.ones(320)})}, r"mlp\.fc1\.bias"),
    "another family": ({"phi_config": lambda c: c.update(model_type="llama")}, "model_type 'llama', expected Phi"),
    "no family": ({"phi_config": lambda c: (c.pop("model_type"), c.pop("architectures"))}, "model_type None"),
    "sizes that contradict": ({"phi_config": lambda c: c.update(hidden_size=160)}, "hidden_size gives 160"),
    "fewer layers than said": ({"sizes": lambda s: s.pop("phi"),
                                "phi_config": lambda c: c.update(num_hidden_layers=4)}, r"layers\.3\."),
    "more layers than said": ({"sizes": lambda s: s.pop("phi"),
                               "phi_config": lambda c: c.update(num_hidden_layers=2)}, r"layers\.2\."),
    "odd rotary size": ({"phi_config": lambda c: c.update(partial_rotary_factor=0.45)}, r"config\.json: .*rotary_dims"),
    "token beyond the vocabulary": ({"phi_config": lambda c: c.update(eos_token_id=512)}, "eos_token_id is 512"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(originals: Any, case: str) -> None:
    edits, message = BAD[case]
    with pytest.raises(CheckpointError, match=message):
        originals(**edits).plan(56)


UNSUPPORTED = {
    "scaled rotary": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "rotary of a new kind": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
    "another activation": {"hidden_act": "relu"},
    "grouped queries": {"num_key_value_heads": 2},
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_variants_say_so(originals: Any, case: str) -> None:
    with pytest.raises(UnsupportedError, match=r"config\.json"):
        originals(phi_config=lambda c: c.update(UNSUPPORTED[case])).plan()


def test_many_faults_are_reported_together(originals: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        originals(
            phi=lambda t: t.pop("lm_head.bias"),
            vision=lambda t: t.pop("pos_embed"),
            stage=lambda t: t.pop("llama_proj.bias"),
        ).plan()
    text = str(caught.value)
    assert "3 tensors" in text
    assert all(name in text for name in ("text.head.bias", "pos_embed", "llama_proj.bias"))


@pytest.mark.parametrize("place", ["phi", "vision", "qformer", "stage"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_are_found_and_named(originals: Any, place: str, value: float) -> None:
    keys = {"phi": "model.layers.1.mlp.fc2.weight", "vision": "pos_embed", "qformer": "query_tokens",
            "stage": LORA + "B.weight"}  # fmt: skip

    def spoil(tensors: Tensors) -> None:
        tensors[keys[place]].view(-1)[-1] = value

    plan = originals(**{place: spoil}).plan()
    with pytest.raises(CheckpointError, match=f"{re.escape(keys[place])}.*holds {'NaN' if value != value else 'Inf'}"):
        for recipe in plan.recipes.values():
            recipe.all()


def test_image_size_comes_from_the_argument_or_the_file(originals: Any, golden_dir: Path, tmp_path: Path) -> None:
    files = originals().write()
    sizes = read_architecture(golden_dir / "sizes.json")
    with pytest.raises(InvalidArgumentError, match=r"image_size is not given.*224 for stages 1-3 or 448"):
        make_plan(**files, architecture=sizes)
    root = torch.load(files["checkpoint"], weights_only=True)
    root["config"]["model"].update(image_size=112, lora_alpha=32)
    torch.save(root, files["checkpoint"])
    plan = make_plan(**files, architecture=sizes)
    assert plan.config.vision is not None
    assert plan.config.vision.image_size == 112
    assert plan.lora_alpha == 32.0
    with pytest.raises(
        InvalidArgumentError, match="image_size is 60, expected a positive multiple of the patch size 14"
    ):
        make_plan(**files, architecture=sizes, image_size=60)


def test_the_trainers_other_tensors_are_accounted_for(originals: Any) -> None:
    files = originals()
    files.write()
    root = torch.load(files.written["checkpoint"], weights_only=True)
    root["optimizer"]["state"] = {0: {"exp_avg": torch.ones(3), "step": torch.tensor(4.0)}}
    torch.save(root, files.written["checkpoint"])
    plan = make_plan(**files.written, architecture=read_architecture(files.architecture()), image_size=56)
    reasons = {key: line["reason"] for (_, key), line in plan.ledger.lines.items() if key.startswith("optimizer")}
    assert reasons == dict.fromkeys(["optimizer.state.0.exp_avg", "optimizer.state.0.step"],
                                    "optimiser state of the training run")  # fmt: skip
    root["ema"] = {"x": torch.ones(2)}
    torch.save(root, files.written["checkpoint"])
    with pytest.raises(CheckpointError, match=r"'ema\.x'"):
        make_plan(**files.written, architecture=read_architecture(files.architecture()), image_size=56)


def test_the_four_files_go_together(originals: Any) -> None:
    files = originals().write()
    with pytest.raises(InvalidArgumentError, match="qformer not given"):
        make_plan(files["phi"], files["vision"], None, files["checkpoint"], architecture=Architecture())


@pytest.mark.parametrize("name", ["phi", "phi_base_bin"])
def test_a_phi_directory_alone_is_a_text_model(golden_dir: Path, name: str) -> None:
    plan = make_plan(golden_dir / name, architecture=Architecture())
    assert plan.config.vision is None
    assert plan.config.text.qk_norm == plan.config.text.post_attention_norm == (name == "phi")
    assert plan.config.eos_token_id is None


def test_tied_embeddings_serve_as_the_head(originals: Any) -> None:
    plan = originals(
        phi=lambda t: t.pop("lm_head.weight"), phi_config=lambda c: c.update(tie_word_embeddings=True)
    ).plan()
    assert torch.equal(plan.recipes["text.head.weight"].all(), plan.recipes["text.embed.weight"].all())
    lines = [line for (_, key), line in plan.ledger.lines.items() if key == "model.embed_tokens.weight"]
    assert [line["target"] for line in lines] == ["text.embed.weight"]


def test_current_configs_spell_the_rotary_settings_anew(originals: Any) -> None:
    def modern(config: dict[str, Any]) -> None:
        for key in ("rope_theta", "rope_scaling", "partial_rotary_factor"):
            config.pop(key)
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.4}

    plan = originals(phi_config=modern).plan()
    assert (plan.config.text.rope_theta, plan.config.text.rotary_dims) == (5000.0, 8)


def test_shards_are_read_and_kept_inside_the_directory(golden_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    phi = tmp_path / "phi"
    shutil.copytree(golden_dir / "phi", phi)
    for file in phi.iterdir():
        file.chmod(0o644)
    tensors = load_file(phi / "model.safetensors")
    (phi / "model.safetensors").unlink()
    keys = sorted(tensors)
    places = {key: f"model-{1 + index % 2}.safetensors" for index, key in enumerate(keys)}
    for shard in set(places.values()):
        save_file({key: tensors[key] for key in keys if places[key] == shard}, phi / shard)
    index = phi / "model.safetensors.index.json"

    def plan(weight_map: Any) -> Any:
        index.write_text(json.dumps({"weight_map": weight_map}))
        return make_plan(phi, architecture=Architecture())

    expected = make_plan(golden_dir / "phi", architecture=Architecture()).recipes
    found = plan(places).recipes
    assert all(torch.equal(expected[name].all(), found[name].all()) for name in expected)
    for bad in ("../phi/model-1.safetensors", "/etc/passwd", "", "..", "a\\b"):
        with pytest.raises(CheckpointError, match="expected a file beside the index"):
            plan({**places, keys[0]: bad})
    with pytest.raises(CheckpointError, match="which has no such tensor"):
        plan({**places, keys[0]: places[keys[1]]})
    with pytest.raises(CheckpointError, match="does not list 1 tensors"):
        plan({key: places[key] for key in keys[1:]})
    with pytest.raises(CheckpointError, match=r"model-3\.safetensors"):
        plan({**places, keys[0]: "model-3.safetensors"})
    with pytest.raises(CheckpointError, match="no weight_map"):
        plan([])


def test_directories_without_what_is_needed_are_named(golden_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        make_plan(tmp_path, architecture=Architecture())
    shutil.copy(golden_dir / "phi" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors"):
        make_plan(tmp_path, architecture=Architecture())
    shutil.copy(golden_dir / "phi" / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        make_plan(tmp_path, architecture=Architecture())
    shutil.copy(golden_dir / "phi" / "vocab.json", tmp_path)
    shutil.copy(golden_dir / "phi" / "merges.txt", tmp_path)
    assert make_plan(tmp_path, architecture=Architecture()).tokenizer_file == tmp_path


def test_architecture_is_strict(golden_dir: Path) -> None:
    sizes = json.loads((golden_dir / "sizes.json").read_text())
    read = read_architecture(sizes)
    assert (read.vision.width, read.qformer.width, read.projection, read.lora_rank) == (48, 64, 96, 8)
    assert read_architecture(None) == Architecture()
    for bad, message in (
        ({**sizes, "surprise": 1}, "unknown keys .'surprise'."),
        ({k: v for k, v in sizes.items() if k != "vit"}, "lacks 'vit'"),
        ({**sizes, "vit": {**sizes["vit"], "depht": 1}}, "depht"),
        ({**sizes, "vit": {**sizes["vit"], "depth": 0}}, "layers"),
        ({**sizes, "qf": []}, r"architecture\.qf"),
        ({**sizes, "proj": "96"}, r"architecture\.proj"),
        ({**sizes, "lora_alpha": -1}, r"architecture\.lora_alpha"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_architecture(bad)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model.layers.12.self_attn.query_key_value.weight", "text.layers.12.attn.qkv.weight"),
        ("transformer.h.3.mixer.out_proj.bias", "text.layers.3.attn.out.bias"),
        ("lm_head.ln.weight", "text.final_norm.weight"),
        ("lm_head.weight", "text.head.weight"),
        ("embed_tokens.weight", "text.embed.weight"),
        ("model.layers.1.embed_tokens.weight", None),
        ("model.norm.weight", None),
        ("model.layers.x.mlp.fc1.weight", None),
    ],
)
def test_names_of_every_scheme(key: str, name: str | None) -> None:
    assert canonical(key) == name
