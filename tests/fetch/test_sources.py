"""Names on the command line, choice of a repository's files, receipts: without any server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinygptv_fast.errors import FetchError, InvalidArgumentError
from tinygptv_fast.fetch import Request, fetch_command
from tinygptv_fast.fetch.hashes import Digest, Hasher
from tinygptv_fast.fetch.receipt import Item, read_receipt, write_receipt
from tinygptv_fast.fetch.sources import DEFAULT_PHI, HubSource, choose_phi_files, parse_source

SOURCE = HubSource("a/b")


def test_sources_are_read() -> None:
    assert parse_source("phi", DEFAULT_PHI) == HubSource("llizhx/TinyGPT-V", True, "phi-2", None)
    assert parse_source("phi", "microsoft/phi-2@abc/1") == HubSource("microsoft/phi-2", False, "", "abc/1")
    assert parse_source("phi", "microsoft/phi-2").local_folder == "microsoft-phi-2"
    assert parse_source("phi", DEFAULT_PHI).name == DEFAULT_PHI


@pytest.mark.parametrize("text", ["", "phi-2", "/a/b", "a/b/../c", "a/b@", "a b/c", "a/b/", "https://x/y"])
def test_bad_sources_name_the_argument(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"phi is .*expected a hub id owner/name"):
        parse_source("phi", text)


def test_bad_requests_name_the_argument() -> None:
    with pytest.raises(InvalidArgumentError, match="stage is 5, expected 1, 2, 3 or 4"):
        Request.parse(5)
    with pytest.raises(InvalidArgumentError, match="storage is 'ftp://x'"):
        Request.parse(4, storage="ftp://x")


def test_the_command_names_the_highest_stage_and_another_repository() -> None:
    assert fetch_command("Tyrannosaurus/TinyGPT-V", ["x.pth"]) == (
        "tinygptv fetch --stage 4 --out ./tinygptv --convert"
    )
    files = ["TinyGPT-V_for_Stage1.pth", "TinyGPT-V_for_Stage3.pth"]
    assert fetch_command("a/b", files) == "tinygptv fetch --stage 3 --repo a/b --out ./tinygptv --convert"


def test_one_form_of_the_weights_is_chosen_as_the_conversion_would() -> None:
    small = ["config.json", "vocab.json", "merges.txt"]
    both = [*small, "pytorch_model.bin", "model.safetensors", "sub/config.json", "train.py"]
    assert choose_phi_files(SOURCE, both) == [*sorted(small), "model.safetensors"]
    shards = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    index = "pytorch_model.bin.index.json"
    assert choose_phi_files(SOURCE, [*small, index, *shards])[3:] == sorted([index, *shards])


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        (["tokenizer.json", "model.safetensors"], "no config.json"),
        (["config.json", "vocab.json", "model.safetensors"], "no tokenizer.json, or vocab.json and merges.txt"),
        (["config.json", "tokenizer.json"], "no weights"),
        (["config.json", "tokenizer.json", "model.safetensors.index.json"], "0 of its shards"),
    ],
)
def test_a_folder_that_cannot_be_converted_is_refused(files: list[str], lacks: str) -> None:
    with pytest.raises(FetchError, match=lacks):
        choose_phi_files(SOURCE, files)


def test_git_names_of_files() -> None:
    hasher = Hasher("git-blob", 5)  # git hash-object of "hello"
    hasher.update(b"hello")
    assert hasher.why_not(Digest("git-blob", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0")) is None
    assert "git-blob" in str(hasher.why_not(Digest("git-blob", "0" * 40)))


def test_a_receipt_is_read_back(tmp_path: Path) -> None:
    items = [
        Item("phi-2/config.json", "phi", "a/b", "c" * 40, "http://x/y", 5, Digest("sha256", "d" * 64)),
        Item("v.pth", "vision", "http://x", None, "http://x/v.pth", 7, None, '"etag"', "e" * 64),
    ]
    write_receipt(tmp_path, items)
    assert read_receipt(tmp_path) == items
    said = json.loads((tmp_path / "fetch.json").read_text())["files"]
    assert [one["checked_against"] for one in said] == [None, "its size alone"]
    assert [path.name for path in tmp_path.iterdir()] == ["fetch.json"]


@pytest.mark.parametrize("change", [{"path": "../x"}, {"path": "/etc/x"}, {"bytes": -1}, {"part": "x"}, {"more": 1}])
def test_receipts_that_nobody_wrote_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_receipt(tmp_path, [Item("v.pth", "vision", "s", None, "http://x/v.pth", 7, None)])
    path = tmp_path / "fetch.json"
    data = json.loads(path.read_text())
    data["files"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(FetchError, match=r"fetch.json is no receipt"):
        read_receipt(tmp_path)
