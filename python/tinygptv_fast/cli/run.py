"""Runs a command and turns everything that can go wrong into an exit code and one line on stderr."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from .. import env
from ..errors import ConfigError, TinyGPTVError

EXIT_OK, EXIT_OURS, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 0, 1, 2, 130, 141
_LONGEST_LINE = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tinygptv`` with ``argv`` (default: the process's arguments). Returns the exit code."""
    try:
        settings = env.read_settings()
    except ConfigError as error:
        return _fail(error, EXIT_BAD_INPUT)
    env.let_torch_wait_passively()
    logging.basicConfig(level=settings.log_level.upper(), format="tinygptv: %(levelname)s: %(message)s")
    for name in settings.unknown:
        print(f"tinygptv: note: {name} is not a setting of tinygptv and is ignored", file=sys.stderr)
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except typer.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        # Whoever read our output has gone; point stdout elsewhere so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except (TinyGPTVError, OSError) as error:
        return _fail(error, EXIT_BAD_INPUT, show_traceback=settings.traceback)
    except MemoryError:
        return _fail("out of memory; 'tinygptv doctor' shows what fits this machine", EXIT_OURS)
    except Exception as error:
        if settings.traceback:
            traceback.print_exc()
        what = f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
        return _fail(f"{what} (an error of ours; TINYGPTV_TRACEBACK=1 shows where)", EXIT_OURS)


def _run(argv: list[str]) -> int:
    from .app import app
    from .completion import check_shell

    check_shell(argv)
    command = typer.main.get_command(app)
    try:
        result = command.main(argv, prog_name="tinygptv", standalone_mode=False)
    except SystemExit as error:  # typer's answer to a closed pipe, and its end behind the completion options
        if not error.code:
            return EXIT_OK
        raise BrokenPipeError from error
    except Exception as error:
        usage = _usage_message(error)
        if usage is None:
            raise
        return _fail(usage, EXIT_BAD_INPUT)
    if result == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this exit code
        raise KeyboardInterrupt
    return result if isinstance(result, int) else EXIT_OK


def _usage_message(error: Exception) -> str | None:
    """What an argument error says, with the help to turn to; None for any other exception."""
    # Found by shape, not by class: the class has lived in three modules over typer's versions.
    if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tinygptv"
    return f"{error.format_message().rstrip('.')} (see '{path} --help')"


def _fail(error: BaseException | str, code: int, show_traceback: bool = False) -> int:
    if show_traceback and isinstance(error, BaseException):
        traceback.print_exception(error)
    print(f"tinygptv: error: {one_line(error)}", file=sys.stderr)
    return code


def one_line(error: BaseException | str) -> str:
    """``error`` as one line of bounded length; the lines of a list are joined by '; '."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        error = f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(lines).replace(":; ", ": ") or type(error).__name__
    return text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 4] + " ..."
