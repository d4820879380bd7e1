"""More ways of asking than ``wordings`` lists, for training alone: a small model learns nine sentences a kind by heart
and takes a tenth for a question about something it does not know.

A question is put as a clause behind an opening ("I want to know what colour the star is."), in another order, behind
or before a few words that say nothing, and with small words left out, added or exchanged, also for words that do not
exist. Nothing here is worded as ``wordings.HELD_OUT``, and no word that stands only there is used here.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import numpy as np

from ..question import Question
from ..randomness import pick
from .made_up import made_up_word
from .wordings import TRAIN

OPENINGS = (
    "Tell me", "Can you tell me", "I want to know", "I would like to know", "Do you know", "Let me know", "Can you see",
    "Look whether you can tell me", "I wonder", "Answer me", "Show me", "Will you tell me", "Look and tell me",
    "Help me see", "I cannot see", "My question is", "Look at the picture and tell me", "Do you see", "Please",
)  # fmt: skip

#: What may stand behind an opening.
CLAUSES: dict[str, tuple[str, ...]] = {
    "colour": (
        "what colour the {thing} is",
        "which colour the {thing} does have",
        "the colour of the {thing}",
        "what color the {thing} is",
    ),
    "shape": (
        "what shape the {look} thing is",
        "what the {look} thing is",
        "which shape is {look}",
        "the shape of the {look} thing",
    ),
    "size": (
        "how large the {thing} is",
        "what size the {thing} is",
        "how big the {thing} is",
        "the size of the {thing}",
    ),
    "texture": (
        "how the {thing} is filled",
        "what texture is on the {thing}",
        "which pattern is on the {thing}",
        "the texture of the {thing}",
        "whether the {thing} is plain, striped or dotted",
    ),
    "count": ("how many {things} there are", "the number of {things}", "how many {things} you see"),
    "exist": (
        "whether the picture shows {a_thing}",
        "whether there is {a_thing}",
        "whether you see {a_thing}",
        "whether {a_thing} is in the picture",
    ),
    "larger": ("which is larger, the {one} or the {other}", "which is bigger, the {one} or the {other}"),
    "more": ("which are more, {one} or {other}", "what there is more of, {one} or {other}"),
    "relation": ("whether the {one} is {relation} the {other}", "whether the {one} does lie {relation} the {other}"),
    "side": (
        "on which side of the {other} the {one} is",
        "where the {one} is, seen from the {other}",
        "in which direction from the {other} the {one} is",
    ),
    "position": (
        "where the {thing} is",
        "in which part of the picture the {thing} is",
        "in which corner the {thing} is",
    ),
    "word": ("what the {text} says", "what the {text} is", "which {text} you see", "the {text}"),
    "number": ("what the {text} says", "what the {text} is", "which {text} you see", "the {text}"),
    "statement": ("whether it is true that {clause}", "whether {clause}", "whether you agree that {clause}"),
    "unknown": ("what the {thing} is", "about the {thing}", "whether you see {a_thing}", "who made the {thing}"),
    "nothing": ("what you see", "what is drawn here", "which shapes are here"),
    "then_colour": ("what colour it is", "its colour"),
    "then_size": ("how large it is", "its size"),
    "then_texture": ("how it is filled", "its texture"),
    "then_position": ("where it is", "in which part of the picture it is"),
}

#: Whole questions besides.
MORE: dict[str, tuple[str, ...]] = {
    "colour": ("What colour do you see on the {thing}?", "The {thing}, what colour is it?", "colour of the {thing}?"),
    "shape": ("The {look} thing, what shape is it?", "Which of the shapes is {look}?", "shape of the {look} thing?"),
    "size": ("The {thing}, how large is it?", "size of the {thing}?", "What is the {thing} in size?"),
    "texture": ("The {thing}, how is it filled?", "texture of the {thing}?", "What filling does the {thing} have?"),
    "count": (
        "{things}, how many?",
        "number of {things}?",
        "What is the count of {things}?",
        "Are there {things}, and how many?",
    ),
    "exist": (
        "Does one see {a_thing}?",
        "Is {a_thing} among the things you see?",
        "There is {a_thing}, right?",
        "Is {a_thing} there?",
    ),
    "larger": ("The {one} or the {other}, which is larger?", "Is the {one} larger or the {other}?"),
    "more": ("{one} or {other}, which are more?", "More {one} or more {other}?"),
    "relation": ("The {one} is {relation} the {other}, right?", "Do we see the {one} {relation} the {other}?"),
    "side": (
        "Seen from the {other}, where is the {one}?",
        "Where does the {one} lie, seen from the {other}?",
        "Relative to the {other}, where is the {one}?",
        "On what side of the {other} does the {one} lie?",
    ),
    "position": (
        "The {thing}, where is it?",
        "position of the {thing}?",
        "In what part of the picture is the {thing}?",
        "Where does one see the {thing}?",
    ),
    "word": (
        "The {text}, what is it?",
        "The {text} says what?",
        "Read the {text} aloud.",
        "What can one read in the {text}?",
    ),
    "number": (
        "The {text}, what is it?",
        "The {text} is which?",
        "Read the {text} aloud.",
        "What can one read in the {text}?",
    ),
    "statement": (
        "True or not: {clause}?",
        "{statement} Right?",
        "{statement} Is this correct?",
        "Do you agree that {clause}?",
        "Right or wrong: {clause}.",
        "{statement} True?",
    ),
    "caption": (
        "Describe the image.",
        "Caption this image.",
        "describe it in short",
        "What is here?",
        "A caption, please.",
    ),
    "refer": (
        "show the {thing}",
        "the {thing}, where is it ?",
        "locate the {thing}",
        "location of the {thing} ?",
        "find me the {thing} in the image",
    ),
    "identify": (
        "what is in {box} ?",
        "{box}, what is it ?",
        "tell me what is in {box}",
        "which object is at {box}",
        "what thing is at {box} ?",
    ),
    "grounding": (
        "describe the image and tell me where things are",
        "tell me everything and where it is",
        "all objects with their locations",
        "which objects are where ?",
        "what do you see and where ?",
    ),
    "detection": (
        "locate all {things}",
        "look for every {thing}",
        "find the {things}",
        "each {thing}",
        "where is every {thing} ?",
        "mark all {things}",
    ),
    "unknown": (
        "What colour does the {thing} have?",
        "Where would the {thing} be?",
        "What about the {thing}?",
        "Whose {thing} is it?",
        "How heavy is the {thing}?",
        "When is the {thing} made?",
        "Does the {thing} move?",
        "Do you like the {thing}?",
    ),
    "nothing": ("Are there any shapes?", "What is in here?", "Do you see any things?", "Name what you see."),
    "then_colour": ("What is its colour?", "Its colour?", "In which colour is it?", "And the colour?"),
    "then_size": ("What is its size?", "Its size?", "How big is it?"),
    "then_texture": ("What is its texture?", "Its texture?", "Which pattern does it have?"),
    "then_position": ("In which part of the picture is it?", "And its position?", "Which corner is it in?"),
    "then_refer": ("find it", "show it", "its location ?"),
}  # fmt: skip

BEFORE = (
    "Now,", "Look:", "Well,", "Hello!", "So,", "In this picture:", "Another question.", "Next:", "Looking closely:",
    "Quick:", "Look again.", "I cannot see it.", "Think first.", "One more:", "Good.", "Hey,", "In the picture,",
)  # fmt: skip
BEHIND = ("please", "in this picture", "in the image", "Thanks.", "here", "Answer shortly.", "now", "as you see it")

#: Words of everyday talk that may slip in anywhere.
EVERYDAY = tuple(
    """
    again almost also always ask back because before begin bring but came carry change close come done draw easy
    end enough even ever example feel follow full get go good great grow hear help hope into just keep late learn leave
    let like live love make maybe mean might must need never new next now often old once only open our own people play
    put quick quite rather really rest run same seem set simple since some soon start still such sure take talk than
    then these think though time together too try turn until use very want wait week well went were while will wish
    with without work world year yet you young
    """.split()
)
#: What may be left out or exchanged; everything else may carry the sense.
_SMALL = frozenset(
    """
    the a an is are does do you in this that picture image me tell have can see what which there here it name please
    drawn shown show give on at would i know want let like my
    """.split()
)
_PLAIN, _COMPOSED = 0.4, 0.35  # of questions: left as they are; put as a clause or another whole
_FRAMED, _NOISY = 0.25, 0.4  # of those that are not left as they are
_DROP, _SWAP, _INSERT = 0.10, 0.10, 0.05  # of a noisy question's small words
_INVENTED = 0.4  # of the words that slip in
_SLOT = re.compile(r"\{(\w+)\}")


def reworded(rng: np.random.Generator, question: Question) -> Question:
    """``question`` put in another way, or as it is (``_PLAIN`` of them). Its answer stays right, and so do its history
    and its kind; ``wording`` is "" where no table has the new one."""
    if rng.random() < _PLAIN or not question.wording:
        return question
    template, slots = question.wording, slots_of(question)
    if rng.random() < _COMPOSED / (1 - _PLAIN):
        template = _composed(rng, template, slots)
    if rng.random() < _FRAMED:
        template = f"{pick(rng, BEFORE)} {template}" if rng.random() < 0.6 else f"{template} {pick(rng, BEHIND)}"
    if rng.random() < _NOISY:
        template = _noisy(rng, template)
    if template == question.wording:
        return question
    return replace(question, prompt=template.format(**slots), wording="")


def slots_of(question: Question) -> dict[str, str]:
    """What fills the slots of the question's wording; of a statement both its forms."""
    pattern = _pattern(question.wording)
    found = pattern.fullmatch(question.prompt)
    assert found is not None, question
    slots = found.groupdict()
    if "statement" in slots:
        slots["clause"] = slots["statement"][0].lower() + slots["statement"][1:-1]
    elif "clause" in slots:
        slots["statement"] = slots["clause"][0].upper() + slots["clause"][1:] + "."
    return slots


