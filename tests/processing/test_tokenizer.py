"""processing.tokenizer: the original's ids and text, streaming, and hostile files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.errors import CheckpointError, InvalidArgumentError
from tinygptv_fast.processing import tokenizer as module
from tinygptv_fast.processing.tokenizer import Tokenizer

PHI = Path(__file__).parents[1] / "golden/phi"
GOLDEN: dict[str, Any] = json.loads((PHI.parent / "golden/text.json").read_text())["tokenizer"]
JSON = (PHI / "tokenizer.json").read_text()
TOKENIZER = Tokenizer.from_file(PHI / "tokenizer.json")
IDS = st.lists(st.integers(0, TOKENIZER.size + 3), max_size=40)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same tokenizer from the older files alone."""
    folder = tmp_path_factory.mktemp("phi")
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        shutil.copy(PHI / name, folder)
    return Tokenizer.from_directory(folder)


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: repr(row["text"]))
def test_golden_rows(row: dict[str, Any], built: Tokenizer) -> None:
    for tokenizer in (TOKENIZER, built, Tokenizer.from_string(TOKENIZER.to_json()), Tokenizer.from_directory(PHI)):
        assert tokenizer.encode(row["text"]) == row["ids"] == row["fast_ids"]
        assert tokenizer.decode_slow(row["ids"], skip_special_tokens=False) == row["decoded"]
        assert tokenizer.decode_slow(row["ids"]) == row["decoded_skip_special"]
        assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row["text"]


def test_golden_facts(built: Tokenizer) -> None:
    for tokenizer in (TOKENIZER, built):
        assert tokenizer.size == GOLDEN["length"]
        assert tokenizer.token_id("<|endoftext|>") == GOLDEN["bos"] == GOLDEN["eos"]
        assert tokenizer.token_id("###") == GOLDEN["hash3"]
        assert tokenizer.token_id("no such token") is None
        assert tokenizer.special_ids == {GOLDEN["eos"]}


@pytest.mark.parametrize("case", ["A_stage1", "A_stage3", "B_stage4"])
def test_answers_of_the_model_runs(golden_dir: Path, case: str) -> None:
    """generate()'s clean-up (minigpt_base.py:385-394) of decode_slow gives the original's answers."""
    rows = json.loads((golden_dir / f"golden/{case}.json").read_text())
    arrays = np.load(golden_dir / f"golden/{case}.npz")
    seen = 0
    for name, row in rows.items():
        if isinstance(row, dict) and "answers" in row and f"{name}_ids" in arrays:
            for ids, answer in zip(arrays[f"{name}_ids"], row["answers"], strict=True):
                text = TOKENIZER.decode_slow(ids).split("</s>")[0].replace("<s>", "").split("[/INST]")[-1].strip()
                assert text == answer
                seen += 1
    assert seen >= 10


def test_slow_text_is_cleaned_up() -> None:
    """transformers' English clean-up, which the original's tokenizer has on."""
    ids = TOKENIZER.encode("a . b , it 's do n't")
    assert TOKENIZER.decode_slow(ids) == "a. b, it's don't"
    assert TOKENIZER.decode_slow(ids, clean_up=False) == TOKENIZER.decode(ids) == "a . b , it 's do n't"


@given(st.text())
def test_encode_decode_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.text(alphabet="a .,#<>{}[]é猫😀\n\t"))
def test_both_layouts_agree(text: str) -> None:
    assert _older_files().encode(text) == TOKENIZER.encode(text)


@given(IDS, st.booleans())
def test_decode_equals_the_library(ids: list[int], skip: bool) -> None:
    ours = TOKENIZER.decode(ids, skip_special_tokens=skip)
    assert ours == TOKENIZER._backend.decode(ids, skip_special_tokens=skip)


@given(IDS, st.booleans())
@settings(max_examples=300)
def test_stream_equals_decode(ids: list[int], skip: bool) -> None:
    stream = TOKENIZER.stream(skip_special_tokens=skip)
    pieces = [stream.put(index) for index in ids]
    assert "".join([*pieces, stream.end()]) == TOKENIZER.decode(ids, skip_special_tokens=skip)
    assert stream.end() == ""


@given(st.text(alphabet="aé猫😀 \n"))
def test_stream_never_shows_half_a_character(text: str) -> None:
    stream = TOKENIZER.stream()
    shown = ""
    for index in TOKENIZER.encode(text):
        shown += stream.put(index)
        assert text.startswith(shown)
    assert shown == text and stream.end() == ""


