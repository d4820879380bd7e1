"""One file over a real connection: continued, checked, and every way in which a server can fail."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from hub_server import HubServer
from tinygptv_fast.errors import FetchError
from tinygptv_fast.fetch.download import download, part_bytes
from tinygptv_fast.fetch.receipt import Item
from tinygptv_fast.fetch.web import Patience, ask

NAME = "eva_vit_g.pth"
QUICK = Patience(attempts=3, delay_s=0, timeout_s=10)


@pytest.fixture
def item(hub: HubServer) -> Item:
    url = f"{hub.url}/store/{NAME}"
    facts = ask(url, QUICK)
    return Item(NAME, "vision", f"{hub.url}/store", None, url, facts.bytes, facts.digest, facts.etag)


def data_of(hub: HubServer) -> bytes:
    return hub.store[NAME]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_and_alone(hub: HubServer, item: Item, tmp_path: Path) -> None:
    seen: list[int] = []
    sha256 = download(item, tmp_path, None, QUICK, seen.append)
    assert (tmp_path / NAME).read_bytes() == data_of(hub) and files(tmp_path) == [NAME]
    assert sha256 == hashlib.sha256(data_of(hub)).hexdigest()
    assert item.expected is not None and item.expected.kind == "md5"
    assert seen == sorted(seen) and seen[-1] == item.bytes


def test_an_empty_file_needs_no_request(hub: HubServer, item: Item, tmp_path: Path) -> None:
    download(dataclasses.replace(item, bytes=0, expected=None), tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == b"" and hub.gets(NAME) == []


def test_a_cut_connection_is_continued_where_it_broke(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "503", "cut:500000"]
    download(item, tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == data_of(hub)
    ranges = [seen.headers.get("Range") for seen in hub.gets(NAME)]
    assert ranges == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1500000-"]
    assert hub.gets(NAME)[1].headers["If-Range"] == item.etag


def test_what_came_stays_when_patience_ends_and_the_next_run_continues(
    hub: HubServer, item: Item, tmp_path: Path
) -> None:
    hub.faults[NAME] = ["cut:1200000", "500", "429"]
    with pytest.raises(FetchError, match="1200000 of 2500000 bytes are there; the same command continues"):
        download(item, tmp_path, None, QUICK)
    assert files(tmp_path) == [f"{NAME}.part", f"{NAME}.part.json"] and part_bytes(tmp_path, item) == 1_200_000
    hub.log.clear()
    download(item, tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == data_of(hub)
    assert [seen.headers["Range"] for seen in hub.gets(NAME)] == ["bytes=1200000-"]


def test_a_server_that_always_cuts_at_once_ends(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:0"] * 50
    with pytest.raises(FetchError, match=r"connection was cut|could not be read"):
        download(item, tmp_path, None, QUICK)
    assert len(hub.gets(NAME)) == QUICK.attempts


def test_waits_double(item: Item, hub: HubServer, tmp_path: Path) -> None:
    waits: list[float] = []
    hub.faults[NAME] = ["503"] * 4
    download(item, tmp_path, None, Patience(6, 1.0, 10, waits.append))
    assert waits == [1, 2, 4, 8]


def test_a_server_without_ranges_begins_anew(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "no ranges"]
    download(item, tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == data_of(hub)


def test_the_part_of_another_version_is_thrown_away(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "404"]
    with pytest.raises(FetchError, match="answered 404"):
        download(item, tmp_path, None, QUICK)
    hub.store[NAME] = hub.store[NAME][::-1]
    facts = ask(item.url, QUICK)
    other = dataclasses.replace(item, expected=facts.digest, etag=facts.etag)
    assert part_bytes(tmp_path, other) == 0
    download(other, tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == data_of(hub)


def test_other_bytes_of_the_same_size_in_the_middle_are_noticed(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "404"]
    with pytest.raises(FetchError):
        download(item, tmp_path, None, QUICK)
    hub.store[NAME] = hub.store[NAME][::-1]  # If-Range no longer holds: all of it comes, and its hash is another
    with pytest.raises(FetchError, match="damaged bytes: its md5 is"):
        download(item, tmp_path, None, QUICK)
    assert files(tmp_path) == []


def test_a_wrong_hash_leaves_nothing(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["damage"]
    with pytest.raises(FetchError, match=r"damaged bytes: its md5 is \w+, expected \w+; they were removed"):
        download(item, tmp_path, None, QUICK)
    assert files(tmp_path) == []


def test_a_file_that_shrinks_is_an_error(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["shrink:700"]
    with pytest.raises(FetchError, match="has 700 bytes now, and had 2500000 when sizes were asked"):
        download(item, tmp_path, None, QUICK)
    assert not (tmp_path / NAME).exists()


def test_a_file_that_shrank_below_the_part_is_an_error_too(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "shrink:700", "shrink:700"]  # 416, then from the beginning
    with pytest.raises(FetchError, match="has 700 bytes now"):
        download(item, tmp_path, None, QUICK)
    assert [seen.headers.get("Range") for seen in hub.gets(NAME)] == [None, "bytes=1000000-", None]


def test_416_without_a_reason_begins_anew_once(hub: HubServer, item: Item, tmp_path: Path) -> None:
    hub.faults[NAME] = ["cut:1000000", "416"]
    download(item, tmp_path, None, QUICK)
    assert (tmp_path / NAME).read_bytes() == data_of(hub)
    (tmp_path / NAME).unlink()
    hub.faults[NAME] = ["cut:1000000", "416", "cut:1000000", "416"]
    with pytest.raises(FetchError, match="answered 416"):
        download(item, tmp_path, None, dataclasses.replace(QUICK, attempts=9))


@pytest.mark.parametrize("status", ["404", "403", "401"])
def test_answers_that_no_patience_changes(hub: HubServer, item: Item, tmp_path: Path, status: str) -> None:
    hub.faults[NAME] = [status]
    with pytest.raises(FetchError, match=f"answered {status}") as caught:
        download(item, tmp_path, None, QUICK)
    assert len(hub.gets(NAME)) == 1 and ("HF_TOKEN" in str(caught.value)) is (status != "404")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:9/x could not be read"):
        ask("http://127.0.0.1:9/x", QUICK)


def test_without_a_hash_the_size_is_what_is_checked(hub: HubServer, tmp_path: Path) -> None:
    hub.states_md5 = False
    facts = ask(f"{hub.url}/store/{NAME}", QUICK)
    assert facts.digest is None and facts.bytes == 2_500_000
