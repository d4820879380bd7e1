"""The original's files from where their authors keep them: which, how large, from which commit; whole, or continued.

``run`` is the way in; this names only what the command line needs before it does anything.

Knows servers, files and hashes; nothing of what is in the files. Needs no torch.
"""

from .sources import DEFAULT_PHI, DEFAULT_REPO, DEFAULT_STORAGE, STAGES, Request, fetch_command

__all__ = ["DEFAULT_PHI", "DEFAULT_REPO", "DEFAULT_STORAGE", "STAGES", "Request", "fetch_command"]
