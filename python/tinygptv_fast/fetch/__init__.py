"""The original's files from where their authors keep them: which, how large, from which commit; whole, or continued.

Knows servers, files and hashes; nothing of what is in the files. Needs no torch.
"""

from .receipt import RECEIPT, Item
from .run import Fetched, Plan, fetch_files, plan_fetch
from .sources import DEFAULT_PHI, DEFAULT_REPO, DEFAULT_STORAGE, STAGES, Request, fetch_command

__all__ = [
    "DEFAULT_PHI",
    "DEFAULT_REPO",
    "DEFAULT_STORAGE",
    "RECEIPT",
    "STAGES",
    "Fetched",
    "Item",
    "Plan",
    "Request",
    "fetch_command",
    "fetch_files",
    "plan_fetch",
]