@functools.cache
def _pattern(wording: str) -> re.Pattern[str]:
    parts = _SLOT.split(wording)
    return re.compile("".join(f"(?P<{p}>.+?)" if i % 2 else re.escape(p) for i, p in enumerate(parts)))


@functools.cache
def ways_for(wording: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(clauses, whole questions) of every family that has this training wording."""
    families = [family for family, ways in TRAIN.items() if wording in ways]
    return (
        tuple(c for family in families for c in CLAUSES.get(family, ())),
        tuple(w for family in families for w in MORE[family]),
    )


def _composed(rng: np.random.Generator, wording: str, slots: dict[str, str]) -> str:
    def fits(template: str) -> bool:
        return set(_SLOT.findall(template)) <= slots.keys()

    clauses, wholes = ([t for t in some if fits(t)] for some in ways_for(wording))
    if clauses and (not wholes or rng.random() < 0.6):
        return f"{pick(rng, OPENINGS)} {pick(rng, clauses)}{pick(rng, '.?')}"
    return pick(rng, wholes) if wholes else wording


def _noisy(rng: np.random.Generator, template: str) -> str:
    out: list[str] = []
    for word in template.split(" "):
        small, lot = word.rstrip(".,:?!").lower() in _SMALL, rng.random()
        if small and lot < _DROP:
            continue
        out.append(_filler(rng) if small and lot < _DROP + _SWAP else word)
        if rng.random() < _INSERT:
            out.append(_filler(rng))
    return " ".join(out) or template


def _filler(rng: np.random.Generator) -> str:
    return made_up_word(rng) if rng.random() < _INVENTED else pick(rng, EVERYDAY)
