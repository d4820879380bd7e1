"""Where the files of a TinyGPT-V come from, and which of a repository's files are needed. Asks no server.

Sources: the original's README (https://github.com/DLYuanGod/TinyGPT-V) links the stage checkpoints on the hub and the
demo's Space; issue 11 there sends users to that Space's folder for the Phi-2 with the layout its code was written for.
The two BLIP-2 files are those whose addresses stand in ``minigpt4/models/eva_vit.py`` and ``minigpt_v2.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import FetchError, InvalidArgumentError

DEFAULT_REPO = "Tyrannosaurus/TinyGPT-V"
DEFAULT_PHI = "spaces/llizhx/TinyGPT-V/phi-2"
DEFAULT_STORAGE = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2"
VISION_FILE, QFORMER_FILE = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"
STAGES = (1, 2, 3, 4)

_SOURCE = re.compile(
    r"(?P<space>spaces/)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?P<folder>(?:/[\w-][\w.-]*)+)?"
    r"(?:@(?P<revision>[\w][\w./-]*))?"
)
_SMALL = re.compile(
    r"config\.json|generation_config\.json|tokenizer(_config)?\.json|vocab\.json|merges\.txt|added_tokens\.json"
    r"|special_tokens_map\.json"
)
# In the order in which the conversion looks for them: one file, or an index and its shards.
_WEIGHTS = (
    ("model.safetensors", r"model\.safetensors"),
    ("model.safetensors.index.json", r"model\.safetensors\.index\.json|model-\d+-of-\d+\.safetensors"),
    ("pytorch_model.bin", r"pytorch_model\.bin"),
    ("pytorch_model.bin.index.json", r"pytorch_model\.bin\.index\.json|pytorch_model-\d+-of-\d+\.bin"),
)
_SHARD = re.compile(r".*-\d+-of-(\d+)\.\w+")


@dataclass(frozen=True)
class HubSource:
    """``folder`` of a repository of the hub, "" for its top. space: it is a Space. revision None: its main branch."""

    id: str
    space: bool = False
    folder: str = ""
    revision: str | None = None

    @property
    def name(self) -> str:
        """As it is written on the command line, without the revision."""
        return ("spaces/" if self.space else "") + self.id + (f"/{self.folder}" if self.folder else "")

    @property
    def local_folder(self) -> str:
        """Another one for every source: files of two must never meet in one folder."""
        if self.folder:
            return self.folder.replace("/", "-")
        return self.id.replace("/", "-")


@dataclass(frozen=True)
class Request:
    """What is wanted. ``storage``: the address under which the two BLIP-2 files lie."""

    stage: int
    repo: HubSource
    phi: HubSource
    storage: str = DEFAULT_STORAGE

    @property
    def checkpoint_file(self) -> str:
        return f"TinyGPT-V_for_Stage{self.stage}.pth"

    @classmethod
    def parse(
        cls, stage: int, repo: str = DEFAULT_REPO, phi: str = DEFAULT_PHI, storage: str = DEFAULT_STORAGE
    ) -> Request:
        """Raises InvalidArgumentError naming the argument."""
        if type(stage) is not int or stage not in STAGES:
            raise InvalidArgumentError(f"stage is {stage!r}, expected 1, 2, 3 or 4")
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", storage):
            raise InvalidArgumentError(f"storage is {storage!r}, expected an address like {DEFAULT_STORAGE}")
        return cls(stage, parse_source("repo", repo), parse_source("phi", phi), storage.rstrip("/"))


def parse_source(argument: str, text: str) -> HubSource:
    """``[spaces/]owner/name[/folder][@revision]``. Raises InvalidArgumentError naming ``argument``."""
    found = _SOURCE.fullmatch(text)
    if found is None or ".." in text:
        raise InvalidArgumentError(
            f"{argument} is {text!r}, expected a hub id owner/name, with spaces/ before it for a Space, /folder and "
            "@revision behind it where needed"
        )
    return HubSource(found["id"], bool(found["space"]), (found["folder"] or "").strip("/"), found["revision"])


def fetch_command(repo: str, files: Sequence[str] = ()) -> str:
    """The command that makes a model directory of ``repo``, which has these files: its highest stage."""
    stages = [int(found[1]) for name in files if (found := re.fullmatch(r"TinyGPT-V_for_Stage([1-4])\.pth", name))]
    other = "" if repo == DEFAULT_REPO else f" --repo {repo}"
    return f"tinygptv fetch --stage {max(stages, default=4)}{other} --out ./tinygptv --convert"


def choose_phi_files(source: HubSource, files: Sequence[str]) -> list[str]:
    """Those of ``files`` (paths in the repository) that a conversion reads. Raises FetchError if it could not."""
    prefix = f"{source.folder}/" if source.folder else ""
    here = {path.removeprefix(prefix) for path in files if path.startswith(prefix) and "/" not in path[len(prefix) :]}
    small = sorted(name for name in here if _SMALL.fullmatch(name))
    weights = _weights(source, here)
    tokenizer = "tokenizer.json" in here or {"vocab.json", "merges.txt"} <= here
    for need, there in {
        "config.json": "config.json" in small,
        "tokenizer.json, or vocab.json and merges.txt": tokenizer,
        "weights (model.safetensors or pytorch_model.bin, or shards of either)": bool(weights),
    }.items():
        if not there:
            raise FetchError(f"{source.name} has no {need}: it has {_some(here)}")
    return [prefix + name for name in [*small, *weights]]


def _weights(source: HubSource, here: set[str]) -> list[str]:
    for first, pattern in _WEIGHTS:
        if first in here:
            chosen = sorted(name for name in here if re.fullmatch(pattern, name))
            shards = [int(found[1]) for name in chosen if (found := _SHARD.fullmatch(name))]
            if "index" in first and (not shards or len(shards) != shards[0]):
                raise FetchError(f"{source.name} has {first} but {len(shards)} of its shards: it has {_some(here)}")
            return chosen
    return []


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "no files"
