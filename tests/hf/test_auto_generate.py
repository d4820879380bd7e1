"""``AutoModelForImageTextToText`` on the demo gives the ids of ``TinyGPTV.generate``, by every route."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor

import tinygptv_fast as tgv
from hf.auto_support import CIRCLE, CONVERSATIONS, SQUARE, expected, generated, question
from tinygptv_fast.errors import ClosedError, InvalidArgumentError, PromptError, UnsupportedError
from tinygptv_fast.hf import TinyGPTVForConditionalGeneration, TinyGPTVProcessor


def encode(processor: TinyGPTVProcessor, conversations: Any) -> Any:
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def compare(
    auto: TinyGPTVForConditionalGeneration,
    processor: TinyGPTVProcessor,
    demo: tgv.TinyGPTV,
    theirs: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    inputs = encode(processor, CONVERSATIONS)
    assert set(inputs["attention_mask"][:, 0].tolist()) == {0, 1}  # rows are padded on the left
    wanted = [ids for one in CONVERSATIONS for ids in expected(demo, one, **ours)]
    found = auto.generate(**inputs, **theirs)
    assert torch.equal(
        found[:: theirs.get("num_return_sequences", 1), : inputs["input_ids"].shape[1]], inputs["input_ids"]
    )
    rows = generated(found, inputs["input_ids"].shape[1], [len(ids) for ids in wanted], auto.config.pad_token_id)
    assert rows == wanted


BOTH = [
    ("greedy", {}, {}),
    ("penalty", {"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    ("short", {"max_new_tokens": 4}, {"max_new_tokens": 4}),
    ("least", {"min_new_tokens": 7, "max_new_tokens": 20}, {"min_length": 7, "max_new_tokens": 20}),
    ("stop", {"stop_strings": ["circle", "and"]}, {"stop": ["circle", "and"]}),
    ("end", {"eos_token_id": [0, 13]}, {"eos_token_id": [0, 13]}),
    ("beams", {"num_beams": 3}, {"num_beams": 3}),
    ("beams-stop", {"num_beams": 2, "stop_strings": "a"}, {"num_beams": 2, "stop": "a"}),
]


@pytest.mark.parametrize("native", [True, False], ids=["native", "loop"])
@pytest.mark.parametrize(("theirs", "ours"), [case[1:] for case in BOTH], ids=[case[0] for case in BOTH])
def test_ids_are_those_of_generate(
    auto: TinyGPTVForConditionalGeneration,
    auto_processor: TinyGPTVProcessor,
    demo: tgv.TinyGPTV,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    native: bool,
) -> None:
    auto.native = native
    compare(auto, auto_processor, demo, theirs, ours)
    assert auto.last_route.startswith("native") if native else auto.last_route == "loop: native is False"


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "repetition_penalty": 1.5, "num_return_sequences": 3, "length_penalty": 0.5},
        {"do_sample": True, "temperature": 1.5, "seed": 5},
        {"do_sample": True, "temperature": 1.8, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "seed": 11},
    ],
    ids=["beams-returned", "sampled", "sampled-filters"],
)
def test_ids_of_the_engine(
    auto: TinyGPTVForConditionalGeneration,
    auto_processor: TinyGPTVProcessor,
    demo: tgv.TinyGPTV,
    settings: dict[str, Any],
) -> None:
    compare(auto, auto_processor, demo, settings, settings)
    assert auto.last_route == "native"


def test_samples_of_a_seed(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV
) -> None:
    settings = {"do_sample": True, "temperature": 2.0, "seed": 7, "num_return_sequences": 3, "max_new_tokens": 12}
    conversation = CONVERSATIONS[1]
    inputs = encode(auto_processor, conversation)
    wanted = sorted(expected(demo, conversation, **settings))
    found = auto.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()
    pad = auto.config.pad_token_id
    padded = sorted(ids + [pad] * (len(found[0]) - len(ids)) for ids in wanted)
    assert sorted(found) == padded and len({tuple(ids) for ids in wanted}) > 1


def test_sampling_without_a_seed_follows_torch(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    inputs = encode(auto_processor, CONVERSATIONS[1])
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(auto.generate(**inputs, do_sample=True, temperature=2.0, max_new_tokens=12).tolist())
    assert runs[0] == runs[1] != runs[2]


def test_generation_config_and_keywords_say_the_same(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    inputs = encode(auto_processor, CONVERSATIONS[:2])
    columns = inputs["input_ids"].shape[1]
    by_name = auto.generate(**inputs, max_new_tokens=5, repetition_penalty=1.3)
    by_config = auto.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=5, repetition_penalty=1.3))
    by_length = auto.generate(**inputs, max_length=columns + 5, repetition_penalty=1.3)
    assert by_name.shape[1] == columns + 5
    assert torch.equal(by_name, by_config) and torch.equal(by_name, by_length)


def test_an_answer_ends_with_the_context(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV
) -> None:
    conversation = question("hello " * 110, CIRCLE)
    inputs = encode(auto_processor, conversation)
    columns, most = inputs["input_ids"].shape[1], auto.config.max_position_embeddings
    found = auto.generate(**inputs, eos_token_id=1023, max_new_tokens=10_000)
    assert found[0, columns:].tolist() == expected(demo, conversation, eos_token_id=1023, max_new_tokens=10_000)[0]
    assert columns < found.shape[1] <= most


class Favour(LogitsProcessor):
    """A processor that only Python has; counts the columns that it is shown."""

    def __init__(self) -> None:
        self.columns: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.columns.append(int(input_ids.shape[1]))
        return scores


def test_processors_see_generated_ids(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    inputs, seen = encode(auto_processor, CONVERSATIONS[:2]), Favour()
    loop = auto.generate(**inputs, logits_processor=[seen], max_new_tokens=4, eos_token_id=[])
    assert seen.columns == [0, 1, 2, 3] and auto.last_route == "loop: the processor Favour"
    assert torch.equal(loop, auto.generate(**inputs, max_new_tokens=4, eos_token_id=[]))


def test_scores_come_with_the_sequences(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV
) -> None:
    inputs = encode(auto_processor, CONVERSATIONS[0])
    result = auto.generate(**inputs, return_dict_in_generate=True, output_scores=True, output_logits=True)
    answer = demo.generate(messages=CONVERSATIONS[0])
    assert result.sequences[0, inputs["input_ids"].shape[1] :].tolist() == answer.token_ids
    found = [float(torch.log_softmax(one[0], 0)[i]) for one, i in zip(result.logits, answer.token_ids, strict=True)]
    assert found == pytest.approx(answer.logprobs, abs=1e-4)


def test_forward_gives_the_logits(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor, demo: tgv.TinyGPTV
) -> None:
    inputs = encode(auto_processor, CONVERSATIONS[:3])
    out = auto(**inputs)
    prompts = auto_processor.apply_chat_template(CONVERSATIONS[:3], add_generation_prompt=True)
    pictures = [[CIRCLE], [SQUARE], [CIRCLE, SQUARE]]
    for row, (prompt, shown) in enumerate(zip(prompts, pictures, strict=True)):
        wanted = demo.logits(shown, prompt)
        mask = inputs["attention_mask"][row] == 1
        assert float((out.logits[row][mask] - wanted).abs().max()) < 1e-3
        assert not bool(out.logits[row][~mask].any())
    mask = torch.cat([inputs["attention_mask"], torch.ones((3, 1), dtype=torch.int64)], dim=1)
    more = auto(out.logits[:, -1:].argmax(-1), attention_mask=mask, past_key_values=out.past_key_values)
    assert more.logits.shape == (3, 1, auto.config.vocab_size)
    assert auto(**inputs, logits_to_keep=1, use_cache=False).past_key_values is None


def test_a_picture_is_encoded_once(auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor) -> None:
    inputs = encode(auto_processor, [question("[vqa] What is it?", SQUARE.rotate(7))] * 2)
    before = auto.stats()["images"]
    auto.generate(**inputs, max_new_tokens=1)
    auto.generate(**inputs, max_new_tokens=1)
    after = auto.stats()["images"]
    assert after["misses"] - before["misses"] == 1 and after["hits"] - before["hits"] == 3


class Collect:
    """A streamer that keeps everything."""

    def __init__(self) -> None:
        self.values: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_prompt_and_answer(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    inputs, streamer = encode(auto_processor, CONVERSATIONS[1]), Collect()
    whole = auto.generate(**inputs, streamer=streamer)
    assert streamer.values[0] == inputs["input_ids"][0].tolist() and streamer.ended == 1
    assert [i for one in streamer.values for i in one] == whole[0].tolist()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"pixel_values": None},
            InvalidArgumentError,
            "places for 1 picture and pixel_values holds 0, expected as many",
        ),
        ({"pixel_values": torch.zeros(2, 3, 128, 128)}, InvalidArgumentError, "1 picture and pixel_values holds 2"),
        (
            {"pixel_values": torch.zeros(1, 3, 64, 64)},
            InvalidArgumentError,
            r"\[1, 3, 64, 64\] torch.float32, expected",
        ),
        ({"pixel_values": "circle.png"}, InvalidArgumentError, "pixel_values is str, expected float32"),
        ({"pixel_values": torch.full((1, 3, 128, 128), torch.nan)}, InvalidArgumentError, "holds NaN or infinity"),
        (
            {"input_ids": torch.tensor([[5, 1024]]), "attention_mask": None},
            InvalidArgumentError,
            "places for 0 pictures",
        ),
        ({"input_ids": [[5]]}, InvalidArgumentError, "input_ids is list, expected an? "),
        ({"attention_mask": torch.ones(1, 3)}, InvalidArgumentError, r"attention_mask is \[1, 3\], expected"),
        ({"seed": -1}, InvalidArgumentError, "seed is -1, expected an integer in 0"),
        ({"max_new_token": 5}, InvalidArgumentError, "no argument 'max_new_token'; the nearest is 'max_new_tokens'"),
        ({"pixel_value": 5}, InvalidArgumentError, "no argument 'pixel_value'; the nearest is 'pixel_values'"),
        ({"max_length": 3}, InvalidArgumentError, "max_length is 3, expected more than the prompt's"),
        ({"output_attentions": True}, UnsupportedError, "output_attentions is True"),
        ({"seed": 3, "do_sample": True, "num_beams": 2}, UnsupportedError, "seed is 3 with num_beams=2"),
        ({"seed": 3, "do_sample": True, "bad_words_ids": [[9]]}, UnsupportedError, "use torch.manual_seed"),
        ({"inputs_embeds": torch.zeros(1, 2, 320)}, UnsupportedError, "inputs_embeds is given with pixel_values"),
    ],
)
def test_what_cannot_be_asked(
    auto: TinyGPTVForConditionalGeneration,
    auto_processor: TinyGPTVProcessor,
    change: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    inputs = {**encode(auto_processor, CONVERSATIONS[0]), **change}
    streamer = Collect()
    with pytest.raises(kind, match=words):
        auto.generate(**inputs, streamer=streamer)
    assert streamer.ended >= 1 or "inputs_embeds" in change


def test_padding_on_the_right_is_refused(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    texts = auto_processor.apply_chat_template(CONVERSATIONS[:3:2], add_generation_prompt=True)
    inputs = auto_processor(images=[[CIRCLE], [CIRCLE, SQUARE]], text=texts, padding_side="right", return_tensors="pt")
    with pytest.raises(UnsupportedError, match="padding on the right: pad on the left"):
        auto.generate(**inputs)


def test_a_prompt_that_fills_the_context(
    auto: TinyGPTVForConditionalGeneration, auto_processor: TinyGPTVProcessor
) -> None:
    inputs = encode(auto_processor, question("hello " * 2000))
    with pytest.raises(PromptError, match=r"the prompt is \d+ tokens, expected < 512"):
        auto.generate(**inputs)


def test_a_loaded_model_is_shared(demo: tgv.TinyGPTV, auto_processor: TinyGPTVProcessor) -> None:
    inputs = encode(auto_processor, CONVERSATIONS[0])
    with TinyGPTVForConditionalGeneration(demo) as model:
        assert model.tinygptv is demo
        ids = model.generate(**inputs)
    with pytest.raises(ClosedError, match="the model is closed"):
        model.generate(**inputs)
    assert ids[0, inputs["input_ids"].shape[1] :].tolist() == expected(demo, CONVERSATIONS[0])[0]
    with pytest.raises(InvalidArgumentError, match="model is str, expected a TinyGPTV: use from_pretrained"):
        TinyGPTVForConditionalGeneration("demo")  # type: ignore[arg-type]
