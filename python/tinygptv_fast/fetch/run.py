"""A whole fetch: what is needed, what is there, the rest brought in, and the receipt kept up to date."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..env import HUB
from ..errors import FetchError
from .download import download, part_bytes
from .hashes import hash_file
from .hub import Snapshot, hub_token, read_snapshot
from .receipt import RECEIPT, Item, read_receipt, write_receipt
from .sources import QFORMER_FILE, VISION_FILE, HubSource, Request, choose_phi_files
from .web import Patience, ask

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """Files to have in ``folder``, and how much of them is still to come. offline: nobody was asked."""

    folder: Path
    request: Request
    items: tuple[Item, ...]
    offline: bool = False

    @property
    def total_bytes(self) -> int:
        return sum(item.bytes for item in self.items)

    def missing_bytes(self, item: Item) -> int:
        """What a run would transfer of ``item``; a file in its place counts as there and is checked later."""
        return 0 if (self.folder / item.path).exists() else item.bytes - part_bytes(self.folder, item)


@dataclass(frozen=True)
class Fetched:
    """Where the files are, by the names of ``convert``'s arguments, and what they are."""

    folder: Path
    phi: Path
    vision: Path
    qformer: Path
    checkpoint: Path
    items: tuple[Item, ...]

    @property
    def receipt(self) -> Path:
        return self.folder / RECEIPT


def plan_fetch(
    request: Request, folder: Path, *, endpoint: str = HUB, offline: bool = False, patience: Patience | None = None
) -> Plan:
    """Ask which files there are, and how large. A folder that has a receipt stays at the commits it names.

    offline: take the receipt's word and ask nobody. Raises FetchError.
    """
    known, patience = read_receipt(folder), patience or Patience()
    if offline:
        return Plan(folder, request, _known_items(request, folder, known), offline=True)

    def snapshot(part: str, source: HubSource) -> Snapshot:
        pinned = {item.revision for item in known if item.part == part and item.source == source.name}
        revision = source.revision or (pinned.pop() if len(pinned) == 1 else None)
        return read_snapshot(source, endpoint, revision, patience.timeout_s)

    items = [
        *_phi_items(snapshot("phi", request.phi)),
        _stored(request, "vision", VISION_FILE, patience),
        _stored(request, "qformer", QFORMER_FILE, patience),
        _checkpoint_item(snapshot("checkpoint", request.repo), request.checkpoint_file),
    ]
    there = {item.path: item for item in known}
    return Plan(folder, request, tuple(_with_hash(item, there.get(item.path)) for item in items))


