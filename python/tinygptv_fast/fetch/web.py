"""Requests over plain HTTP: redirects that keep secrets to their host, and errors in words. The standard library alone.

Proxies are those of the environment, as everywhere in Python.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from .. import __version__
from ..errors import FetchError
from .hashes import Digest

TRANSIENT = (408, 429, 500, 502, 503, 504)
BROKEN = (OSError, http.client.HTTPException)
"""What urllib raises when a connection cannot be made or breaks; HTTPError, which it also is, is an answer."""


@dataclass(frozen=True)
class Patience:
    """attempts: in a row without one new byte. delay_s: before the second attempt, doubled before each further one.
    timeout_s: of silence."""

    attempts: int = 6
    delay_s: float = 1.0
    timeout_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, attempt: int) -> None:
        """Before attempt number ``attempt``, counted from 1."""
        self.sleep(min(self.delay_s * 2 ** (attempt - 1), 60.0))


@dataclass(frozen=True)
class Facts:
    """What a server says of a file before it sends it."""

    bytes: int
    etag: str | None
    digest: Digest | None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the host it is for and to no other; nobody is sent from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        # Python 3.10 knows no 308, which means the same for requests without a body.
        new = super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)
        if new is None:
            return None
        new.method = req.get_method()  # before 3.13 a redirected HEAD becomes a GET
        old_at, new_at = urlsplit(req.full_url), urlsplit(new.full_url)
        if (old_at.scheme, new_at.scheme) == ("https", "http"):
            raise FetchError(f"{req.full_url} sends to {newurl}, which is not encrypted")
        if old_at.netloc != new_at.netloc:
            new.remove_header("Authorization")
        return new

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302


def open_url(url: str, headers: Mapping[str, str], timeout_s: float, method: str = "GET") -> http.client.HTTPResponse:
    """The response, after redirects. Raises urllib's HTTPError for an answer of 400 and above, one of BROKEN else."""
    request = urllib.request.Request(
        url, headers={"User-Agent": f"tinygptv_fast/{__version__}", **headers}, method=method
    )
    response: http.client.HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=timeout_s)
    return response


def ask(url: str, patience: Patience) -> Facts:
    """Size and hashes of the file at ``url``. Raises FetchError."""
    for attempt in range(patience.attempts):
        if attempt:
            patience.wait(attempt)
        try:
            with open_url(url, {}, patience.timeout_s, "HEAD") as response:
                return _facts(url, response.headers)
        except urllib.error.HTTPError as error:
            problem: Exception = error
            error.close()
            if error.code not in TRANSIENT:
                break
        except BROKEN as error:
            problem = error
    raise FetchError(describe(url, problem))


def _facts(url: str, headers: Any) -> Facts:
    length = headers.get("Content-Length", "")
    if not length.isdigit():
        raise FetchError(f"{url}: the server does not say how large the file is")
    etag = headers.get("ETag")
    return Facts(int(length), etag if etag and not etag.startswith("W/") else None, _md5(headers))


def _md5(headers: Any) -> Digest | None:
    """Google's storage states hashes as ``x-goog-hash: crc32c=..., md5=...``, base64; no md5 for what it composed."""
    for value in headers.get_all("x-goog-hash") or []:
        found = re.search(r"md5=([A-Za-z0-9+/]{22}==)", value)
        if found:
            try:
                return Digest("md5", base64.b64decode(found[1], validate=True).hex())
            except binascii.Error:
                return None
    return None


def describe(url: str, error: Exception) -> str:
    """One sentence on what went wrong with ``url``."""
    if isinstance(error, urllib.error.HTTPError):
        hint = "; it may need an account's token in HF_TOKEN" if error.code in (401, 403) else ""
        return f"{url} answered {error.code} {error.reason}{hint}"
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    return f"{url} could not be read: {reason}"
