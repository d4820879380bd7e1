"""The command line ``tinygptv``: arguments in, text or json out. All work is done by the modules it calls.

Importing this package, ``--help``, ``--version`` and argument errors do not import torch. Exit codes: 0 done, 2 bad
input or a request this build cannot serve (one line on stderr, no traceback), 130 interrupted, 1 an error of ours.
"""

from .run import main

__all__ = ["main"]