def fetch_files(
    plan: Plan, *, patience: Patience | None = None, report: Report = lambda done, total, text: None
) -> Fetched:
    """Bring in what is missing, check what is there, and write the receipt. report: bytes done, bytes in all, a file.

    Raises FetchError; InvalidArgumentError never. What has come stays, and the next call continues with it.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _alone(plan.folder):
        _check_room(plan)
        items = list(plan.items)
        _save(plan.folder, items)
        before = 0
        for index, item in enumerate(items):

            def tell(done: int, before: int = before, name: str = item.path) -> None:
                report(before + done, plan.total_bytes, name)

            items[index] = _have(plan, item, patience or Patience(), tell)
            if items[index] != item:
                _save(plan.folder, items)
            before += item.bytes
            report(before, plan.total_bytes, item.path)
    return _fetched(plan, items)


def _fetched(plan: Plan, items: Sequence[Item]) -> Fetched:
    at = {item.part: plan.folder / item.path for item in items}
    return Fetched(plan.folder, at["phi"].parent, at["vision"], at["qformer"], at["checkpoint"], tuple(items))


# --- what is needed ---------------------------------------------------------------------------------------------------
def _phi_items(snapshot: Snapshot) -> list[Item]:
    source = snapshot.source
    paths = choose_phi_files(source, list(snapshot.files))
    return [_hub_item("phi", snapshot, path, f"{source.local_folder}/{path.rpartition('/')[2]}") for path in paths]


def _checkpoint_item(snapshot: Snapshot, name: str) -> Item:
    source = snapshot.source
    path = f"{source.folder}/{name}" if source.folder else name
    if path not in snapshot.files:
        weights = ", ".join(sorted(path for path in snapshot.files if path.endswith(".pth"))) or "no .pth file"
        raise FetchError(f"{source.name} has no {path}: it has {weights}")
    return _hub_item("checkpoint", snapshot, path, name)


def _hub_item(part: str, snapshot: Snapshot, path: str, local: str) -> Item:
    file = snapshot.files[path]
    return Item(local, part, snapshot.source.name, snapshot.commit, snapshot.url(path), file.bytes, file.digest)


def _stored(request: Request, part: str, name: str, patience: Patience) -> Item:
    url = f"{request.storage}/{name}"
    facts = ask(url, patience)
    return Item(name, part, request.storage, None, url, facts.bytes, facts.digest, facts.etag)


def _with_hash(item: Item, known: Item | None) -> Item:
    """``item`` with the hash of the receipt, if it is of the same bytes."""
    if known is None or known.sha256 is None:
        return item
    same = (item.source, item.revision, item.bytes, item.expected) == (
        known.source,
        known.revision,
        known.bytes,
        known.expected,
    )
    return dataclasses.replace(item, sha256=known.sha256) if same else item


def _known_items(request: Request, folder: Path, known: Sequence[Item]) -> tuple[Item, ...]:
    wanted = {"phi": request.phi.name, "checkpoint": request.repo.name}
    items = tuple(
        item
        for item in known
        if item.source == wanted.get(item.part, item.source)
        and (item.part != "checkpoint" or item.path == request.checkpoint_file)
    )
    lacking = sorted({"phi", "vision", "qformer", "checkpoint"} - {item.part for item in items})
    missing = [item.path for item in items if item.sha256 is None or not (folder / item.path).is_file()]
    if lacking or missing:
        what = ", ".join([*missing, *(f"all of {part}" for part in lacking)])
        raise FetchError(f"HF_HUB_OFFLINE forbids asking the hub, and {folder} lacks {what}")
    return items


# --- having it --------------------------------------------------------------------------------------------------------
def _have(plan: Plan, item: Item, patience: Patience, report: Callable[[int], None]) -> Item:
    """``item`` in its place, with its sha256."""
    path = plan.folder / item.path
    if path.exists():
        return dataclasses.replace(item, sha256=_check(path, item, report))
    token = hub_token() if item.revision is not None else None
    return dataclasses.replace(item, sha256=download(item, plan.folder, token, patience, report))


def _check(path: Path, item: Item, report: Callable[[int], None]) -> str:
    """The sha256 of a file that is there already. Raises FetchError if it is another one."""
    wrong: str | None
    if not path.is_file() or path.stat().st_size != item.bytes:
        size = f"it has {path.stat().st_size} bytes" if path.is_file() else "it is no file"
        wrong, sha256 = f"{size}, expected {item.bytes}", ""
    else:
        hasher = hash_file(path, item.expected.kind if item.expected else None, item.bytes, report)
        wrong, sha256 = hasher.why_not(item.expected), hasher.sha256
        if wrong is None and item.sha256 not in (None, sha256):
            wrong = f"its sha256 is {sha256}, and was {item.sha256} when it was fetched"
    if wrong:
        raise FetchError(f"{path} is not the file of {item.source}: {wrong}; move it away to fetch it again")
    return sha256


def _save(folder: Path, items: Sequence[Item]) -> None:
    """The receipt of these files, and of others in the folder that an earlier fetch brought."""
    ours = {item.path for item in items}
    write_receipt(folder, [*(item for item in read_receipt(folder) if item.path not in ours), *items])


def _check_room(plan: Plan) -> None:
    missing, free = sum(map(plan.missing_bytes, plan.items)), shutil.disk_usage(plan.folder).free
    if missing > free:
        raise FetchError(f"{plan.folder} has {free / 1e9:.2f} GB free, {missing / 1e9:.2f} GB are still to come")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two at once would write into each other's parts."""
    with open(folder / ".fetch.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FetchError(f"another process is fetching to {folder}") from error
        yield
