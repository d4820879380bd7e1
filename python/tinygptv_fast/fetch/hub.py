"""What the hub says of a repository: its commit, its files, their sizes and hashes. Asked through huggingface_hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import FetchError
from .hashes import Digest
from .sources import HubSource


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: bytes, and the hash its bytes must have."""

    path: str
    bytes: int
    digest: Digest | None


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit, which no later push changes."""

    source: HubSource
    endpoint: str
    commit: str
    files: dict[str, HubFile]

    def url(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        kind = "space" if self.source.space else None
        return str(hf_hub_url(self.source.id, path, repo_type=kind, revision=self.commit, endpoint=self.endpoint))


def hub_token() -> str | None:
    """The account's token, if huggingface_hub knows one (HF_TOKEN, or a login)."""
    from huggingface_hub import get_token

    return get_token()


def read_snapshot(source: HubSource, endpoint: str, revision: str | None, timeout_s: float) -> Snapshot:
    """``source`` at ``revision``, else at the head of its main branch. Raises FetchError in one sentence."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub_errors

    # Connections that fail are OSErrors before version 1 of the library, errors of httpx's since.
    broken = getattr(hub_errors, "HTTPError", OSError)
    raised = (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, broken, OSError)
    where = f"{source.name}{'@' + revision if revision else ''} at {endpoint}"
    try:
        info: Any = HfApi(endpoint=endpoint).repo_info(
            source.id,
            revision=revision,
            repo_type="space" if source.space else "model",
            files_metadata=True,
            timeout=timeout_s,
        )
    except raised as error:
        raise FetchError(f"the hub does not give {where}: {_reason(error)}") from error
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
        raise FetchError(f"the hub names no commit of {where}")
    return Snapshot(source, endpoint, info.sha, {f.path: f for f in map(_file, info.siblings or [])})


def _file(sibling: Any) -> HubFile:
    size = sibling.size
    if type(size) is not int or size < 0:
        raise FetchError(f"the hub does not say how large {sibling.rfilename} is")
    if sibling.lfs is not None:
        lfs = sibling.lfs
        sha256 = lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256
        return HubFile(sibling.rfilename, size, Digest("sha256", str(sha256).lower()))
    blob = sibling.blob_id
    digest = Digest("git-blob", blob) if isinstance(blob, str) and re.fullmatch(r"[0-9a-f]{40}", blob) else None
    return HubFile(sibling.rfilename, size, digest)


def _reason(error: BaseException) -> str:
    """The first line that says something: the library's messages are paragraphs of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
