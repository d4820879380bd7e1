"""Files of torch.save: read as torch reads them, and never run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv_fast.checkpoint.dtypes import code_of
from tinygptv_fast.checkpoint.safe_pickle import Placeholder
from tinygptv_fast.checkpoint.torch_file import LazyTensor, TorchFile, flatten
from tinygptv_fast.errors import CheckpointError


def zipped(path: Path, pickled: bytes, entries: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip file in torch's layout around ``pickled``."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in {"byteorder": b"little", **(entries or {})}.items():
            archive.writestr(f"a/{name}", data)
    return path


def same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, LazyTensor):
        return mine.code == code_of(theirs.dtype) and torch.equal(mine.read(), theirs)
    return bool(mine == theirs)


TREE = {
    "model": collections.OrderedDict(
        a=torch.randn(3, 4), b=torch.randn(5).half(), c=torch.randn(2, 2).bfloat16(), d=torch.arange(3)
    ),
    "transposed": torch.randn(4, 6).t(),
    "part": torch.arange(20.0)[5:15:2],
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(1.5),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "plain": [1, 2.5, None, True, "text", b"bytes", (1, (2, 3)), 2**70],
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_reads_what_torch_reads(tmp_path: Path, new: bool) -> None:
    torch.save(TREE, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    mine = dict(flatten(TorchFile(tmp_path / "x.pth").root))
    theirs = dict(flatten(torch.load(tmp_path / "x.pth", weights_only=False)))
    assert mine.keys() == theirs.keys()
    assert all(same(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_shared_storages_and_state_dicts(tmp_path: Path, new: bool) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    torch.save({"rows": base[1:], "all": base, **module.state_dict()}, tmp_path / "x.pth",
               _use_new_zipfile_serialization=new)  # fmt: skip
    root = TorchFile(tmp_path / "x.pth").root
    assert torch.equal(root["rows"].read(), base[1:])
    assert torch.equal(root["0.weight"].read(), module[0].weight)


def test_golden_files_equal_torch_load(golden_dir: Path) -> None:
    for path in [*golden_dir.glob("*.pth"), golden_dir / "phi_base_bin" / "pytorch_model.bin"]:
        mine = dict(flatten(TorchFile(path).root))
        theirs = dict(flatten(torch.load(path, weights_only=True)))
        assert mine.keys() == theirs.keys()
        assert all(same(mine[key], theirs[key]) for key in mine)


def test_objects_of_unknown_classes_become_placeholders(tmp_path: Path) -> None:
    root = TorchFile(zipped(tmp_path / "x.pth", _global_instance())).root
    assert isinstance(root["config"], Placeholder)
    assert root["config"].origin == "omegaconf_not_installed.dictconfig.DictConfig"
    assert root["config"].state == {"content": 448}
    assert root["n"] == 1


def _global_instance() -> bytes:
    """{'config': DictConfig.__new__(DictConfig) with state {'content': 448}, 'n': 1} as protocol 2 writes it."""
    return (
        b"\x80\x02}(X\x06\x00\x00\x00configcomegaconf_not_installed.dictconfig\nDictConfig\n)\x81"
        b"}X\x07\x00\x00\x00contentM\xc0\x01sbX\x01\x00\x00\x00nK\x01u."
    )


SENTINEL = "touched"


class Runs:
    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def attacks(sentinel: Path) -> dict[str, bytes]:
    command = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    text = command.encode()
    tensor = torch._utils._rebuild_tensor_v2
    out = {
        "os.system": pickle.dumps(Runs(os.system, command), 2),
        "os.system by name on the stack": pickle.dumps(Runs(os.system, command), 4),
        "builtins.eval": pickle.dumps(Runs(eval, code), 2),
        "builtins.exec": pickle.dumps({"model": [Runs(exec, code)]}, 5),
        "getattr": pickle.dumps(Runs(getattr, "x", "upper"), 2),
        "nested in a tensor's arguments": pickle.dumps(Runs(tensor, Runs(os.system, command), 0, (1,), (1,)), 2),
        "INST": b"(S'" + text + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + text + b"'\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\nS'" + text + b"'\n\x85\x81.",
        "torch.hub": b"ctorch.hub\nload\n(S'x'\ntR.",
        "BUILD on a stand-in": b"ctorch._utils\n_rebuild_tensor_v2\n}S'__call__'\ncos\nsystem\nsb.",
        "BUILD on a known function": b"ctorch._utils\n_rebuild_tensor_v2\n}S'call'\nK\x01sb.",
        "extension registry": b"\x80\x02\x82\x01.",
        "call of a number": b"K\x01)R.",
        "call of a dtype": b"ctorch\nfloat32\n)R.",
        "subclass of type": b"cbuiltins\ntype\n(S'A'\n)}tR.",
    }
    return out


@pytest.mark.parametrize("name", attacks(Path("/nowhere")))
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_is_refused_and_not_run(tmp_path: Path, name: str, legacy: bool) -> None:
    sentinel = tmp_path / SENTINEL
    data = attacks(sentinel)[name]
    path = tmp_path / "x.pth"
    if legacy:
        magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        system = pickle.dumps({"little_endian": True}, 2)
        path.write_bytes(magic + pickle.dumps(1001, 2) + system + data + pickle.dumps([], 2))
    else:
        zipped(path, data)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        TorchFile(path)
    assert not sentinel.exists()


def test_unknown_functions_are_not_imported_or_called(tmp_path: Path) -> None:
    """A name outside the refused list is harmless too: it becomes a placeholder, never a call."""
    module = tmp_path / "evil_module_for_test.py"
    module.write_text(
        f"open({str(tmp_path / SENTINEL)!r}, 'w')\ndef f(*a):\n    open({str(tmp_path / SENTINEL)!r}, 'w')\n"
    )
    root = TorchFile(zipped(tmp_path / "x.pth", b"cevil_module_for_test\nf\n(K\x01tR.")).root
    assert isinstance(root, Placeholder)
    assert root.arguments == (1,)
    assert not (tmp_path / SENTINEL).exists()


def deep_tuple_key(depth: int) -> bytes:
    return b"\x80\x02})" + b"\x85" * depth + b"K\x01s."


BOMBS = {
    "deep tuple as a key": deep_tuple_key(50_000),
    "huge string length": b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x.",
    "huge bytearray length": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.",
    "huge integer length": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "unknown memo": b"\x80\x02j\xff\xff\xff\x7f.",
    "copies without end": b"\x80\x02ccollections\nOrderedDict\nq\x00" + b"0]q\x01(" + b"]K\x01aK\x02a" * 10_000 + b"e0"
    + b"h\x00h\x01\x85R0" * 600 + b"N.",
    "empty": b"",
    "no stop": b"\x80\x02K\x01",
    "two objects": b"\x80\x02K\x01K\x02.",
    "bytes after the end": b"\x80\x02N.N",
    "bad protocol": b"\x80\x09N.",
    "items into a number": b"\x80\x02K\x01K\x02a.",
    "odd items": b"\x80\x02}(K\x01u.",
    "mark eaten": b"\x80\x02(\x85.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_and_malformed_pickles_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        TorchFile(zipped(tmp_path / "x.pth", BOMBS[name]))


def saved(tree: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(tree, stream)
    return stream.getvalue()


def forged(path: Path, change: Any) -> Path:
    """A saved tensor file rewritten entry by entry through ``change(name, data)``."""
    source = zipfile.ZipFile(io.BytesIO(saved({"w": torch.randn(64, 4)})))
    with zipfile.ZipFile(path, "w") as archive:
        for info in source.infolist():
            for name, data in change(info.filename, source.read(info)):
                archive.writestr(name, data)
    return path


FORGERIES = {
    "storage shorter than said": (lambda n, d: [(n, d[:-4] if "/data/" in n else d)], "storage '0' has"),
    "storage missing": (lambda n, d: [] if "/data/" in n else [(n, d)], "storage '0' is missing"),
    "big-endian": (lambda n, d: [(n, b"big" if n.endswith("byteorder") else d)], "big-endian"),
    "two pickles": (lambda n, d: [(n, d), ("other/data.pkl", d)] if n.endswith("data.pkl") else [(n, d)], "2 data.pkl"),
    "TorchScript": (lambda n, d: [(n, d), ("archive/constants.pkl", b"")] if n.endswith("pkl") else [(n, d)], "Script"),
    "path upwards": (lambda n, d: [(n, d), ("archive/../../x", b"")] if n.endswith("pkl") else [(n, d)], "leaves"),
    "absolute path": (lambda n, d: [(n, d), ("/etc/x", b"")] if n.endswith("pkl") else [(n, d)], "leaves"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_archives_are_refused(tmp_path: Path, name: str) -> None:
    change, message = FORGERIES[name]
    with pytest.raises(CheckpointError, match=message):
        TorchFile(forged(tmp_path / "x.pth", change))


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    bomb = zipped(
        tmp_path / "x.pth", pickle.dumps({}, 2), {"data/0": bytes(50_000_000)}, compression=zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="compressed"):
        TorchFile(bomb)


def test_duplicate_entries_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(tmp_path / "x.pth", pickle.dumps({}, 2), {"data.pkl": b"x"})
    with pytest.raises(CheckpointError, match="appears twice"):
        TorchFile(tmp_path / "x.pth")


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    """The zip bomb without compression: many directory entries over the same bytes."""
    path = zipped(tmp_path / "x.pth", pickle.dumps({}, 2), {"data/0": bytes(1000), "data/1": bytes(1000)})
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    first = data.rfind(b"PK\x01\x02", 0, at)
    data[at + 42 : at + 46] = data[first + 42 : first + 46]
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="overlap"):
        TorchFile(path)


def test_files_beyond_four_gigabytes_use_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wider fields of zip64, forced at a small size: its directory says -1 and keeps the numbers elsewhere."""
    source = zipfile.ZipFile(io.BytesIO(saved({"w": torch.arange(1000.0), "v": torch.ones(3)})))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for info in source.infolist():
            archive.writestr(info.filename, source.read(info))
    data = bytearray((tmp_path / "x.pth").read_bytes())
    data[-6:-2] = b"\xff" * 4  # the offset of the directory: now only the zip64 record has it
    (tmp_path / "x.pth").write_bytes(bytes(data))
    root = TorchFile(tmp_path / "x.pth").root
    assert torch.equal(root["w"].read(), torch.arange(1000.0))
    assert torch.equal(root["v"].read(), torch.ones(3))
    at = data.rfind(b"PK\x06\x07")
    data[at + 3] = 9
    (tmp_path / "y.pth").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="zip64"):
        TorchFile(tmp_path / "y.pth")


