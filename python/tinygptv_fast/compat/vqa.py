"""The original's two VQA scorers, its answer clean-up and its VizWiz score, bugs included.

The original carries two scorers that disagree. ``vqaEval`` (VQA/PythonEvaluationTools, the one its eval_vqa.py uses,
and our default) normalises answers only if the ground truths differ from each other. ``vqa_eval`` (common/vqa_tools)
always normalises the prediction but only the punctuation of the ground truths, so that "two" against ten times "two"
scores 0.
Text normalisation and accuracy follow the public VQA evaluation (Antol et al. 2015), typing slips included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from ..errors import InvalidArgumentError

Scorer = Literal["vqaEval", "vqa_eval"]

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_ARTICLES = ("a", "an", "the")
# Meant as "a period that follows no digit": the slip (?!<=\d) for (?<!\d) makes it "that no digit follows".
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_REMOVED = 32  # the value of re.UNICODE, which the original passes where the count belongs
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
_CONTRACTIONS = dict(
    pair.split("=")
    for pair in """
    aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've
    couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've hadn'tve=hadn't've
    hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's howd=how'd howll=how'll hows=how's
    Id've=I'd've I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd itd've=it'd've it'dve=it'd've itll=it'll
    let's=let's maam=ma'am mightnt=mightn't mightnt've=mightn't've mightn'tve=mightn't've mightve=might've
    mustnt=mustn't mustve=must've neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at
    'ows'at='ow's'at 'ow'sat='ow's'at shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've
    shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd
    somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's
    someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll someones=someone's
    somethingd=something'd somethingd've=something'd've something'dve=something'd've somethingll=something'll
    thats=that's thered=there'd thered've=there'd've there'dve=there'd've therere=there're theres=there's
    theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll theyre=they're theyve=they've twas='twas
    wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've werent=weren't whatll=what'll whatre=what're whats=what's
    whatve=what've whens=when's whered=where'd wheres=where's whereve=where've whod=who'd whod've=who'd've
    who'dve=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't
    wouldve=would've wouldnt=wouldn't wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll
    y'allll=y'all'll yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've
    you'dve=you'd've youll=you'll youre=you're youve=you've    """.split()
)


def strip_whitespace(text: str) -> str:
    """Newlines and tabs to spaces, then stripped."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(text: str) -> str:
    """Removes or blanks punctuation, then at most 32 periods that no digit follows.

    A mark is removed if it has a space on one side anywhere in the text, or if the text has a comma between digits
    anywhere; else every occurrence becomes a space.
    """
    comma = _COMMA_BETWEEN_DIGITS.search(text) is not None
    out = text
    for mark in _PUNCTUATION:
        remove = comma or f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if remove else " ")
    return _PERIOD.sub("", out, count=_PERIODS_REMOVED)


def process_digit_article(text: str) -> str:
    """Lower case, number words up to ten to digits, articles dropped, apostrophes of known contractions restored."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalize(text: str) -> str:
    """The full normalisation (white space, punctuation, digits, articles), equal in both of the original's scorers."""
    return process_digit_article(process_punctuation(strip_whitespace(text)))


def vqa_accuracy(answer: str, ground_truths: Sequence[str], scorer: Scorer = "vqaEval") -> float:
    """Accuracy of one answer in percent, to two decimals: the mean over the annotators of min(1, matches among the
    others / 3)."""
    return round(100 * vqa_score(answer, ground_truths, scorer), 2)


def vqa_score(answer: str, ground_truths: Sequence[str], scorer: Scorer = "vqaEval") -> float:
    """Accuracy of one answer, 0..1 and not rounded: what the mean over a data set is made of."""
    if not ground_truths:
        raise InvalidArgumentError("ground_truths is empty, expected at least one answer")
    if scorer == "vqaEval":
        answer, truths = _prepare_vqaeval(answer, ground_truths)
    elif scorer == "vqa_eval":
        answer, truths = _prepare_vqa_eval(answer, ground_truths)
    else:
        raise InvalidArgumentError(f"scorer is {scorer!r}, expected 'vqaEval' or 'vqa_eval'")
    matches = [truth == answer for truth in truths]
    # each annotator's own answer is left out of its count
    return sum(min(1, (sum(matches) - own) / 3) for own in matches) / len(truths)


def overall_accuracy(rows: Sequence[tuple[str, Sequence[str]]], scorer: Scorer = "vqaEval") -> float:
    """Mean accuracy of (answer, ground truths) rows in percent, to two decimals."""
    if not rows:
        raise InvalidArgumentError("rows is empty, expected at least one (answer, ground truths)")
    return round(100 * sum(vqa_score(answer, truths, scorer) for answer, truths in rows) / len(rows), 2)


def postprocess_okvqa(raw: str) -> str:
    """The OK-VQA branch: lower-cases first, so that its split at 'Assistant:' never happens."""
    return raw.lower().replace("<unk>", "").strip().split("###")[0].split("Assistant:")[-1].strip()


def postprocess_vizwiz(raw: str) -> str:
    """The VizWiz branch and Chat.answer: up to '###', then what follows the last 'Assistant:'."""
    return raw.split("###")[0].split("Assistant:")[-1].strip()


postprocess_chat = postprocess_vizwiz


def vizwiz_accuracy(answer: str, ground_truths: Sequence[str]) -> float:
    """0..1: a third for each ground truth that contains, or is contained in, the answer, case ignored. An empty answer
    is contained in everything and scores 1 (original behaviour)."""
    answer = answer.lower()
    return min(sum(truth.lower() in answer or answer in truth.lower() for truth in ground_truths) / 3.0, 1.0)


def _prepare_vqaeval(answer: str, ground_truths: Sequence[str]) -> tuple[str, list[str]]:
    answer, truths = strip_whitespace(answer), [strip_whitespace(truth) for truth in ground_truths]
    if len(set(truths)) > 1:
        answer, truths = normalize(answer), [normalize(truth) for truth in truths]
    return answer.lower(), [truth.lower() for truth in truths]


def _prepare_vqa_eval(answer: str, ground_truths: Sequence[str]) -> tuple[str, list[str]]:
    truths = list(ground_truths)
    if len(set(truths)) > 1:
        truths = [process_punctuation(truth) for truth in truths]
    return normalize(answer), truths
