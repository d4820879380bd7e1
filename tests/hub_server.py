"""A hub and a plain store on 127.0.0.1, speaking what the real ones speak as far as we use it, and failing on demand.

The hub: repository info with ``blobs=true``, its tree, ``resolve`` with its headers, large files by a redirect to
another host name (localhost for 127.0.0.1). The store: ETag, x-goog-hash, ranges, If-Range. ``log`` has every request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 20_000  # bytes from which a file is kept apart, as large ones are on the hub
_INFO = re.compile(r"/api/(models|spaces)/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/(models|spaces)/([^/]+/[^/]+)/tree/([^/]+)")
_RESOLVE = re.compile(r"/(spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HubServer:
    """repos: by "models/owner/name" or "spaces/owner/name", files by path. faults: by a part of the path, one for each
    GET of it that is still to fail: a status ("404"), "cut:N" (N bytes, then the connection breaks), "damage" (one bit
    is another), "shrink:N" (the file has N bytes only), "no ranges", "stall:N" (N bytes, then silence until ``stalled``
    is set)."""

    port: int = 0
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    states_md5: bool = True
    faults: dict[str, list[str]] = field(default_factory=dict)
    log: list[Seen] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def gets(self, part: str) -> list[Seen]:
        """The GETs so far whose path holds ``part``."""
        return [seen for seen in self.log if seen.method == "GET" and part in seen.path]

    def fault(self, path: str) -> str:
        """The next fault of a GET of ``path``; "" for none."""
        for part, left in self.faults.items():
            if part in path and left:
                return left.pop(0)
        return ""


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append(Seen(self.command, self.path, dict(self.headers)))
        fault = self.hub.fault(path) if self.command == "GET" else ""
        if fault.isdigit():
            return self._end(int(fault), {}, b"no")
        if found := _INFO.fullmatch(path):
            return self._info(f"{found[1]}/{found[2]}", found[3])
        if found := _TREE.fullmatch(path):
            return self._tree(f"{found[1]}/{found[2]}", found[3])
        if found := _RESOLVE.fullmatch(path):
            return self._resolve(f"{found[1] or 'models/'}{found[2]}", found[3], found[4], fault)
        if path.startswith("/large/"):
            files = [data for files in self.hub.repos.values() for data in files.values()]
            return self._file({hashlib.sha256(data).hexdigest(): data for data in files}.get(path[7:]), {}, fault)
        if path.startswith("/store/"):
            return self._stored(self.hub.store.get(path[7:]), fault)
        return self._end(404, {}, b"no such page")

    def _commit(self, repo: str, revision: str | None) -> str | None:
        """The commit, or None after an answer that there is none."""
        commit = self.hub.commits.get(repo, COMMIT)
        if repo not in self.hub.repos:
            self._end(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b"{}")
        elif revision not in (None, "main", commit):
            self._end(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b"{}")
        else:
            return commit
        return None

    def _info(self, repo: str, revision: str | None) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        siblings = []
        for path, data in self.hub.repos[repo].items():
            one: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_blob(data)}
            if len(data) >= LARGE:
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(one)
        name = repo.partition("/")[2]
        info = {"_id": "0", "id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        self._end(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _tree(self, repo: str, revision: str) -> None:
        if self._commit(repo, revision) is None:
            return
        files = []
        for path, data in self.hub.repos[repo].items():
            one: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}
            if len(data) >= LARGE:
                one["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            files.append(one)
        self._end(200, {"Content-Type": "application/json"}, json.dumps(files).encode())

    def _resolve(self, repo: str, revision: str, path: str, fault: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        data = self.hub.repos[repo].get(path)
        if data is None:
            return self._end(404, {"X-Error-Code": "EntryNotFound"}, b"Entry not found")
        if len(data) < LARGE:
            return self._file(data, {"X-Repo-Commit": commit, "ETag": f'"{git_blob(data)}"'}, fault)
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        headers["Location"] = f"http://localhost:{self.hub.port}/large/{sha256}"
        if fault:
            self.hub.faults.setdefault(sha256, []).append(fault)
        return self._end(302, headers, b"")

    def _stored(self, data: bytes | None, fault: str) -> None:
        if data is None:
            return self._end(404, {}, b"NoSuchKey")
        md5 = hashlib.md5(data)
        headers = {"ETag": f'"{md5.hexdigest()}"'}
        if self.hub.states_md5:
            headers["x-goog-hash"] = f"crc32c=AAAAAA==, md5={base64.b64encode(md5.digest()).decode()}"
        return self._file(data, headers, fault)

    def _file(self, data: bytes | None, headers: dict[str, str], fault: str) -> None:
        if data is None:
            return self._end(404, {}, b"no such file")
        kind, _, number = fault.partition(":")
        if kind == "shrink":
            data = data[: int(number)]
        if kind == "damage":
            data = bytes([data[0] ^ 1]) + data[1:]
        first, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, headers.get("ETag"))
        if asked and same and kind != "no ranges":
            first, status = int(asked[1]), 206
            if first >= len(data):
                return self._end(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            headers = {**headers, "Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        stop = int(number) if kind in ("cut", "stall") else None
        self._end(status, {**headers, "Accept-Ranges": "bytes"}, data[first:], stop)
        if kind == "stall":
            self.wfile.flush()
            self.hub.stalled.wait(300)

    def _end(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        self.close_connection = True


@contextmanager
def serving() -> Iterator[HubServer]:
    """A server in a thread of its own, gone at the end."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stalled.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
