"""Ask a model about a picture: an answer, choices, boxes, a conversation.

Run: python examples/quickstart.py [PICTURE [MODEL]]; without arguments a picture is drawn and the shipped demo asked.
"""

from __future__ import annotations

import sys

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange


def main(arguments: list[str]) -> None:
    picture = arguments[0] if arguments else draw(arrange("red circle left of blue star", 5), 384)
    with tgv.TinyGPTV.from_pretrained(arguments[1] if len(arguments) > 1 else "demo") as model:
        # One question. The answer knows how probable it was and how long each part took.
        answer = model.generate(picture, "How many shapes are there?", task="vqa")
        print(f"{answer.text}  (probability {answer.probability:.2f}, {answer.timings.total:.0f} ms)")

        # The picture is encoded once and asked many times; the state can be saved, and needs no vision tower.
        state = model.encode_image(picture)
        for best in model.rank(state, "[vqa] What colour is the circle?", ["red", "green", "blue"]):
            print(f"  {best.text}: {best.probability:.3f}")

        # Where things are, in pixels of the picture.
        for box in model.refer(state, "the red circle"):
            print(f"  {box.label}: {[round(v) for v in box.xyxy]}, probability {box.probability:.2f}")

        # A conversation remembers what was said, and drops whole old turns when the context is full.
        chat = model.chat(state, max_new_tokens=32)
        print(chat.ask("What colour is the star?", task="vqa").text)
        print(chat.ask("Is there a triangle?", task="vqa").text)


if __name__ == "__main__":
    main(sys.argv[1:])
