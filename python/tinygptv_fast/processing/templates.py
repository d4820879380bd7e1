"""The conversation templates of every stage, as data. Knows nothing of tokens, models or pictures.

The original repository holds templates that disagree with each other: training, evaluation and the two demos each wrap
a question differently, and a checkpoint answers best in the form it was trained on. Here each has a name, one renderer
and one generated jinja text (``chat_template.jinja`` of a model directory).

A rendered conversation is::

    system system_end  { user TEXT [image_suffix] user_end  assistant [TEXT assistant_end] } ...
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..errors import PromptError

PLACEHOLDER = "<ImageHere>"
IMAGE_MARKUP = f"<Img>{PLACEHOLDER}</Img>"
RESERVED = (PLACEHOLDER, "<Img>", "</Img>", "###")
"""Strings that mean something to every template, hence refused in a user's own text."""

_SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)


@dataclass(frozen=True)
class Template:
    """How turns become one prompt. All strings are used to the letter; an empty string is nothing.

    ``stop``: the answer ends before the first of these. ``markers``: strings of this template, besides ``RESERVED``,
    that user text may not contain. ``image_suffix`` follows a user's text once a picture has appeared (the original's
    stage-4 data puts a space there, and two spaces are one token of their own). ``verbatim`` is the "raw" template:
    one prompt, used as it is, nothing added, nothing refused, no stop strings.
    """

    name: str
    description: str = ""
    system: str = ""
    system_end: str = ""
    user: str = ""
    user_end: str = ""
    assistant: str = ""
    assistant_end: str = ""
    image_suffix: str = ""
    stop: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    accepts_system: bool = False
    verbatim: bool = False

    def reserved_in(self, text: str) -> str | None:
        """The first reserved string that ``text`` contains, or None. Always None for a verbatim template."""
        if self.verbatim:
            return None
        return next((mark for mark in (*RESERVED, *self.markers) if mark in text), None)

    def render(self, turns: Sequence[tuple[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation.

        ``turns``: (role, text) with roles ``system`` (first only, if at all), then ``user`` and ``assistant`` in
        alternation. Texts carry ``<Img><ImageHere></Img>`` where a picture stands; they are not checked here (see
        ``prompt.render``). With ``add_generation_prompt`` a conversation that ends with the user gets the
        assistant's prefix.

        Raises ``PromptError`` for an unknown role, a wrong order, or a system turn the template has no place for.
        """
        turns = list(turns)
        if self.verbatim:
            if [role for role, _ in turns] != ["user"]:
                raise PromptError(f"template {self.name!r} takes exactly one user turn, got {len(turns)} turns")
            return turns[0][1]
        system = self.system
        if turns and turns[0][0] == "system":
            if not self.accepts_system:
                raise PromptError(f"template {self.name!r} has no place for a system message")
            system = turns.pop(0)[1]
        pieces = [system, self.system_end]
        seen_image = False
        for index, (role, text) in enumerate(turns):
            expected = ("user", "assistant")[index % 2]
            if role != expected:
                raise PromptError(f"messages: turn {index} has role {role!r}, expected {expected!r}")
            if role == "user":
                seen_image = seen_image or PLACEHOLDER in text
                pieces += [self.user, text, self.image_suffix if seen_image else "", self.user_end]
            else:
                pieces += [self.assistant, text, self.assistant_end]
        if add_generation_prompt and len(turns) % 2:
            pieces.append(self.assistant)
        return "".join(pieces)

    def jinja(self) -> str:
        """The same rendering as a jinja template in Hugging Face's convention (``messages``,
        ``add_generation_prompt``, ``raise_exception``); the text of ``chat_template.jinja``."""
        if self.verbatim:
            return _JINJA_VERBATIM.replace("@name", json.dumps(self.name))
        out = _JINJA
        for key in ("name", "system_end", "system", "user_end", "user", "assistant_end", "assistant", "image_suffix"):
            out = out.replace(f"@{key}@", json.dumps(getattr(self, key)))
        return out.replace("@accepts_system@", "true" if self.accepts_system else "false")

    def cut(self, text: str) -> str:
        """``text`` up to the first stop string, stripped of surrounding white space."""
        ends = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        return text[: min(ends, default=len(text))].strip()


_JINJA_VERBATIM = """\
{#- tinygptv_fast template @name -#}
{%- if messages | length != 1 or messages[0]['role'] != 'user' -%}
{{- raise_exception('this template takes exactly one user message') -}}
{%- endif -%}
{%- if messages[0]['content'] is string -%}
{{- messages[0]['content'] -}}
{%- else -%}
{%- for part in messages[0]['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
"""

_JINJA = """\
{#- tinygptv_fast template @name@ -#}
{%- macro flat(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if not loop.first -%}{{- ' ' -}}{%- endif -%}
{%- if part['type'] == 'image' -%}
{{- '<Img><ImageHere></Img>' -}}
{%- elif part['type'] == 'text' -%}
{{- part['text'] -}}
{%- else -%}
{{- raise_exception('content parts are of type image or text') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- if not @accepts_system@ -%}{{- raise_exception('this template has no place for a system message') -}}{%- endif -%}
{{- flat(messages[0]['content']) + @system_end@ -}}
{%- set turns = messages[1:] -%}
{%- else -%}
{{- @system@ + @system_end@ -}}
{%- endif -%}
{%- set state = namespace(image=false) -%}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('roles must alternate user, assistant, user, ...') -}}
{%- endif -%}
{%- set text = flat(message['content']) -%}
{%- if message['role'] == 'user' -%}
{%- if '<ImageHere>' in text -%}{%- set state.image = true -%}{%- endif -%}
{{- @user@ + text + (@image_suffix@ if state.image else '') + @user_end@ -}}
{%- else -%}
{{- @assistant@ + text + @assistant_end@ -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and turns | length % 2 == 1 -%}{{- @assistant@ -}}{%- endif -%}
"""

_INST_MARKERS = ("[INST]", "[/INST]")


def _human(name: str, description: str, system: str = "", user_end: str = "###") -> Template:
    """The family of ``###Human: ...###Assistant: ...`` templates."""
    return Template(
        name,
        description,
        system=system,
        system_end="###",
        user="Human: ",
        user_end=user_end,
        assistant="Assistant: ",
        assistant_end="###",
        stop=("###",),
        accepts_system=True,
    )


_ALL = (
    _human("vicuna", "stages 1-3, the original's demo.py (CONV_VISION_Vicuna0 and LLama2, which are equal)", _SYSTEM),
    _human("minigptv2", "the original's evaluation scripts (CONV_VISION_minigptv2)"),
    Template(
        "inst",
        "stage 4, the original's demo_v2.py",
        user="<s>[INST] ",
        assistant=" [/INST]",
        stop=("###",),
        markers=("<s>", "</s>", *_INST_MARKERS),
    ),
    _human("train-stage3", "training of stages 2-3 (prompt_template): a space before ###Assistant", user_end=" ###"),
    Template(
        "train-stage4",
        "training of stage 4: '[INST] {} [/INST]' around an instruction that ends in a space if it has a picture",
        user="[INST] ",
        assistant=" [/INST]",
        assistant_end="###",
        image_suffix=" ",
        stop=("###",),
        markers=_INST_MARKERS,
    ),
    Template(
        "phi",
        "stock Phi-2, text only: the question-and-answer form of its model card",
        user="Instruct: ",
        user_end="\n",
        assistant="Output:",
        assistant_end="\n",
        stop=("\nInstruct:",),
        markers=("Instruct:", "Output:"),
    ),
    Template("raw", "the prompt to the letter: no tags, no stop strings, nothing refused", verbatim=True),
)

TEMPLATES = MappingProxyType({template.name: template for template in _ALL})
"""Every named template: vicuna, minigptv2, inst, train-stage3, train-stage4, phi, raw."""

STAGE_TEMPLATES = MappingProxyType({1: "vicuna", 2: "vicuna", 3: "vicuna", 4: "inst"})
"""What the original's own demo uses for a checkpoint of this stage: the default at conversion."""


def get_template(template: str | Template) -> Template:
    """``template`` itself, or the named one. Raises ``PromptError`` listing the names."""
    if isinstance(template, Template):
        return template
    if not isinstance(template, str) or template not in TEMPLATES:
        raise PromptError(f"template is {template!r}, expected a Template or one of {_names(TEMPLATES)}")
    return TEMPLATES[template]


def _names(items: Iterable[str]) -> str:
    return ", ".join(repr(item) for item in items)
