"""``chat``: a conversation about a picture, on a terminal or line by line from a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidArgumentError, TinyGPTVError
from . import completion, options
from . import constraints as held
from .constraints import constraints
from .models import loaded, note
from .options import check_exists, check_task, check_template, need_model
from .output import printable
from .pictures import STDIN, read_picture
from .run import one_line

if TYPE_CHECKING:
    from ..generate import Answer, Chat, TinyGPTV

HELP = """\
  /image FILE   show another picture; the next question may be about it
  /reset        forget what was said; the pictures stay
  /new [FILE]   begin anew, with a picture or without one
  /history      what was said so far
  /save FILE    keep the conversation, to go on with by --load FILE
  /help         this list
  /quit         end (so does the end of input, Ctrl-D)
Everything else is a question. A line that begins with // is a question that begins with /."""


def chat(
    image: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="The picture to talk about; /image shows more.")
    ] = None,
    model: options.Model = None,
    backend: options.Backend = "native",
    load: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Go on with a conversation that /save has kept.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message, for templates that have a place for one.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Put a task tag before every question: vqa, grounding, detection, ...",
            autocompletion=completion.tasks,
        ),
    ] = None,
    template: options.Template = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Sample at this temperature; 0 or not given is greedy.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --temperature: the same answers again.")] = None,
    boxes: held.Boxes = None,
    json_schema: held.JsonSchema = None,
    regex: held.Regex = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    json_output: Annotated[bool, typer.Option("--json", help="Write every answer as one line of json.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Talk with a model about a picture; it is seen once, and remembered with what was said.

    Questions come from the terminal, or a line each from standard input. Ctrl-C stops an answer. /help lists the
    commands.
    """
    check_task(task)
    check_template(template)
    name = need_model(model, "chat")
    check_exists("--load", load)
    if image == STDIN:
        raise InvalidArgumentError("image is -, but chat reads its questions from standard input; expected a file")
    if load is not None and (image is not None or system is not None or template is not None):
        raise InvalidArgumentError("--load brings its own picture, system message and template, expected without them")
    picture = None if image is None else read_picture(image)
    given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    form = constraints(boxes=boxes, json_schema=json_schema, regex=regex)
    settings = {key: value for key, value in given.items() if value is not None} | form
    with loaded(name, backend=backend, dtype=dtype, threads=threads, quiet=quiet) as opened:

        def begin(shown: Any) -> Chat:
            return opened.chat(shown, template=template, system=system, **settings)

        talk = begin(picture) if load is None else opened.load_chat(load)
        _Session(opened, begin, talk, task, settings, sys.stdin.isatty(), json_output, quiet).run()


@dataclass
class _Session:
    """The loop: a line, what it means, what is said back."""

    model: TinyGPTV
    begin: Callable[[Any], Chat]
    chat: Chat
    task: str | None
    settings: dict[str, Any]  # of this command: they go before those of a conversation that was loaded
    interactive: bool
    json_output: bool
    quiet: bool
    shown: Any = None  # a picture that waits for its question

    def run(self) -> None:
        """Until /quit or the end of input. An error is told, and the talk goes on; in a pipe it ends there."""
        if self.interactive and not self.quiet:
            note(f"{self.model.info['path']}: ask away; /help lists the commands, /quit ends", quiet=False)
        for line in self._lines():
            try:
                if not self._take(line):
                    return
            except (TinyGPTVError, OSError) as error:
                if not self.interactive:
                    raise
                note(f"error: {one_line(error)}", quiet=False)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                note("\n(stopped; not part of the conversation)", quiet=self.quiet)

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            yield from sys.stdin
            return
        try:
            import readline  # noqa: F401  # input() then has a history and can be edited
        except ImportError:
            pass
        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return

    def _take(self, line: str) -> bool:
        """Do what a line says; False ends the session."""
        line = line.strip()
        if not line:
            return True
        if line.startswith("/") and not line.startswith("//"):
            command, _, rest = line[1:].partition(" ")
            return self._command(command, rest.strip())
        self._ask(line[1:] if line.startswith("//") else line)
        return True

    def _command(self, command: str, rest: str) -> bool:
        if command in ("quit", "exit"):
            return False
        if command == "help":
            print(HELP)
        elif command == "image":
            self.shown = self.model.encode_image(_need(command, rest, "a picture file"))
            note(f"{rest} comes with the next question", quiet=self.quiet)
        elif command == "reset":
            self.chat.reset()
            self.shown = None
            note("forgot what was said", quiet=self.quiet)
        elif command == "new":
            self.chat, self.shown = self.begin(rest or None), None
            note("a new conversation", quiet=self.quiet)
        elif command == "history":
            self._history()
        elif command == "save":
            self.chat.save(_need(command, rest, "a file name"))
            note(f"kept in {rest}; go on with it by --load {rest}", quiet=self.quiet)
        else:
            raise InvalidArgumentError(f"/{command} is no command, expected one that /help lists")
        return True

    def _ask(self, text: str) -> None:
        answer = None
        for piece in self.chat.stream(text, image=self.shown, task=self.task, **self.settings):
            if not self.json_output:
                sys.stdout.write(printable(piece.text))
                sys.stdout.flush()
            answer = piece.answer or answer
        self.shown = None
        assert answer is not None  # for the type checker: the last piece has it
        self._say(answer)

    def _say(self, answer: Answer) -> None:
        if self.json_output:
            print(json.dumps(answer.to_dict(), ensure_ascii=False, allow_nan=False), flush=True)
            return
        print(flush=True)
        for box in answer.boxes:
            corners = " ".join(f"{value:.1f}" for value in box.xyxy)
            print(f"  {corners}  {printable(box.label)}" if box.label else f"  {corners}")
        if answer.dropped_turns:
            note(f"(the {answer.dropped_turns} oldest turns are out of sight: the context is full)", quiet=self.quiet)

    def _history(self) -> None:
        for message in self.chat.messages:
            content = message["content"]
            parts = [content] if isinstance(content, str) else [part.get("text", "[picture]") for part in content]
            print(printable(f"{message['role']}: {' '.join(parts)}"))


def _need(command: str, rest: str, what: str) -> str:
    if not rest:
        raise InvalidArgumentError(f"/{command} stands alone, expected {what} behind it")
    return rest
