"""WebDataset shards: half downloaded, hostile, repeated; their kept indexes; the names that braces stand for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reader_samples as samples
from tinygptv_fast.data.randomness import generator
from tinygptv_fast.data.readers import BadRecord, DataSet, Reason, open_set, read_sets
from tinygptv_fast.data.readers import index_cache as cache
from tinygptv_fast.data.readers.braces import expand
from tinygptv_fast.data.readers.tar_index import index_shard
from tinygptv_fast.data.readers.walking import decode_all
from tinygptv_fast.errors import ConfigError, DataError


def opened(folder: Path, **more: Any) -> DataSet:
    config = {"format": "webdataset", "shards": "x.tar", "max_bad": 50, **more}
    return open_set(read_sets({"root": str(folder), "sets": {"it": config}}, folder)[0])


def shard(folder: Path, *samples_: list[tuple[str, bytes]]) -> Path:
    return samples.tar(folder / "x.tar", [member for each in samples_ for member in each])


def test_half_a_download_keeps_what_is_whole(tmp_path: Path) -> None:
    """Cut at every 97th byte: never another error, never a sample that was not there, always a report."""
    path = shard(tmp_path, *(samples.sample(f"{n:06d}", f"number {n}") for n in range(3)))
    whole = path.read_bytes()
    rows = index_shard(path, "json").rows.tolist()
    assert len(rows) == 3
    end = rows[-1][2] + rows[-1][3]  # of the last json
    counts = []
    for cut in range(513, len(whole) - 10240 + 512, 97):
        path.write_bytes(whole[:cut])
        found = index_shard(path, "json")
        assert found.rows.tolist() == rows[: len(found.rows)]
        if cut < end:
            assert [bad.reason for bad in found.faults if bad.reason is Reason.TRUNCATED], cut
        counts.append(len(found.rows))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 3


def test_a_cut_between_two_members_is_seen(tmp_path: Path) -> None:
    path = shard(tmp_path, samples.sample("1", "one"), samples.sample("2", "two"))
    with tarfile.open(path) as archive:
        second = archive.getmember("2.jpg").offset
    path.write_bytes(path.read_bytes()[:second])
    found = index_shard(path, "json")
    assert len(found.rows) == 1 and "without an end mark" in str(found.faults[0])


def test_garbage_where_a_header_should_stand(tmp_path: Path) -> None:
    path = shard(tmp_path, samples.sample("1", "one"), samples.sample("2", "two"))
    with tarfile.open(path) as archive:
        second = archive.getmember("2.jpg").offset
    data = bytearray(path.read_bytes())
    data[second : second + 512] = bytes(range(256)) * 2
    path.write_bytes(data)
    found = index_shard(path, "json")
    assert len(found.rows) == 1 and f"no header stands at byte {second}" in str(found.faults[0])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a tar" * 100, b"\x1f\x8b\x08" + b"x" * 2000])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar.*(is not a plain tar|has no records)|has no records"):
        opened(tmp_path)


def test_samples_that_lack_something_or_come_twice(tmp_path: Path) -> None:
    one, two, three = (samples.sample(str(n), f"number {n}") for n in (1, 2, 3))
    shard(tmp_path, one, two[:1], three[1:], one, [("4.jpg", b""), ("4.json", b"{}")])
    data = opened(tmp_path)
    assert dict(data.faults.counts) == {
        Reason.MALFORMED: 1,  # two: no json
        Reason.NO_PICTURE: 1,
        Reason.DUPLICATE: 1,
        Reason.EMPTY: 1,
    }
    assert len(data.records) == 1 and "x.tar: 2" in data.faults.first[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", Reason.MALFORMED), (b"[]", Reason.MALFORMED), (b'{"caption": null}', Reason.MALFORMED),
        (b"{}", Reason.MALFORMED),
        (b"\xff", Reason.MALFORMED), (b'{"caption": "!!!"}', Reason.EMPTY), (b"[" * 50_000, Reason.MALFORMED),
        (b'{"caption": "' + b"x" * 30_000 + b'"}', Reason.TOO_LARGE),
    ],
)  # fmt: skip
def test_captions_that_are_none_are_counted_when_they_are_read(tmp_path: Path, text: bytes, reason: Reason) -> None:
    shard(tmp_path, [("1.jpg", samples.picture_bytes()), ("1.json", text)], samples.sample("2", "fine"))
    data = opened(tmp_path)
    with pytest.raises(BadRecord) as raised:
        data.records[0]
    assert raised.value.reason is reason
    decode_all(data)
    assert dict(data.faults.counts) == {reason: 1}


def test_a_damaged_picture_in_a_shard(tmp_path: Path) -> None:
    damaged = samples.picture_bytes((400, 300))[:-500]
    shard(tmp_path, [("1.jpg", damaged), ("1.json", b'{"caption": "x"}')], samples.sample("2", "fine"))
    data = opened(tmp_path)
    decode_all(data)
    assert dict(data.faults.counts) == {Reason.BAD_PICTURE: 1}


def test_names_that_share_a_stem_with_dots_and_folders(tmp_path: Path) -> None:
    picture = samples.picture_bytes()
    members = [("a/1.seg.png", b"no"), ("a/1.JPG", picture), ("a/1.json", b'{"caption": "one"}'), ("b/1.jpg", picture),
               ("b/1.json", b'{"caption": "two"}')]  # fmt: skip
    samples.tar(tmp_path / "x.tar", members)
    data = opened(tmp_path)
    assert [data.records[n].asks[0].answers for n in range(2)] == [("one",), ("two",)]
    assert data.records[0].example(generator(0)).images == (picture,)


def test_a_member_that_is_a_link_or_sparse_or_of_negative_size_is_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in samples.sample("2", "two"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert len(index_shard(path, "json").rows) == 1
    data = bytearray(path.read_bytes())
    data[512 + 124 : 512 + 136] = b"\xff" * 12  # base 256: a size of -1
    data[512 + 148 : 512 + 156] = b" " * 8
    data[512 + 148 : 512 + 156] = f"{sum(data[512:1024]):06o}\0 ".encode()
    path.write_bytes(data)
    try:
        assert not len(index_shard(path, "json").rows)
    except DataError as error:
        assert "x.tar" in str(error)


# --- kept indexes -----------------------------------------------------------------------------------------------------
def test_a_kept_index_is_used_and_made_anew_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = cache.index_shard
    monkeypatch.setattr(cache, "index_shard", lambda path, text: made.append(path) or real(path, text))
    path = shard(tmp_path, samples.sample("1", "one"), samples.sample("2", "two")[:2])
    first = opened(tmp_path, index="index")
    again = opened(tmp_path, index="index")
    assert len(made) == 1 and again.digest == first.digest and len(again.records) == 2
    shard(tmp_path, samples.sample("1", "one"), samples.sample("2", "two")[:1])
    changed = opened(tmp_path, index="index")
    kept = opened(tmp_path, index="index")
    assert len(made) == 2 and len(changed.records) == 1 and dict(kept.faults.counts) == {Reason.MALFORMED: 1}
    assert kept.faults.first == changed.faults.first and str(path) in kept.faults.first[0]


@pytest.mark.parametrize("harm", ["cut", "other", "outside", "text", "gone"])
def test_a_damaged_index_is_made_anew(tmp_path: Path, harm: str) -> None:
    shard(tmp_path, samples.sample("1", "one"))
    whole = opened(tmp_path, index="index")
    array = next((tmp_path / "index").glob("*.npy"))
    facts = array.with_suffix(".json")
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:-9])
    elif harm == "other":
        np.save(array, np.zeros((1, 4)))
    elif harm == "outside":
        np.save(array, np.full((1, 4), 1 << 40, dtype=np.int64))
    elif harm == "text":
        facts.write_text("{")
    else:
        array.unlink()
    again = opened(tmp_path, index="index")
    assert again.digest == whole.digest and again.records[0].asks == whole.records[0].asks
    assert np.load(array).shape == (1, 4) and json.loads(facts.read_text())["samples"] == 1
    assert not list((tmp_path / "index").glob("*.tmp*"))


# --- names ------------------------------------------------------------------------------------------------------------
def test_braces() -> None:
    assert expand("{00000..00002}.tar") == ["00000.tar", "00001.tar", "00002.tar"]
    assert expand("{8..11}") == ["8", "9", "10", "11"] and expand("{08..11}") == ["08", "09", "10", "11"]
    assert expand("{cc,sbu}/{0..1}.tar") == ["cc/0.tar", "cc/1.tar", "sbu/0.tar", "sbu/1.tar"]
    assert expand("plain.tar") == ["plain.tar"] and len(expand("{00000..01255}.tar")) == 1256


@pytest.mark.parametrize("pattern", ["{1..0}", "{x}", "a{", "}", "{0..9999999}", "{0..99999999999999999999}"])
def test_braces_that_are_none(pattern: str) -> None:
    with pytest.raises(ConfigError, match="pattern"):
        expand(pattern)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    samples.webdataset(tmp_path)
    with pytest.raises(DataError, match=r"3 of 5 shards do not exist: .*00002\.tar, .*expected all"):
        opened(tmp_path, shards="shards/{00000..00004}.tar")
