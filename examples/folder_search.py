"""Search a folder of pictures by a description or a question; every picture is seen once, ever.

What the vision side makes of a picture (an ``ImageState``) is kept in a folder under the sha256 of the file and of the
model. A search loads the language model alone (``vision=False``) and scores the pictures together:

* a description: how probable it is as a caption of each picture (mean log-probability of its tokens);
* ``--question``, one that is answered by yes or no: the probability of yes among the two.

Run: python examples/folder_search.py FOLDER "a red circle" [--question] [--cache DIR] [--top 5] [--model DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path

import tinygptv_fast as tgv
from tinygptv_fast.errors import CheckpointError
from tinygptv_fast.processing.prompt import default_question

SUFFIXES = {".png", ".jpg", ".jpeg"}


def kept_as(picture: Path, model_id: str, cache: Path) -> Path:
    """Where the state of ``picture`` is kept: the same content under another name is found too."""
    content = hashlib.sha256(picture.read_bytes())
    content.update(model_id.encode())
    return cache / f"{content.hexdigest()}.tgvi"


def load_state(path: Path) -> tgv.ImageState | None:
    """The kept state; None if there is none, or its file is damaged (its hash says so)."""
    try:
        return tgv.ImageState.load(path) if path.exists() else None
    except CheckpointError as error:
        print(f"seen again: {error}")
        return None


def see(pictures: list[Path], model_id: str, cache: Path, directory: str) -> dict[Path, tgv.ImageState]:
    """The state of every picture. The vision tower is loaded only if one is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    places = {picture: kept_as(picture, model_id, cache) for picture in pictures}
    found = {picture: load_state(place) for picture, place in places.items()}
    missing = [picture for picture, state in found.items() if state is None]
    if missing:
        with tgv.TinyGPTV.from_pretrained(directory) as model:
            for picture in missing:
                state = found[picture] = model.encode_image(picture)
                state.save(places[picture], dtype="int8")  # a quarter of the size
    print(f"{len(pictures)} pictures: {len(missing)} seen now, {len(pictures) - len(missing)} kept from before")
    return {picture: state for picture, state in found.items() if state is not None}


def scores(model: tgv.TinyGPTV, states: list[tgv.ImageState], text: str, question: bool) -> list[float]:
    """How well ``text`` fits each picture, 0..1."""
    asked = {"prompt": f"[vqa] {text}", "choices": ["yes", "no"]} if question else {
        "prompt": default_question("caption"), "choices": [text],
    }  # fmt: skip
    answers = model.generate_batch([{"image": state, **asked} for state in states])
    return [_yes(answer) if question else _mean(answer) for answer in answers if isinstance(answer, tgv.Answer)]


def _yes(answer: tgv.Answer) -> float:
    both = {one.text: one.probability for one in (answer, *answer.alternatives)}
    return both["yes"] / sum(both.values())


def _mean(answer: tgv.Answer) -> float:
    return math.exp(sum(answer.logprobs) / len(answer.logprobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="pictures: .png, .jpg, .jpeg")
    parser.add_argument("text", help="what to look for")
    parser.add_argument("--question", action="store_true", help="the text is a question answered by yes or no")
    parser.add_argument("--cache", type=Path, help="where states are kept (default: FOLDER/.tinygptv)")
    parser.add_argument("--top", type=int, default=5, help="how many to show (default: 5)")
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    arguments = parser.parse_args()
    pictures = sorted(path for path in arguments.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not pictures:
        parser.error(f"{arguments.folder} has no pictures, expected files that end in {', '.join(sorted(SUFFIXES))}")
    with tgv.TinyGPTV.from_pretrained(arguments.model, vision=False) as model:
        cache = arguments.cache or arguments.folder / ".tinygptv"
        states = see(pictures, model.info["model_id"], cache, arguments.model)
        found = scores(model, list(states.values()), arguments.text, arguments.question)
    ranked = sorted(zip(found, states, strict=True), reverse=True)
    for score, picture in ranked[: arguments.top]:
        print(f"{score:.4f}  {picture.name}")


if __name__ == "__main__":
    main()
