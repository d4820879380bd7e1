"""A whole fetch from a local hub and store: what is taken, at which commit, what continues, mirrors, offline."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub_server import COMMIT, LARGE, HubServer, serving
from tinygptv_fast.errors import FetchError
from tinygptv_fast.fetch import Request
from tinygptv_fast.fetch.run import Fetched, Plan, fetch_files, plan_fetch
from tinygptv_fast.fetch.sources import parse_source
from tinygptv_fast.fetch.web import Patience

REPO, SPACE = "models/Tyrannosaurus/TinyGPT-V", "spaces/llizhx/TinyGPT-V"
QUICK = Patience(attempts=3, delay_s=0, timeout_s=10)
PROGRAM = "import sys; from tinygptv_fast.cli import main; sys.exit(main())"
PATHS = {
    "TinyGPT-V_for_Stage4.pth",
    "blip2_pretrained_flant5xxl.pth",
    "eva_vit_g.pth",
    "fetch.json",
    "phi-2/config.json",
    "phi-2/model-00001-of-00002.safetensors",
    "phi-2/model-00002-of-00002.safetensors",
    "phi-2/model.safetensors.index.json",
    "phi-2/tokenizer.json",
}


def plan(hub: HubServer, request: Request, out: Path) -> Plan:
    return plan_fetch(request, out, endpoint=hub.url, patience=QUICK)


def fetch(hub: HubServer, request: Request, out: Path) -> Fetched:
    return fetch_files(plan(hub, request, out), patience=QUICK)


def there(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {".fetch.lock"}


def original(hub: HubServer, path: str) -> bytes:
    space, repo = hub.repos[SPACE], hub.repos[REPO]
    return space.get(path) or repo.get(path) or hub.store[path]


def test_everything_arrives_and_the_receipt_says_from_where(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    made = plan(hub, request_4, tmp_path)
    assert there(tmp_path) == set() and made.total_bytes == sum(made.missing_bytes(item) for item in made.items)
    done = fetch_files(made, patience=QUICK)
    assert there(tmp_path) == PATHS
    assert (done.phi, done.vision) == (tmp_path / "phi-2", tmp_path / "eva_vit_g.pth")
    assert (done.qformer.name, done.checkpoint.name) == ("blip2_pretrained_flant5xxl.pth", "TinyGPT-V_for_Stage4.pth")
    entries = {one["path"]: one for one in json.loads((tmp_path / "fetch.json").read_text())["files"]}
    assert set(entries) == PATHS - {"fetch.json"}
    for path, entry in entries.items():
        data = (tmp_path / path).read_bytes()
        assert data == original(hub, path)
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        stored = path in hub.store
        assert entry["revision"] == (None if stored else COMMIT)
        kind = "md5" if stored else "sha256" if len(data) >= LARGE else "git-blob"
        assert entry["checked_against"] == f"the {kind} that the server states"
        assert entry["url"].startswith(hub.url) and (stored or f"/resolve/{COMMIT}/" in entry["url"])


def test_the_token_is_sent_to_the_hub_and_to_nobody_else(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    fetch(hub, request_4, tmp_path)
    resolved, elsewhere = hub.gets("/resolve/"), [*hub.gets("/large/"), *hub.gets("/store/")]
    assert len(resolved) == 6 and all(seen.headers["Authorization"] == "Bearer hf_secret" for seen in resolved)
    assert len(elsewhere) == 5 and not any("Authorization" in seen.headers for seen in elsewhere)


def test_nothing_is_fetched_twice(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    fetch(hub, request_4, tmp_path)
    hub.log.clear()
    again = plan(hub, request_4, tmp_path)
    assert sum(map(again.missing_bytes, again.items)) == 0
    fetch_files(again, patience=QUICK)
    assert [seen.path for seen in hub.log if seen.method == "GET" and "/api/" not in seen.path] == []


def test_another_stage_takes_only_its_checkpoint(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    fetch(hub, request_4, tmp_path)
    hub.log.clear()
    fetch(hub, dataclasses.replace(request_4, stage=3), tmp_path)
    assert [seen.path.rpartition("/")[2] for seen in hub.gets("/resolve/")] == ["TinyGPT-V_for_Stage3.pth"]
    names = {one["path"] for one in json.loads((tmp_path / "fetch.json").read_text())["files"]}
    assert names == PATHS - {"fetch.json"} | {"TinyGPT-V_for_Stage3.pth"}


def test_a_cut_fetch_continues_at_the_commit_it_began_with(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    hub.faults["eva_vit_g.pth"] = ["404"]
    with pytest.raises(FetchError, match="answered 404"):
        fetch(hub, request_4, tmp_path)
    hub.commits[SPACE] = "f" * 40  # somebody pushed
    with pytest.raises(FetchError, match=rf"spaces/llizhx/TinyGPT-V/phi-2@{COMMIT} at .*"):
        fetch(hub, request_4, tmp_path)  # our small hub keeps no old commits, the real one does
    hub.commits.clear()
    hub.log.clear()
    fetch(hub, request_4, tmp_path)
    assert there(tmp_path) == PATHS and not hub.gets("model-0000")


def test_a_revision_on_the_command_line_is_asked_for(hub: HubServer, tmp_path: Path) -> None:
    asked = Request.parse(4, repo=f"Tyrannosaurus/TinyGPT-V@{COMMIT}", storage=f"{hub.url}/store")
    fetch(hub, asked, tmp_path)
    assert hub.gets(f"/api/models/Tyrannosaurus/TinyGPT-V/revision/{COMMIT}")
    with pytest.raises(FetchError, match="TinyGPT-V@nothing at"):
        plan(hub, dataclasses.replace(asked, repo=parse_source("repo", "Tyrannosaurus/TinyGPT-V@nothing")), tmp_path)


@pytest.mark.parametrize("name", ["model-00001", "eva_vit_g.pth", "config.json"])
def test_damage_is_noticed_whatever_hash_the_server_states(
    hub: HubServer, request_4: Request, tmp_path: Path, name: str
) -> None:
    hub.faults[name] = ["damage"]
    with pytest.raises(FetchError, match="sent damaged bytes"):
        fetch(hub, request_4, tmp_path)
    assert not any(name in path for path in there(tmp_path))
    fetch(hub, request_4, tmp_path)
    assert there(tmp_path) == PATHS


def test_a_file_that_was_changed_here_is_not_taken_for_the_fetched_one(
    hub: HubServer, request_4: Request, tmp_path: Path
) -> None:
    hub.states_md5 = False
    fetch(hub, request_4, tmp_path)
    path = tmp_path / "eva_vit_g.pth"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(FetchError, match=r"eva_vit_g.pth is not the file of .*and was \w+ when it was fetched"):
        fetch(hub, request_4, tmp_path)
    path.write_bytes(b"short")
    with pytest.raises(FetchError, match="it has 5 bytes, expected 2500000; move it away"):
        fetch(hub, request_4, tmp_path)


def test_a_file_brought_by_hand_is_taken_if_it_is_the_right_one(
    hub: HubServer, request_4: Request, tmp_path: Path
) -> None:
    (tmp_path / "eva_vit_g.pth").write_bytes(hub.store["eva_vit_g.pth"])
    fetch(hub, request_4, tmp_path)
    assert hub.gets("/store/eva_vit_g.pth") == []


def test_a_mirror_gets_every_request_of_the_hub(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    with serving() as mirror:
        mirror.repos = hub.repos
        fetch(mirror, request_4, tmp_path)
        assert mirror.gets("/resolve/") and mirror.gets("/api/spaces/")
    assert {seen.path.split("/")[1] for seen in hub.log} == {"store"}


def test_what_the_hub_does_not_have(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    del hub.repos[REPO]["TinyGPT-V_for_Stage4.pth"]
    with pytest.raises(FetchError, match=r"no TinyGPT-V_for_Stage4.pth: it has TinyGPT-V_for_Stage1.pth, "):
        plan(hub, request_4, tmp_path)
    del hub.repos[SPACE]
    with pytest.raises(FetchError, match="the hub does not give spaces/llizhx/TinyGPT-V/phi-2 at http") as caught:
        plan(hub, request_4, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(FetchError, match="the hub does not give"):
        plan_fetch(request_4, tmp_path, endpoint="http://127.0.0.1:9", patience=QUICK)


def test_offline_what_is_there_is_checked_and_nobody_is_asked(
    hub: HubServer, request_4: Request, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match=r"HF_HUB_OFFLINE forbids asking the hub, and .* lacks all of checkpoint, all"):
        plan_fetch(request_4, tmp_path, offline=True)
    fetch(hub, request_4, tmp_path)
    hub.log.clear()
    made = plan_fetch(request_4, tmp_path, offline=True)
    assert fetch_files(made).phi == tmp_path / "phi-2" and hub.log == []
    with pytest.raises(FetchError, match="lacks all of checkpoint"):
        plan_fetch(dataclasses.replace(request_4, stage=2), tmp_path, offline=True)
    (tmp_path / "phi-2" / "config.json").unlink()
    with pytest.raises(FetchError, match=r"lacks phi-2/config\.json"):
        plan_fetch(request_4, tmp_path, offline=True)


def test_two_at_once_are_refused(hub: HubServer, request_4: Request, tmp_path: Path) -> None:
    with open(tmp_path / ".fetch.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FetchError, match="another process is fetching to"):
            fetch(hub, request_4, tmp_path)


def test_a_full_disk_is_said_before_anything_comes(
    hub: HubServer, request_4: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(hub, request_4, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(FetchError, match=r"0\.00 GB free, 0\.01 GB are still to come"):
        fetch_files(made, patience=QUICK)
    assert hub.gets("/resolve/") == []


def test_ctrl_c_leaves_a_part_that_the_same_command_continues(hub: HubServer, tmp_path: Path) -> None:
    """The real command in a process of its own, interrupted while the server is silent."""
    hub.store["eva_vit_g.pth"] = bytes(12_000_000)
    hub.faults["eva_vit_g.pth"] = ["stall:3000000"]
    command = [sys.executable, "-c", PROGRAM, "fetch", "--stage", "4", "--out", str(tmp_path / "x")]
    command += ["--storage", f"{hub.url}/store"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "x" / "eva_vit_g.pth.part"
    until = time.monotonic() + 200
    while time.monotonic() < until and not (part.exists() and part.stat().st_size >= 2_000_000):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    hub.stalled.set()
    assert process.returncode == 130 and "the same command continues" in err and "Traceback" not in err
    came = part.stat().st_size
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=200)
    assert f"{hub.gets('/store/eva')[-1].headers['Range']}" == f"bytes={came}-" and " to come" in again.stdout
    assert (tmp_path / "x" / "eva_vit_g.pth").read_bytes() == bytes(12_000_000)