def test_stream_end_shows_what_never_got_complete() -> None:
    stream = TOKENIZER.stream()
    first, *_ = TOKENIZER.encode("猫")
    assert stream.put(first) == ""
    assert stream.end() == "\ufffd"
    assert stream.put(TOKENIZER.encode("a")[0]) == "a"


def test_stream_goes_on_after_broken_bytes() -> None:
    stream = TOKENIZER.stream()
    first, *_ = TOKENIZER.encode("猫")
    assert stream.put(first) == "" and stream.put(TOKENIZER.encode("a")[0]) == "\ufffda"


def test_padding_rows_of_the_vocabulary_are_nothing() -> None:
    assert TOKENIZER.decode([TOKENIZER.size, 51199]) == ""


@pytest.mark.parametrize("index", [-1, 1.5, "3", None, True])
def test_bad_ids(index: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="token id is"):
        TOKENIZER.decode([index])
    with pytest.raises(InvalidArgumentError, match="token id is"):
        TOKENIZER.stream().put(index)


def test_numpy_ids() -> None:
    ids = np.array(TOKENIZER.encode("a dog"), dtype=np.int64)
    assert TOKENIZER.decode(ids) == "a dog" == TOKENIZER.decode_slow(ids)


def test_bad_text() -> None:
    assert TOKENIZER.encode("") == []
    with pytest.raises(InvalidArgumentError, match="text is bytes"):
        TOKENIZER.encode(b"a")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="text cannot be encoded"):
        TOKENIZER.encode("\ud800")


def changed(**parts: Any) -> str:
    return json.dumps({**json.loads(JSON), **parts})


def model(**parts: Any) -> str:
    return changed(model={**json.loads(JSON)["model"], **parts})


HOSTILE = {
    "empty": "",
    "not json": "{",
    "list": "[]",
    "deep": "[" * 100_000,
    "no model": changed(model=None),
    "other model": changed(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
    "no decoder": changed(decoder=None),
    "other decoder": changed(decoder={"type": "Metaspace"}),
    "no pre-tokenizer": changed(pre_tokenizer=None),
    "dropout": model(dropout=0.5),
    "vocabulary of lists": model(vocab=[1, 2]),
    "negative id": model(vocab={"a": -1}, merges=[]),
    "text id": model(vocab={"a": "x"}, merges=[]),
    "huge id": model(vocab={"a": 4_000_000_000}, merges=[]),
    "empty vocabulary": changed(model={**json.loads(JSON)["model"], "vocab": {}, "merges": []}, added_tokens=[]),
    "merge of unknown tokens": model(merges=["qqq zzz"]),
    "merge of one": model(merges=["a"]),
    "not byte-level": model(vocab={"猫": 0}, merges=[]),
    "added tokens": changed(added_tokens={"a": 1}),
    "version": changed(version="99"),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_file(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json, nor vocab.json"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.from_file(tmp_path)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2)
    with pytest.raises(CheckpointError, match="3 bytes, expected at most 2"):
        Tokenizer.from_file(tmp_path)
    with pytest.raises(CheckpointError, match="expected at most 2"):
        Tokenizer.from_string(JSON)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("merges.txt", "#version: 0.2\na b c\n", "not two tokens"),
        ("vocab.json", "[]", "expected a json object"),
        ("vocab.json", '{"a": -5}', "not a usable tokenizer"),
        ("added_tokens.json", '{"  ": 9999}', "expected the next free one"),
        ("added_tokens.json", '{"  ": "x"}', "expected an integer"),
    ],
)
def test_hostile_older_files(tmp_path: Path, name: str, text: str, expected: str) -> None:
    for file in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        shutil.copy(PHI / file, tmp_path / file)
    (tmp_path / name).chmod(0o644)
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=expected):
        Tokenizer.from_directory(tmp_path)


def test_truncation_and_padding_settings_are_ignored() -> None:
    padding = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    changed_file = Tokenizer.from_string(changed(padding=padding, truncation=truncation))
    assert changed_file.encode("what is the man") == TOKENIZER.encode("what is the man")


def _older_files() -> Tokenizer:
    if not hasattr(_older_files, "made"):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for name in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
                shutil.copy(PHI / name, folder)
            _older_files.made = Tokenizer.from_directory(folder)  # type: ignore[attr-defined]
    return _older_files.made  # type: ignore[attr-defined,no-any-return]