def test_an_entry_count_that_lies_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pth", pickle.dumps({}, 2))
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    data[at + 8 : at + 12] = struct.pack("<2H", 60_000, 60_000)
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="does not fit"):
        TorchFile(path)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    """Stride 0 unfolds one number into any shape; views of real checkpoints never do that."""
    torch.save({"w": torch.ones(1).expand(1_000_000)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="does not fit its storage"):
        TorchFile(tmp_path / "x.pth")


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_truncations_are_refused(tmp_path: Path, new: bool) -> None:
    torch.save(
        {"a": torch.randn(9), "b": torch.randn(3).half()}, tmp_path / "x.pth", _use_new_zipfile_serialization=new
    )
    whole = (tmp_path / "x.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(whole), 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            TorchFile(cut)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, data in {"text": b"hello", "pickle": pickle.dumps({"a": 1}), "tar": bytes(10_240)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match="neither a torch zip file"):
            TorchFile(tmp_path / name)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("fuzz")
    tree = {"model": {"a": torch.randn(4, 3), "b": torch.randn(5).half()}, "epoch": 3, "config": {"lr": 0.1}}
    torch.save(tree, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder, [saved(tree), (folder / "old.pth").read_bytes()]


@settings(max_examples=100, deadline=None)
@given(
    which=st.integers(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damaged_bytes_are_refused_or_read_within_the_file(
    originals: tuple[Path, list[bytes]], which: int, changes: list[tuple[int, int]]
) -> None:
    folder, files = originals
    data = bytearray(files[which])
    for position, value in changes:
        data[position % len(data)] = value
    path = folder / "damaged.pth"
    path.write_bytes(bytes(data))
    try:
        leaves = [leaf for _, leaf in flatten(TorchFile(path).root)]
    except CheckpointError:
        return
    assert all(leaf.read().nbytes <= len(data) for leaf in leaves if isinstance(leaf, LazyTensor))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_random_pickles_never_escape_as_other_errors(originals: tuple[Path, list[bytes]], data: bytes) -> None:
    path = zipped(originals[0] / "random.pth", data)
    try:
        TorchFile(path)
    except CheckpointError as error:
        assert "random.pth" in str(error)
